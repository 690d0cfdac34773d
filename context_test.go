package redtask

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/store"
)

func TestRunFromContext(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.Register("test/child", Func(func(context.Context, any) error { return nil }))
		registry.Register("test/self", FuncOut(func(ctx context.Context, _ any) (map[string]any, error) {
			run := FromContext(ctx)
			run.Logger().Info("hello from the task")
			child, err := run.Client().Start(ctx, "test/child", nil)
			return map[string]any{
				"id": run.ID(), "task": run.Task(), "queue": run.Queue(), "attempt": run.Attempt(), "epoch": run.Epoch() > 0, "child": child != "",
			}, err
		}))
		e.runner(t, registry, nil)
		client := e.client(t)
		id := start(t, client, "test/self", nil)
		var got map[string]any
		require.NoError(t, wait(t, client, id).DecodeOutput(&got))
		require.Equal(t, map[string]any{
			"id": id, "task": "test/self", "queue": "default", "attempt": 1.0, "epoch": true, "child": true,
		}, got)
		require.True(t, e.log.has(`msg="hello from the task"`))
		require.True(t, e.log.has("task=test/self id="+id))
	})
	require.Panics(t, func() { FromContext(context.Background()) })
}

type appKey struct{}

func TestProvideContext(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		var released atomic.Int32
		order := make(chan string, 100)
		provide := func(ctx context.Context) (context.Context, func(), error) {
			order <- "provide"
			return context.WithValue(ctx, appKey{}, "app"), func() { order <- "release"; released.Add(1) }, nil
		}
		see := func(ctx context.Context, method string) {
			if ctx.Value(appKey{}) == "app" {
				order <- method
			}
		}
		var init, begin error
		panics := false
		registry := NewRegistry()
		registry.Register("test/context", func() Task {
			order <- "factory"
			return (&script{
				provide: provide,
				init:    func(ctx context.Context, _ json.RawMessage) error { see(ctx, "init"); return init },
				start: func(ctx context.Context) error {
					see(ctx, "start")
					if panics {
						panic("boom")
					}
					return begin
				},
			}).task()
		})
		e.runner(t, registry, nil)
		client := e.client(t)
		run := func(state State, want ...string) {
			t.Helper()
			released.Store(0)
			require.Equal(t, state, wait(t, client, start(t, client, "test/context", nil)).State)
			require.EqualValues(t, 1, released.Load())
			for _, step := range want {
				require.Equal(t, step, receive(t, step, order))
			}
			require.Empty(t, order)
		}
		run(StateEnded, "factory", "provide", "init", "start", "release")
		init = Failf("not today")
		run(StateError, "factory", "provide", "init", "release")
		init, begin = nil, errSurprise
		run(StateException, "factory", "provide", "init", "start", "release")
		panics = true
		run(StateException, "factory", "provide", "init", "start", "release")
	})
}

func TestProvideContextRefused(t *testing.T) {
	provides := map[string]func(context.Context) (context.Context, func(), error){
		"error":      func(ctx context.Context) (context.Context, func(), error) { return ctx, nil, errSurprise },
		"background": func(context.Context) (context.Context, func(), error) { return context.Background(), nil, nil },
		"nil":        func(context.Context) (context.Context, func(), error) { return nil, nil, nil },
		"no cancel": func(ctx context.Context) (context.Context, func(), error) {
			return context.WithoutCancel(ctx), nil, nil
		},
		"panic": func(context.Context) (context.Context, func(), error) { panic("boom") },
	}
	for name, provide := range provides {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				var released atomic.Int32
				registry := NewRegistry()
				registry.Register("test/context", (&script{
					provide: func(ctx context.Context) (context.Context, func(), error) {
						ctx, _, err := provide(ctx)
						return ctx, func() { released.Add(1); panic("release panics, too") }, err
					},
					start: func(context.Context) error { return nil },
				}).task)
				e.runner(t, registry, nil)
				client := e.client(t)
				record := wait(t, client, start(t, client, "test/context", nil))
				require.Equal(t, StateException, record.State)
				if name != "panic" {
					require.Contains(t, record.Error, "ProvideContext")
					require.EqualValues(t, 1, released.Load())
				}
			})
		})
	}
}

func TestExceptionHandlers(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		seen := make(chan error, 10)
		registry := NewRegistry()
		registry.Register("test/panic", Func(func(context.Context, any) error { panic(errSurprise) }))
		registry.Register("test/fail", Func(func(context.Context, any) error { return Failf("expected") }))
		e.runner(t, registry, func(o *RunnerOptions) {
			o.OnException = []ExceptionHandler{
				func(context.Context, *Run, error) { panic("a bad handler") },
				func(ctx context.Context, run *Run, err error) {
					if ctx.Err() == nil && FromContext(ctx) == run && run.Task() == "test/panic" {
						seen <- err
					}
				},
			}
		})
		client := e.client(t)
		require.Equal(t, StateError, wait(t, client, start(t, client, "test/fail", nil)).State)
		require.Equal(t, StateException, wait(t, client, start(t, client, "test/panic", nil)).State)
		err := receive(t, "exception", seen)
		require.ErrorIs(t, err, errSurprise)
		var panicked *PanicError
		require.ErrorAs(t, err, &panicked)
		require.NotEmpty(t, panicked.Stack)
		require.Empty(t, seen, "a failure is no exception")
		require.True(t, e.log.has("an exception handler panicked"))
	})
}

// runtime.Goexit in a task (t.FailNow of a test is one) must not cost a slot.
func TestGoexit(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.Register("test/exit", Func(func(context.Context, any) error { runtime.Goexit(); return nil }))
		e.runner(t, registry, func(o *RunnerOptions) { o.Queues = map[string]int{"default": 1} })
		client := e.client(t)
		for range 3 {
			record := wait(t, client, start(t, client, "test/exit", nil))
			require.Equal(t, StateException, record.State)
			require.Contains(t, record.Error, "Goexit")
		}
	})
}

func TestFactoryFaults(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.Register("test/nil", func() Task { return nil })
		registry.Register("test/panic", func() Task { panic("boom") })
		e.runner(t, registry, nil)
		client := e.client(t)
		require.Contains(t, wait(t, client, start(t, client, "test/nil", nil)).Error, "returned nil")
		require.Contains(t, wait(t, client, start(t, client, "test/panic", nil)).Error, "boom")
	})
}

// A record that someone broke while the task ran spoils neither the runner nor its neighbours.
func TestRecordBrokenMeanwhile(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.Register("test/break", Func(func(ctx context.Context, kind string) error {
			key := e.key("task:" + FromContext(ctx).ID())
			e.rdb.Del(ctx, key)
			if kind == "wrong type" {
				e.rdb.Set(ctx, key, "x", 0)
				if err := FromContext(ctx).Checkpoint(ctx, 1); !errors.Is(err, ErrWrongType) {
					panic(err)
				}
			}
			return nil
		}))
		registry.Register("test/end", Func(func(context.Context, any) error { return nil }))
		runner := e.runner(t, registry, nil)
		client := e.client(t)
		start(t, client, "test/break", "wrong type")
		eventually(t, "a log line", func() bool { return e.log.has("could not write the task's record") })
		require.False(t, e.log.has("EXCEPTION"), "the checkpoint's error was typed")
		start(t, client, "test/break", "gone")
		for range 20 {
			require.Equal(t, StateEnded, wait(t, client, start(t, client, "test/end", nil)).State)
		}
		eventually(t, "nothing is left running but local tasks", func() bool {
			return e.rdb.SCard(t.Context(), e.key("running:"+runner.ID())).Val() == int64(len(defaultLocals()))
		})
	})
}

// An exception handler that ends its goroutine, as a test's FailNow does, ends neither the process nor the slot.
func TestGoexitInAnExceptionHandler(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.Register("test/x", Func(func(context.Context, any) error { return errSurprise }))
		e.runner(t, registry, func(o *RunnerOptions) {
			o.Queues = map[string]int{"default": 1}
			o.OnException = []ExceptionHandler{func(context.Context, *Run, error) { runtime.Goexit() }}
		})
		client := e.client(t)
		for range 3 {
			require.Equal(t, StateException, wait(t, client, start(t, client, "test/x", nil)).State)
		}
	})
}

// The registration's Keep holds for whoever takes the task over from a dead runner.
func TestKeepOfARegistration(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		registry := NewRegistry()
		registry.RegisterWith("test/kept", b.factory, TaskOptions{Keep: true})
		e.runner(t, registry, nil)
		client := e.client(t)
		id := start(t, client, "test/kept", nil)
		receive(t, "runs", b.running)
		eventually(t, "the record says so", func() bool { record, err := client.Get(testContext(t), id); return err == nil && record.Keep })
	})
}

// Checkpoints that nobody waits for any more do not pile up while Redis is away.
func TestCheckpointsThatWereGivenUp(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		runner := e.runner(t, blockRegistry(b), func(o *RunnerOptions) { o.Locals = []Local{} })
		id := start(t, e.client(t), "test/block", nil)
		run := receive(t, "runs", b.running)
		slow := newGate(t)
		c := runner.engines["default"].committer
		busy := make(chan struct{})
		c.do(func(context.Context) { close(busy); slow.wait() })
		receive(t, "redis is slow", busy)
		for i := range 100 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			require.ErrorContains(t, run.Checkpoint(ctx, i), "it is not written: context deadline exceeded")
			cancel()
		}
		c.mu.Lock()
		queued := len(c.items)
		c.mu.Unlock()
		slow.open()
		require.Less(t, queued, 5)
		require.NoError(t, run.Checkpoint(testContext(t), "last"))
		require.Equal(t, `"last"`, e.rdb.HGet(t.Context(), e.key("task:"+id), "checkpoint").Val())
	})
}

// A lost answer does not erase the progress that it was about.
func TestProgressWhoseAnswerIsLost(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		var lost atomic.Bool
		own := e.answered(t, func(next func() error, cmd *redis.Cmd) error {
			err := next()
			if err == nil && slices.Contains(cmd.Args(), any("progress")) && lost.CompareAndSwap(false, true) {
				return loseAnswer(cmd)
			}
			return err
		})
		b := newBlocker()
		own.runner(t, blockRegistry(b), nil)
		id := start(t, e.client(t), "test/block", nil)
		run := receive(t, "runs", b.running)
		require.NoError(t, run.Progress(50))
		eventually(t, "lost", lost.Load)
		require.NoError(t, run.Checkpoint(testContext(t), 1), "written after the report was said again")
		require.Equal(t, "50", e.rdb.HGet(t.Context(), e.key("task:"+id), "progress").Val())
	})
}

// loneEngine is one without a Redis, whose committer only collects.
func loneEngine(options RunnerOptions) *engine {
	e := &engine{options: &options, runs: map[string]*Run{}, logger: slog.New(slog.DiscardHandler)}
	e.taskContext = context.Background()
	e.draining.Store(true) // it claims nothing
	e.committer = newCommitter(e)
	return e
}

func FuzzControl(f *testing.F) {
	for _, word := range []string{"stop", "reload", "restart", "", "STOP", "stop\n", "\x00", "\xff", `{"word":"stop"}`} {
		f.Add("42", word)
	}
	e := loneEngine(RunnerOptions{EventBuffer: 10})
	f.Fuzz(func(t *testing.T, id, word string) {
		if word == "stop" || word == "restart" || word == "reload" {
			return // these have tests of their own
		}
		r := e.newRun(&store.Claim{ID: "42", Task: "test/x", Epoch: 1})
		r.active = true
		e.runs["42"] = r
		e.committer.items, e.committer.unsent = nil, eventCount{}
		e.control(id, word)
		require.NoError(t, r.base.Err(), "an unknown word cancels nothing")
		if id == "42" {
			require.Len(t, e.committer.items, 1)
			var event Event
			require.NoError(t, json.Unmarshal([]byte(e.committer.items[0].text), &event))
			require.Equal(t, EventControlFailed, event.Name)
		}
		r.cancel(nil)
	})
}
