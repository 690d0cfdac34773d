package redtasktest

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask"
	"github.com/redtask/redtask/internal/redistest"
)

var realRedis *redistest.Server

func TestMain(m *testing.M) { redistest.Main(m, &realRedis) }

// onBoth runs a test on miniredis and on real Redis.
func onBoth(t *testing.T, test func(t *testing.T, url string)) {
	t.Helper()
	t.Parallel()
	t.Run("miniredis", func(t *testing.T) {
		t.Parallel()
		test(t, Miniredis)
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		test(t, realURL(t))
	})
}

func realURL(t testing.TB) string {
	t.Helper()
	redistest.Binary(t)
	return "redis://" + realRedis.Addr
}

// on makes a harness that waits long enough for a busy machine.
func on(t testing.TB, url string, registry *redtask.Registry, runner redtask.RunnerOptions) *Harness {
	t.Helper()
	return NewWith(t, registry, Options{RedisURL: url, Runner: runner, Timeout: 30 * time.Second})
}

func idle(t testing.TB, url string) *Harness {
	t.Helper()
	return NewWith(t, nil, Options{RedisURL: url, Idle: true, Timeout: 30 * time.Second})
}

// fakeT is a test that may fail without failing the real one.
type fakeT struct {
	testing.TB
	deadline time.Time

	mu       sync.Mutex
	failed   bool
	stopped  bool // by Fatalf
	text     strings.Builder
	cleanups []func()
}

// attempt runs a test to its end, cleanups included, as package testing does.
func attempt(t *testing.T, deadline time.Time, test func(t testing.TB)) *fakeT {
	t.Helper()
	fake := &fakeT{TB: t, deadline: deadline}
	inGoroutine(func() { test(fake) })
	for _, cleanup := range slices.Backward(fake.cleanups) {
		inGoroutine(cleanup)
	}
	return fake
}

// inGoroutine outlives a Goexit of f, which is how Fatalf ends a test.
func inGoroutine(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
}

// fails requires that a test fails with a message that holds all of these, and returns the message.
func fails(t *testing.T, test func(t testing.TB), texts ...string) string {
	t.Helper()
	fake := attempt(t, time.Time{}, test)
	require.True(t, fake.failed, "the test should have failed")
	for _, text := range texts {
		require.Contains(t, fake.text.String(), text)
	}
	return fake.text.String()
}

func (f *fakeT) write(fail, stop bool, text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failed = f.failed || fail
	f.stopped = f.stopped || stop
	f.text.WriteString(text + "\n")
}

func (f *fakeT) Helper()                         {}
func (f *fakeT) Log(args ...any)                 { f.write(false, false, fmt.Sprint(args...)) }
func (f *fakeT) Logf(format string, args ...any) { f.write(false, false, fmt.Sprintf(format, args...)) }
func (f *fakeT) Errorf(format string, args ...any) {
	f.write(true, false, fmt.Sprintf(format, args...))
}

func (f *fakeT) Fatalf(format string, args ...any) {
	f.write(true, true, fmt.Sprintf(format, args...))
	runtime.Goexit()
}

func (f *fakeT) Failed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

func (f *fakeT) Cleanup(cleanup func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cleanups = append(f.cleanups, cleanup)
}

func (f *fakeT) Deadline() (time.Time, bool) { return f.deadline, !f.deadline.IsZero() }

// tasks of these tests

type person struct{ Name string }

func greet(ctx context.Context, p person) (string, error) {
	if err := redtask.FromContext(ctx).Emit("greeting", p.Name); err != nil {
		return "", err
	}
	return "hello " + p.Name, nil
}

// block emits `tick` and runs until it is told to stop.
func block(ctx context.Context, n int) error {
	if err := redtask.FromContext(ctx).Emit("tick", n); err != nil {
		return err
	}
	redtask.FromContext(ctx).Logger().Info("blocking")
	<-ctx.Done()
	return ctx.Err()
}

func registryOf(tasks map[string]redtask.Factory) *redtask.Registry {
	registry := redtask.NewRegistry()
	for name, factory := range tasks {
		registry.Register(name, factory)
	}
	return registry
}

func start(t testing.TB, client *redtask.Client, task string, data any) string {
	t.Helper()
	id, err := client.Start(t.Context(), task, data)
	require.NoError(t, err)
	return id
}
