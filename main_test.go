package redtask

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

var realRedis *redistest.Server

func TestMain(m *testing.M) {
	if os.Getenv(workerRedis) != "" {
		workerProcess()
		return
	}
	redistest.Main(m, &realRedis)
}

// env is one server to test on, with a prefix of its own.
type env struct {
	rdb    *redis.Client
	prefix string
	mini   *miniredis.Miniredis // nil on real Redis
	log    *logBuffer
}

// onBoth runs a test on miniredis and on real Redis.
func onBoth(t *testing.T, test func(t *testing.T, e *env)) {
	t.Helper()
	t.Parallel()
	t.Run("miniredis", func(t *testing.T) {
		t.Parallel()
		mini := miniredis.RunT(t)
		test(t, newEnv(t, mini.Addr(), mini))
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		test(t, onRedis(t))
	})
}

func onRedis(t testing.TB) *env {
	t.Helper()
	redistest.Binary(t)
	return newEnv(t, realRedis.Addr, nil)
}

func newEnv(t testing.TB, addr string, mini *miniredis.Miniredis) *env {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: addr})
	e := &env{rdb: rdb, prefix: "t" + newID(), mini: mini, log: &logBuffer{}}
	t.Cleanup(func() {
		_ = rdb.Close()
		if t.Failed() {
			t.Log("log of the runners:\n" + e.log.String())
		}
	})
	return e
}

func (e *env) key(rest string) string { return e.prefix + ":{default}:" + rest }

func (e *env) client(t testing.TB) *Client {
	t.Helper()
	client, err := NewClient(e.rdb, ClientOptions{Prefix: e.prefix})
	require.NoError(t, err)
	return client
}

func (e *env) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(e.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// runner starts a runner that is shut down when the test ends; change, which may be nil, adapts the options.
func (e *env) runner(t testing.TB, registry *Registry, change func(*RunnerOptions)) *Runner {
	t.Helper()
	options := RunnerOptions{Prefix: e.prefix, Logger: e.logger(), Grace: NoGrace, Queues: map[string]int{"default": 10}}
	if change != nil {
		change(&options)
	}
	listening := make(chan string, 1000)
	options.hooks.listening = func(queue string) { listening <- queue }
	runner, err := NewRunner(e.rdb, registry, options)
	require.NoError(t, err)
	require.NoError(t, runner.Start(t.Context()))
	if e.rdb.Ping(t.Context()).Err() == nil { // what is said while a runner begins to listen it may hear twice
		for range runner.engines {
			receive(t, "the runner listens", listening)
		}
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		require.NoError(t, runner.Shutdown(ctx))
	})
	return runner
}

// fastLease makes dead runners known within a second; the margins stay wide enough for a busy machine.
func fastLease(o *RunnerOptions) {
	o.Lease, o.RenewInterval, o.SafetyMargin = 1500*time.Millisecond, 300*time.Millisecond, 500*time.Millisecond
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// start starts a task and returns its ID.
func start(t testing.TB, client *Client, task string, data any) string {
	t.Helper()
	id, err := client.Start(testContext(t), task, data)
	require.NoError(t, err)
	return id
}

func wait(t testing.TB, client *Client, id string) *Record {
	t.Helper()
	record, err := client.Wait(testContext(t), id)
	require.NoError(t, err)
	return record
}

// eventually polls with a bound; for states of Redis that no event tells.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, 30*time.Second, 5*time.Millisecond, what)
}

func receive[T any](t testing.TB, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(30 * time.Second):
		require.FailNow(t, "nothing arrived", what)
		panic("unreachable")
	}
}

// gate holds others back until it is opened, or the test is over: a test that fails must not hang on what it holds.
type gate struct {
	opened chan struct{}
	over   <-chan struct{}
}

func newGate(t testing.TB) *gate {
	return &gate{opened: make(chan struct{}), over: t.Context().Done()}
}

func (g *gate) open() { close(g.opened) }

func (g *gate) wait() {
	select {
	case <-g.opened:
	case <-g.over:
	}
}

// publish says a word on a task's control channel as soon as a runner listens there.
func (e *env) publish(t testing.TB, id, word string) {
	t.Helper()
	eventually(t, "a runner listens", func() bool { return e.rdb.Publish(t.Context(), e.key("control:"+id), word).Val() > 0 })
}

type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *logBuffer) has(text string) bool { return strings.Contains(b.String(), text) }
