package redtask

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

// The master dies, the replica takes over: what runs goes on under its lease, and what is started then is run.
func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	sentinel, master := redistest.Sentinel(t)
	rdb := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: redistest.SentinelName, SentinelAddrs: []string{sentinel}})
	t.Cleanup(func() { _ = rdb.Close() })
	e := &env{rdb: rdb, prefix: "t" + newID(), log: &logBuffer{}}
	running, end := make(chan struct{}, 10), make(chan struct{})
	registry := NewRegistry()
	registry.Register("test/long", FuncOut(func(ctx context.Context, _ any) (string, error) {
		running <- struct{}{}
		select {
		case <-end:
			return "went on", nil
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}))
	registry.Register("test/short", FuncOut(func(context.Context, any) (string, error) { return "short", nil }))
	e.runner(t, registry, func(o *RunnerOptions) { o.Lease = 2 * time.Minute })
	client := e.client(t)
	long := start(t, client, "test/long", nil)
	receive(t, "run", running)
	replicate(t, rdb)
	master.Kill()

	var short string
	eventually(t, "a start on the new master", func() bool {
		var err error
		short, err = client.Start(testContext(t), "test/short", nil)
		return err == nil
	})
	require.Equal(t, `"short"`, string(wait(t, client, short).Output))
	close(end)
	record := wait(t, client, long)
	require.Equal(t, StateEnded, record.State)
	require.Equal(t, `"went on"`, string(record.Output))
	require.Equal(t, 1, record.Attempt)
	require.Empty(t, running, "it ran once")
}

// replicate returns when the replica has all that was written so far: WAIT counts from the last write of its own connection.
func replicate(t *testing.T, rdb *redis.Client) {
	t.Helper()
	conn := rdb.Conn()
	defer func() { _ = conn.Close() }()
	require.NoError(t, conn.Set(t.Context(), "last", 1, 0).Err())
	replicas, err := conn.Wait(t.Context(), 1, 10*time.Second).Result()
	require.NoError(t, err)
	require.EqualValues(t, 1, replicas)
}
