package builtin_test

import (
	"context"
	"io"
	"log/slog"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask"
	"github.com/redtask/redtask/internal/redistest"
	"github.com/redtask/redtask/internal/store"
)

var (
	realRedis *redistest.Server
	prefixes  atomic.Int64
)

func TestMain(m *testing.M) { redistest.Main(m, &realRedis) }

// env is one server, with a prefix of its own.
type env struct {
	batch  int64 // number of the last batch of a runner that dies
	rdb    *redis.Client
	prefix string
	client *redtask.Client
	queue  *store.Queue
	mini   *miniredis.Miniredis // nil on real Redis
}

func onBoth(t *testing.T, test func(t *testing.T, e *env)) {
	t.Helper()
	t.Parallel()
	t.Run("miniredis", func(t *testing.T) {
		t.Parallel()
		test(t, newMini(t))
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		redistest.Binary(t)
		test(t, newEnv(t, realRedis.Addr))
	})
}

func newMini(t *testing.T) *env {
	t.Helper()
	mini := miniredis.RunT(t)
	e := newEnv(t, mini.Addr())
	e.mini = mini
	return e
}

func newEnv(t *testing.T, addr string) *env {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: addr})
	t.Cleanup(func() { _ = rdb.Close() })
	prefix := "b" + strconv.FormatInt(prefixes.Add(1), 10)
	client, err := redtask.NewClient(rdb, redtask.ClientOptions{Prefix: prefix})
	require.NoError(t, err)
	return &env{rdb: rdb, prefix: prefix, client: client, queue: store.New(rdb, prefix).Queue("default")}
}

func (e *env) key(rest string) string { return e.prefix + ":{default}:" + rest }

// runner starts a runner with these local tasks, which is shut down when the test ends.
func (e *env) runner(t *testing.T, registry *redtask.Registry, locals ...redtask.Local) *redtask.Runner {
	t.Helper()
	runner, err := redtask.NewRunner(e.rdb, registry, redtask.RunnerOptions{
		Prefix: e.prefix, Locals: append([]redtask.Local{}, locals...), Grace: redtask.NoGrace, Logger: quiet,
		Queues: map[string]int{"default": 1},
		Lease:  1500 * time.Millisecond, RenewInterval: 200 * time.Millisecond, SafetyMargin: 300 * time.Millisecond,
	})
	require.NoError(t, err)
	require.NoError(t, runner.Start(t.Context()))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		require.NoError(t, runner.Shutdown(ctx))
	})
	return runner
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func (e *env) start(t *testing.T, task string, options redtask.StartOptions) string {
	t.Helper()
	id, err := e.client.StartWith(deadline(t), task, nil, options)
	require.NoError(t, err)
	return id
}

func (e *env) wait(t *testing.T, id string) *redtask.Record {
	t.Helper()
	record, err := e.client.Wait(deadline(t), id)
	require.NoError(t, err)
	return record
}

// has reports whether the record is still there.
func (e *env) has(t *testing.T, id string) bool {
	t.Helper()
	n, err := e.rdb.Exists(t.Context(), e.key("task:"+id)).Result()
	require.NoError(t, err)
	return n == 1
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, 30*time.Second, 5*time.Millisecond, what)
}
