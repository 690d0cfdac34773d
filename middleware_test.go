package redtask

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

type layerKey struct{}

// layer is middleware that says when a run comes and goes, and adds its name to a value of the ctx.
func layer(name string, order chan<- string) Middleware {
	return func(next Handler) Handler {
		return func(ctx context.Context, task Task) error {
			order <- name + " of " + FromContext(ctx).Task()
			defer func() { order <- name + " done" }()
			return next(context.WithValue(ctx, layerKey{}, layersOf(ctx)+name), task)
		}
	}
}

func layersOf(ctx context.Context) string {
	layers, _ := ctx.Value(layerKey{}).(string)
	return layers
}

func requireOrder(t *testing.T, order <-chan string, want ...string) {
	t.Helper()
	for _, step := range want {
		require.Equal(t, step, receive(t, step, order))
	}
	require.Empty(t, order)
}

// The runner's middleware is around the registration's, both inside ProvideContext; every method sees the values that came through.
func TestMiddleware(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		order, running := make(chan string, 100), make(chan struct{}, 1)
		see := func(ctx context.Context, method string) { order <- method + " in " + layersOf(ctx) }
		registry := NewRegistry()
		registry.RegisterWith("test/long", func() Task {
			return (&script{
				provide: func(ctx context.Context) (context.Context, func(), error) {
					order <- "provide"
					return context.WithValue(ctx, layerKey{}, "p"), func() { order <- "release" }, nil
				},
				init: func(ctx context.Context, _ json.RawMessage) error { see(ctx, "init"); return nil },
				start: func(ctx context.Context) error {
					see(ctx, "start")
					running <- struct{}{}
					<-ctx.Done()
					see(ctx, "end")
					return errSurprise
				},
				stop: func(ctx context.Context) error { see(ctx, "stop"); return errSurprise },
			}).task()
		}, TaskOptions{Middleware: []Middleware{layer("c", order)}})
		registry.Register("test/short", Func(func(ctx context.Context, _ any) error { see(ctx, "start"); return nil }))
		e.runner(t, registry, func(o *RunnerOptions) {
			o.Middleware = []Middleware{layer("a", order), layer("b", order)}
			o.OnException = []ExceptionHandler{func(ctx context.Context, _ *Run, _ error) { see(ctx, "exception") }}
		})
		client := e.client(t)
		require.Equal(t, StateEnded, wait(t, client, start(t, client, "test/short", nil)).State)
		requireOrder(t, order, "a of test/short", "b of test/short", "start in ab", "b done", "a done")

		id := start(t, client, "test/long", nil)
		receive(t, "runs", running)
		require.NoError(t, client.Stop(testContext(t), id))
		require.Equal(t, StateException, wait(t, client, id).State)
		requireOrder(t, order, "provide", "a of test/long", "b of test/long", "c of test/long", "init in pabc", "start in pabc", "stop in pabc",
			"end in pabc", "c done", "b done", "a done", "release", "exception in pabc")
	})
}

// A middleware's return is the run's: it may change the error, skip the task, recover its panic, and panic itself.
func TestMiddlewareDecides(t *testing.T) {
	around := func(handle func(next Handler, ctx context.Context, task Task) error) Middleware {
		return func(next Handler) Handler {
			return func(ctx context.Context, task Task) error { return handle(next, ctx, task) }
		}
	}
	after := func(change func(err error) error) Middleware {
		return around(func(next Handler, ctx context.Context, task Task) error { return change(next(ctx, task)) })
	}
	pass := after(func(err error) error { return err })
	skip := func(err error) Middleware {
		return around(func(Handler, context.Context, Task) error { return err })
	}
	boom := around(func(Handler, context.Context, Task) error { panic("boom of a middleware") })
	unpanic := after(func(err error) error {
		var panicked *PanicError
		if errors.As(err, &panicked) {
			return Failf("it panicked: %v, %t", panicked.Value, len(panicked.Stack) > 0)
		}
		return err
	})
	far := after(func(err error) error { return fmt.Errorf("far out: %w", err) })
	join := after(func(err error) error { return errors.Join(err, errSurprise) })
	surprises := func(context.Context) error { return errSurprise }
	panics := func(context.Context) error { panic("boom") }
	exits := func(context.Context) error { runtime.Goexit(); return nil }
	for name, c := range map[string]struct {
		middleware []Middleware
		init       error
		start      func(context.Context) error
		state      State
		text       string
		skipped    bool
	}{
		"left alone":        {middleware: []Middleware{pass}, state: StateEnded},
		"wrapped":           {middleware: []Middleware{far}, start: surprises, state: StateException, text: "far out: surprise"},
		"wrapped failure":   {middleware: []Middleware{far}, init: Failf("no milk"), state: StateError, text: "far out: no milk"},
		"made a failure":    {middleware: []Middleware{after(Fail)}, start: surprises, state: StateError, text: "surprise"},
		"swallowed":         {middleware: []Middleware{pass, after(func(error) error { return nil })}, init: errSurprise, state: StateEnded},
		"made of a success": {middleware: []Middleware{join}, state: StateException, text: "surprise"},
		"skipped":           {middleware: []Middleware{pass, skip(nil), boom}, state: StateEnded, skipped: true},
		"skipped, failed":   {middleware: []Middleware{skip(Failf("not on Sundays"))}, state: StateError, text: "not on Sundays", skipped: true},
		"recovered":         {middleware: []Middleware{unpanic}, start: panics, state: StateError, text: "it panicked: boom, true"},
		"panic":             {middleware: []Middleware{pass, pass}, start: panics, state: StateException, text: "panic: boom"},
		"its own panic":     {middleware: []Middleware{boom}, state: StateException, text: "panic: boom of a middleware", skipped: true},
		"one inside panics": {middleware: []Middleware{unpanic, boom}, state: StateError, text: "it panicked: boom of a middleware, true", skipped: true},
		"goexit":            {middleware: []Middleware{after(func(error) error { runtime.Goexit(); return nil })}, state: StateException, text: "Goexit"},
		"goexit of a task":  {middleware: []Middleware{pass}, start: exits, state: StateException, text: "Goexit"},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				called := make(chan string, 10)
				registry := NewRegistry()
				registry.RegisterWith("test/x", func() Task {
					return (&script{
						init: func(context.Context, json.RawMessage) error { called <- "init"; return c.init },
						start: func(ctx context.Context) error {
							if called <- "start"; c.start != nil {
								return c.start(ctx)
							}
							return nil
						},
					}).task()
				}, TaskOptions{Middleware: c.middleware})
				e.runner(t, registry, func(o *RunnerOptions) { o.Queues = map[string]int{"default": 1} })
				client := e.client(t)
				for range 2 { // the slot is free again
					record := wait(t, client, start(t, client, "test/x", nil))
					require.Equal(t, c.state, record.State, record.Error)
					require.Contains(t, record.Error, c.text)
				}
				require.Equal(t, c.skipped, len(called) == 0)
			})
		})
	}
}

// The application's local tasks have middleware as others have; the library's have none.
func TestMiddlewareOfLocalTasks(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		order, b := make(chan string, 100), newBlocker()
		registry := NewRegistry()
		registry.Register("test/registered", b.factory)
		runner := e.runner(t, registry, func(o *RunnerOptions) {
			o.Middleware = []Middleware{layer("m", order)}
			o.Locals = append(defaultLocals(), Local{Name: "test/listed", New: b.factory})
		})
		require.Equal(t, "test/listed", receive(t, "the listed one", b.running).Task())
		require.Equal(t, "m of test/listed", receive(t, "its middleware", order))
		eventually(t, "those of the library run", func() bool { return runner.engines["default"].owned() == len(defaultLocals())+1 })
		_, err := runner.StartLocal(testContext(t), "default", "test/registered", nil)
		require.NoError(t, err)
		require.Equal(t, "test/registered", receive(t, "the registered one", b.running).Task())
		requireOrder(t, order, "m of test/registered")
		for _, local := range defaultLocals() {
			require.Nil(t, runner.engines["default"].entries[local.Name].handler, local.Name)
		}
	})
}

func TestMiddlewareRefused(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	t.Cleanup(func() { _ = rdb.Close() })
	keep := func(next Handler) Handler { return next }
	drop := func(Handler) Handler { return nil }
	work := Func(func(context.Context, any) error { return nil })

	err := NewRegistry().register("test/x", nil, TaskOptions{Timeout: -1, Middleware: []Middleware{nil, keep, nil}})
	require.ErrorIs(t, err, ErrInvalid)
	for _, part := range []string{`task "test/x": Middleware[0] is nil`, `task "test/x": Middleware[2] is nil`, "Timeout -1ns: use at least 1ms", "factory"} {
		require.ErrorContains(t, err, part)
	}

	_, err = NewRunner(rdb, NewRegistry(), RunnerOptions{EventBuffer: -1, Middleware: []Middleware{keep, nil}})
	require.ErrorIs(t, err, ErrInvalid)
	require.ErrorContains(t, err, "RunnerOptions: Middleware[1] is nil")
	require.ErrorContains(t, err, "EventBuffer")

	registry := NewRegistry()
	registry.RegisterWith("test/b", work, TaskOptions{Middleware: []Middleware{drop}})
	registry.RegisterWith("test/a", work, TaskOptions{Middleware: []Middleware{keep, drop}})
	registry.Register("test/c", work)
	_, err = NewRunner(rdb, registry, RunnerOptions{Middleware: []Middleware{keep}})
	require.EqualError(t, err, "redtask: invalid input: task \"test/a\": middleware 3 of 3, from the outermost, made a nil handler\n"+
		"redtask: invalid input: task \"test/b\": middleware 2 of 2, from the outermost, made a nil handler")
	require.ErrorIs(t, err, ErrInvalid)
}

// Middleware is put around a task once, when the runner is made; a task without any is run as if there were no such thing.
func TestMiddlewareIsMadeOnce(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	t.Cleanup(func() { _ = rdb.Close() })
	made := 0
	count := func(next Handler) Handler { made++; return next }
	list := []Middleware{count}
	registry := NewRegistry()
	registry.RegisterWith("test/wrapped", Func(func(context.Context, any) error { return nil }), TaskOptions{Middleware: list})
	list[0] = nil // a caller's slice is its own
	registry.Register("test/plain", Func(func(context.Context, any) error { return nil }))
	for runners := range 2 {
		runner, err := NewRunner(rdb, registry, RunnerOptions{Queues: map[string]int{"a": 1, "b": 1, "c": 1}})
		require.NoError(t, err)
		require.Equal(t, runners+1, made)
		for _, engine := range runner.engines {
			require.NotNil(t, engine.entries["test/wrapped"].handler)
			require.Same(t, registry.entries["test/plain"], engine.entries["test/plain"])
		}
	}
	require.Nil(t, registry.entries["test/wrapped"].handler, "what is registered stays as it is")
}
