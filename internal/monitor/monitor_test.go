package monitor

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
	"github.com/redtask/redtask/internal/store"
)

var realRedis *redistest.Server

func TestMain(m *testing.M) { redistest.Main(m, &realRedis) }

func onBoth(t *testing.T, test func(t *testing.T, rdb *redis.Client)) {
	t.Helper()
	t.Parallel()
	run := func(t *testing.T, addr string) {
		t.Parallel()
		rdb := redis.NewClient(&redis.Options{Addr: addr})
		t.Cleanup(func() { _ = rdb.Close() })
		test(t, rdb)
	}
	t.Run("miniredis", func(t *testing.T) { run(t, miniredis.RunT(t).Addr()) })
	t.Run("redis", func(t *testing.T) {
		redistest.Binary(t)
		run(t, realRedis.Addr)
	})
}

// A task that a takeover delayed is in line at the interval after it is due: no runner need know of it.
func TestDueTasksGoInLine(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		queue := store.New(rdb, "m").Queue("q")
		const due = 2 * store.MaxBatch
		for n := range due + 1 {
			id, at := strconv.Itoa(n), float64(n)
			if n == due {
				at = float64(time.Now().Add(time.Hour).UnixMilli())
			}
			require.NoError(t, rdb.HSet(ctx, "m:{q}:task:"+id, "task", "test/a", "state", "SCHEDULED").Err())
			require.NoError(t, rdb.ZAdd(ctx, "m:{q}:scheduled", redis.Z{Score: at, Member: id}).Err())
		}
		task := New(Options{})
		require.NoError(t, task.Init(store.WithRunner(ctx, &store.Bound{Queue: queue, Runner: "r"}), nil))
		require.NoError(t, task.watch(ctx))
		require.EqualValues(t, due, rdb.LLen(ctx, "m:{q}:wait").Val())
		require.EqualValues(t, 1, rdb.ZCard(ctx, "m:{q}:scheduled").Val(), "what is not due yet stays")
		require.NoError(t, task.watch(ctx))
		require.EqualValues(t, due, rdb.LLen(ctx, "m:{q}:wait").Val())
	})
}
