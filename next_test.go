package redtask

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/store"
)

// What next cannot work with is refused, with an error that says why, and the task does not run.
func TestNextRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		ctx  func(context.Context) context.Context
		task func(Task) Task
		want string
	}{
		"background": {ctx: func(context.Context) context.Context { return context.Background() }, want: "not derived from the one it got"},
		"nil":        {ctx: func(context.Context) context.Context { return nil }, want: "not derived from the one it got"},
		"no cancel":  {ctx: context.WithoutCancel, want: "not derived from the one it got"},
		"nil task":   {task: func(Task) Task { return nil }, want: "a nil task"},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				ran := make(chan struct{}, 10)
				registry := NewRegistry()
				registry.RegisterWith("test/x", Func(func(context.Context, any) error { ran <- struct{}{}; return nil }), TaskOptions{
					Middleware: []Middleware{func(next Handler) Handler {
						return func(ctx context.Context, task Task) error {
							if c.ctx != nil {
								ctx = c.ctx(ctx)
							}
							if c.task != nil {
								task = c.task(task)
							}
							return next(ctx, task)
						}
					}},
				})
				e.runner(t, registry, nil)
				client := e.client(t)
				record := wait(t, client, start(t, client, "test/x", nil))
				require.Equal(t, StateException, record.State)
				require.Contains(t, record.Error, "middleware: ")
				require.Contains(t, record.Error, c.want)
				require.Empty(t, ran)
			})
		})
	}
}

// A run is one call of Init and Start, however often, from wherever and with whose ctx next is called.
func TestNextIsCalledOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		ran, refused := make(chan string, 100), make(chan error, 100)
		late := make(chan func() error, 10)
		registry := NewRegistry()
		count := Func(func(ctx context.Context, _ any) error { ran <- FromContext(ctx).ID(); return nil })
		register := func(name string, handle func(next Handler, ctx context.Context, task Task) error) {
			registry.RegisterWith(name, count, TaskOptions{Middleware: []Middleware{func(next Handler) Handler {
				return func(ctx context.Context, task Task) error { return handle(next, ctx, task) }
			}}})
		}
		register("test/twice", func(next Handler, ctx context.Context, task Task) error {
			err := next(ctx, task)
			refused <- next(ctx, task)
			return err
		})
		register("test/concurrent", func(next Handler, ctx context.Context, task Task) error {
			var calls sync.WaitGroup
			for range 20 {
				calls.Go(func() {
					if err := next(ctx, task); err != nil {
						refused <- err
					}
				})
			}
			calls.Wait()
			return nil
		})
		register("test/late", func(next Handler, ctx context.Context, task Task) error {
			late <- func() error { return next(ctx, task) }
			return nil
		})
		own := make(chan context.Context, 10)
		registry.Register("test/plain", Func(func(ctx context.Context, _ any) error {
			ran <- FromContext(ctx).ID()
			own <- ctx
			<-ctx.Done()
			return ctx.Err()
		}))
		var other context.Context
		register("test/other", func(next Handler, _ context.Context, task Task) error { return next(other, task) })
		e.runner(t, registry, nil)
		client := e.client(t)

		id := start(t, client, "test/twice", nil)
		require.Equal(t, StateEnded, wait(t, client, id).State)
		require.Equal(t, id, receive(t, "runs", ran))
		require.ErrorContains(t, receive(t, "refusal", refused), "a second time")
		require.Empty(t, ran)

		id = start(t, client, "test/concurrent", nil)
		require.Equal(t, StateEnded, wait(t, client, id).State)
		require.Equal(t, id, receive(t, "runs", ran))
		for range 19 {
			require.ErrorContains(t, receive(t, "refusal", refused), "a second time")
		}
		require.Empty(t, ran)

		require.Equal(t, StateEnded, wait(t, client, start(t, client, "test/late", nil)).State)
		require.ErrorContains(t, receive(t, "next", late)(), "the handler of this run of task")
		require.Empty(t, ran)

		plain := start(t, client, "test/plain", nil)
		other = receive(t, "a ctx of another task", own)
		require.Equal(t, plain, receive(t, "runs", ran))
		record := wait(t, client, start(t, client, "test/other", nil))
		require.Equal(t, StateException, record.State)
		require.Contains(t, record.Error, fmt.Sprintf("this run of task %q", plain))
		require.Empty(t, ran)
		require.NoError(t, client.Stop(testContext(t), plain))
		require.Equal(t, StateStopped, wait(t, client, plain).State)
	})
}

// A middleware that does not wait for its task: the task is cancelled, keeps its slot until it returns, and only then the run ends.
func TestMiddlewareThatReturnsFirst(t *testing.T) {
	for name, leave := range map[string]func() error{
		"error":  func() error { return Failf("too slow") },
		"goexit": func() error { runtime.Goexit(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				hold := newGate(t)
				running, causes, order := make(chan struct{}), make(chan error, 1), make(chan string, 10)
				registry := NewRegistry()
				registry.RegisterWith("test/slow", func() Task {
					return (&script{
						provide: func(ctx context.Context) (context.Context, func(), error) {
							return ctx, func() { order <- "release" }, nil
						},
						start: func(ctx context.Context) error {
							close(running)
							<-ctx.Done()
							causes <- context.Cause(ctx)
							hold.wait()
							order <- "start"
							return nil
						},
					}).task()
				}, TaskOptions{Middleware: []Middleware{func(next Handler) Handler {
					return func(ctx context.Context, task Task) error {
						go func() { _ = next(ctx, task) }()
						<-running
						return leave()
					}
				}}})
				runner := e.runner(t, registry, func(o *RunnerOptions) {
					longLease(o)
					o.Queues, o.StuckAfter = map[string]int{"default": 1}, 30*time.Millisecond
				})
				client := e.client(t)
				id := start(t, client, "test/slow", nil)
				require.ErrorIs(t, receive(t, "cause", causes), errLeft)
				eventually(t, "it is reported", func() bool { return e.log.has("ignores that it was told to stop") })
				require.Zero(t, runner.engines["default"].free.Load())
				hold.open()
				record := wait(t, client, id)
				requireOrder(t, order, "start", "release")
				if name == "goexit" {
					require.Equal(t, StateException, record.State)
					return
				}
				require.Equal(t, StateError, record.State)
				require.Equal(t, "too slow", record.Error)
			})
		})
	}
}

// A task in the place of the one that came is the one whose methods are called, Stop among them.
func TestMiddlewareReplacesTheTask(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b, calls, quit := newBlocker(), make(chan string, 10), make(chan struct{})
		registry := NewRegistry()
		registry.RegisterWith("test/block", b.factory, TaskOptions{Middleware: []Middleware{func(next Handler) Handler {
			return func(ctx context.Context, _ Task) error {
				return next(ctx, (&script{
					init:  func(_ context.Context, data json.RawMessage) error { calls <- "init " + string(data); return nil },
					start: func(context.Context) error { calls <- "start"; <-quit; return nil },
					stop:  func(context.Context) error { close(quit); return nil },
				}).task())
			}
		}}})
		e.runner(t, registry, nil)
		client := e.client(t)
		id := start(t, client, "test/block", 7)
		require.Equal(t, "init 7", receive(t, "init", calls))
		require.Equal(t, "start", receive(t, "start", calls))
		require.NoError(t, client.Stop(testContext(t), id))
		require.Equal(t, StateStopped, wait(t, client, id).State)
		require.Empty(t, b.running)
	})
}

// wrapped hides all but Init and Start of a task, and says when they are called.
type wrapped struct {
	Task
	calls chan<- string
}

func (w wrapped) Init(ctx context.Context, data json.RawMessage) error {
	w.calls <- "init " + string(data)
	return w.Task.Init(ctx, data)
}

func (w wrapped) Start(ctx context.Context) error {
	w.calls <- "start"
	return w.Task.Start(ctx)
}

// A reload has called the Init of the task that came: not once more by way of the one that wraps it.
func TestReloadOfAWrappedTask(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		v, calls := newVersions(), make(chan string, 10)
		registry := NewRegistry()
		registry.RegisterWith("test/versions", v.factory, TaskOptions{Middleware: []Middleware{func(next Handler) Handler {
			return func(ctx context.Context, task Task) error { return next(ctx, wrapped{task, calls}) }
		}}})
		e.runner(t, registry, nil)
		client := e.client(t)
		id := start(t, client, "test/versions", "one")
		require.Equal(t, "one", receive(t, "start", v.starts))
		require.NoError(t, client.ReloadWith(testContext(t), id, "two"))
		require.Equal(t, "two", receive(t, "start of the new", v.starts))
		requireOrder(t, calls, `init "one"`, "start", "start")
		require.NoError(t, client.Stop(testContext(t), id))
		require.Equal(t, StateStopped, wait(t, client, id).State)
	})
}

// A task that was told to stop before its Start: next says so, also when its ctx has not ended yet.
func TestNextOfATaskThatDoesNotStart(t *testing.T) {
	t.Parallel()
	e := loneEngine(RunnerOptions{EventBuffer: 10})
	e.entries = map[string]*entry{"test/x": newEntry("test/x", nil, TaskOptions{})}
	r := e.newRun(&store.Claim{ID: "42", Task: "test/x", Epoch: 1})
	r.task = (&script{start: func(context.Context) error { t.Error("Start is called"); return nil }}).task()
	r.told = ErrStopped // what tells it has not come to its ctx
	require.NoError(t, r.base.Err())
	require.Equal(t, ErrStopped, r.work())
	require.Equal(t, StateStopped, r.Outcome(ErrStopped))
	r.cancel(nil)
}

// Stop is not called for a Start that has returned: what its middleware still does is told by the end of its ctx.
func TestStopAfterStartHasReturned(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		after, stops := make(chan struct{}), make(chan struct{}, 1)
		registry := NewRegistry()
		registry.RegisterWith("test/stopper", (&script{
			stop: func(context.Context) error { stops <- struct{}{}; return nil },
		}).task, TaskOptions{StopTimeout: time.Hour, Middleware: []Middleware{func(next Handler) Handler {
			return func(ctx context.Context, task Task) error {
				err := next(ctx, task)
				close(after)
				<-ctx.Done()
				return errors.Join(err, ctx.Err())
			}
		}}})
		e.runner(t, registry, nil)
		client := e.client(t)
		id := start(t, client, "test/stopper", nil)
		receive(t, "Start has returned", after)
		require.NoError(t, client.Stop(testContext(t), id))
		require.Equal(t, StateStopped, wait(t, client, id).State)
		require.Empty(t, stops)
	})
}

// A task that is stopped while its middleware works, before Init and Start, did as told.
func TestStopBeforeNext(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		before, started := make(chan struct{}), make(chan struct{}, 1)
		registry := NewRegistry()
		registry.RegisterWith("test/x", Func(func(context.Context, any) error { started <- struct{}{}; return nil }), TaskOptions{
			Middleware: []Middleware{func(next Handler) Handler {
				return func(ctx context.Context, task Task) error {
					close(before)
					<-ctx.Done()
					return fmt.Errorf("after a while: %w", next(ctx, task))
				}
			}},
		})
		e.runner(t, registry, nil)
		client := e.client(t)
		id := start(t, client, "test/x", nil)
		receive(t, "middleware", before)
		require.NoError(t, client.Stop(testContext(t), id))
		require.Equal(t, StateStopped, wait(t, client, id).State)
		require.Empty(t, started)
	})
}

// A middleware's own end of the ctx tells the task nothing: what it returns keeps its meaning.
func TestCancelledByMiddleware(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		registry := NewRegistry()
		registry.RegisterWith("test/block", b.factory, TaskOptions{Middleware: []Middleware{func(next Handler) Handler {
			return func(ctx context.Context, task Task) error {
				ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
				defer cancel()
				return next(ctx, task)
			}
		}}})
		e.runner(t, registry, nil)
		client := e.client(t)
		record := wait(t, client, start(t, client, "test/block", nil))
		require.Equal(t, StateException, record.State)
		require.Equal(t, context.DeadlineExceeded.Error(), record.Error)
	})
}
