package redtask

import (
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestStartLocal(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		var failures atomic.Int32
		registry := NewRegistry()
		registry.Register("test/block", b.factory)
		registry.Register("test/flaky", Func(func(context.Context, any) error {
			if failures.Add(1) == 1 {
				return errSurprise
			}
			return nil
		}))
		runner := e.runner(t, registry, nil)
		client := e.client(t)
		id, err := runner.StartLocal(testContext(t), "default", "test/block", 5)
		require.NoError(t, err)
		run := receive(t, "run", b.running)
		require.Equal(t, id, run.ID())
		record, err := client.Get(testContext(t), id)
		require.NoError(t, err)
		require.True(t, record.Local)
		require.Equal(t, StateRunning, record.State)
		require.NoError(t, client.Stop(testContext(t), id))
		eventually(t, "its record is gone", func() bool { _, err := client.Get(testContext(t), id); return errors.Is(err, ErrNotFound) })

		_, err = runner.StartLocal(testContext(t), "default", "test/flaky", nil)
		require.NoError(t, err)
		eventually(t, "it runs again after a failure", func() bool { return failures.Load() == 2 })

		_, err = runner.StartLocal(testContext(t), "default", "test/none", nil)
		require.ErrorIs(t, err, ErrInvalid)
		_, err = runner.StartLocal(testContext(t), "other", "test/block", nil)
		require.ErrorIs(t, err, ErrInvalid)

		id, err = runner.StartLocal(testContext(t), "default", "test/block", nil)
		require.NoError(t, err)
		receive(t, "run", b.running)
		require.NoError(t, shutdown(t, runner))
		_, err = client.Get(testContext(t), id)
		require.ErrorIs(t, err, ErrNotFound, "a local task goes with its runner")
		_, err = runner.StartLocal(testContext(t), "default", "test/block", nil)
		require.ErrorContains(t, err, "shutting down")
	})
}

// A local task is found by whoever stops or reloads it, and by the fence, from the moment that it runs.
func TestLocalIsFoundAtOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		found := make(chan bool, 1)
		var runner *Runner
		registry := NewRegistry()
		registry.Register("test/local", Func(func(ctx context.Context, _ any) error {
			run := FromContext(ctx)
			found <- runner.engines["default"].find(run.ID()) == run
			return nil
		}))
		runner = e.runner(t, registry, func(o *RunnerOptions) { o.Locals = []Local{} })
		for range 300 {
			_, err := runner.StartLocal(testContext(t), "default", "test/local", nil)
			require.NoError(t, err)
			require.True(t, receive(t, "it runs", found))
		}
	})
}

// The fence falls while the answer that lists a local task is on the way: the task begins only under a lease that is held again.
func TestLocalListedBehindTheFence(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		var lease *lease
		var adopts atomic.Int64
		fenced := make(chan string, 10)
		own := e.answered(t, func(next func() error, cmd *redis.Cmd) error {
			err := next()
			if cmd.Args()[2] == keysOfAdopt && adopts.Add(1) == 1 {
				lease.set(true, time.Now().Add(-time.Hour))
				<-fenced
			}
			return err
		})
		registered := make(chan string, 10)
		b := newBlocker()
		runner := own.runner(t, blockRegistry(b), func(o *RunnerOptions) {
			longLease(o)
			o.hooks.registered = func(queue string) { registered <- queue }
			o.hooks.fenced = func(queue string) { fenced <- queue }
		})
		receive(t, "registered", registered)
		lease = runner.engines["default"].lease
		id, err := runner.StartLocal(testContext(t), "default", "test/block", nil)
		require.NoError(t, err)
		eventually(t, "it is told", func() bool { return lease.engine.owned() == 0 })
		require.Empty(t, b.running, "it began behind the fence")
		lease.set(true, time.Now())
		require.Equal(t, id, receive(t, "it runs", b.running).ID())
		require.EqualValues(t, 2, adopts.Load(), "it is not listed while it may not begin")
	})
}

// A local task that was told to stop, and is given back since its runner goes, leaves nobody who waits for its Start.
func TestLocalToldAndGivenBack(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		runner := e.runner(t, blockRegistry(newBlocker()), longLease)
		engine := runner.engines["default"]
		eventually(t, "the lease", engine.lease.isHeld)
		l := &localTask{engine: engine, id: newID(), name: "test/block", data: json.RawMessage("null")}
		r, err := l.list(t.Context(), t.Context())
		require.NoError(t, err)
		engine.add(r)
		r.tell(ErrShutdown)
		engine.committer.giveBack(r, "shutdown")
		waited := make(chan struct{})
		go func() {
			defer close(waited)
			r.telling.Wait()
		}()
		receive(t, "nobody waits", waited)
		eventually(t, "no record is left", func() bool { return e.rdb.Exists(t.Context(), e.key("task:"+r.id)).Val() == 0 })
	})
}

// A refused listing must not hold up what the other tasks have to write.
func TestLocalThatCannotBeListed(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		end := make(chan struct{})
		registry := NewRegistry()
		registry.Register("test/work", Func(func(context.Context, any) error { <-end; return nil }))
		runner := e.runner(t, registry, nil)
		client := e.client(t)
		id := start(t, client, "test/work", nil)
		eventually(t, "it runs", func() bool { r, err := client.Get(testContext(t), id); return err == nil && r.State == StateRunning })
		eventually(t, "the local tasks run", func() bool { return runner.engines["default"].owned() == 1+len(defaultLocals()) })
		require.NoError(t, e.rdb.Rename(t.Context(), e.key("epoch"), e.key("kept")).Err())
		require.NoError(t, e.rdb.LPush(t.Context(), e.key("epoch"), "x").Err())
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		go func() {
			_, err := runner.StartLocal(ctx, "default", "test/work", nil)
			failed <- err
		}()
		eventually(t, "the refusal", func() bool {
			return e.log.has("redis does not take what tasks did") || e.log.has("a local task failed")
		})
		close(end)
		require.Equal(t, StateEnded, wait(t, client, id).State)
		cancel()
		require.ErrorIs(t, receive(t, "the answer", failed), context.Canceled)
		require.NoError(t, e.rdb.Rename(t.Context(), e.key("kept"), e.key("epoch")).Err())
	})
}

// A local task runs again by its runner's own backoff, whatever a policy of its name says: it is never in the schedule, where any runner
// would find it.
func TestLocalFailsUnderAPolicy(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		registry := NewRegistry()
		for name, options := range map[string]TaskOptions{
			"test/retried":    {Retry: &Retry{Attempts: 5, Backoff: Constant(time.Hour)}},
			"test/supervised": {Supervise: &Supervise{Backoff: Constant(time.Hour)}},
		} {
			var runs atomic.Int64
			registry.RegisterWith(name, func() Task {
				return (&script{start: func(ctx context.Context) error {
					if runs.Add(1) == 1 {
						return RetryAfter(errSurprise, time.Hour)
					}
					return b.factory().Start(ctx)
				}}).task()
			}, options)
		}
		runner := e.runner(t, registry, func(o *RunnerOptions) { o.Locals = []Local{} })
		for _, name := range []string{"test/retried", "test/supervised"} {
			_, err := runner.StartLocal(testContext(t), "default", name, nil)
			require.NoError(t, err)
		}
		for range 2 {
			receive(t, "runs again", b.running)
		}
		require.Zero(t, e.rdb.Exists(t.Context(), e.key("scheduled")).Val())
	})
}

// A local task that runs again while a batch is under way is listed anew only when its removal is written.
func TestLocalRunsAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		var hold atomic.Pointer[gate]
		held := make(chan struct{}, 10)
		own := e.hooked(t, func(keys int) error {
			if g := hold.Load(); g != nil && keys == keysOfCommit {
				held <- struct{}{}
				g.wait()
			}
			return nil
		})
		b := newBlocker()
		runner := own.runner(t, blockRegistry(b), func(o *RunnerOptions) { o.Locals = []Local{} })
		client := e.client(t)
		id, err := runner.StartLocal(testContext(t), "default", "test/block", nil)
		require.NoError(t, err)
		first := receive(t, "local", b.running)
		start(t, client, "test/block", nil)
		busy := receive(t, "task", b.running)
		g := newGate(t)
		hold.Store(g)
		require.NoError(t, busy.Emit("busy", 1)) // a batch under way
		receive(t, "batch under way", held)
		require.NoError(t, client.Restart(testContext(t), id))
		c := runner.engines["default"].committer
		eventually(t, "the end is queued, or beside that batch, and the listing is queued", func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return len(c.calls) == 1 && (len(c.items) >= 1 || len(c.flights) == maxFlights)
		})
		hold.Store(nil)
		g.open()
		second := receive(t, "local again", b.running)
		require.NotEqual(t, first.Epoch(), second.Epoch(), "a new run has an epoch of its own")
		record, err := client.Get(t.Context(), id)
		require.NoError(t, err, "the running local task is listed")
		require.Equal(t, StateRunning, record.State)
	})
}

// A local task that finds the lease gone makes the runner register anew at once; it does not ask again and again.
func TestLocalWhileTheLeaseIsGone(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		var adopts atomic.Int64
		own := e.hooked(t, func(keys int) error {
			if keys == keysOfAdopt {
				adopts.Add(1)
			}
			return nil
		})
		idle := make(chan struct{}, 10)
		b := newBlocker()
		runner := own.runner(t, blockRegistry(b), func(o *RunnerOptions) {
			o.Locals = []Local{}
			o.hooks.idle = func(string) { idle <- struct{}{} }
		})
		receive(t, "idle", idle)
		require.NoError(t, e.rdb.Del(t.Context(), e.key("runners"), e.key("runner:"+runner.ID())).Err()) // FLUSHALL
		_, err := runner.StartLocal(testContext(t), "default", "test/block", nil)
		require.NoError(t, err)
		require.Less(t, adopts.Load(), int64(20), "calls to adopt one task")
	})
}

// A stopped local task is over whatever it returns, and so is one that says that it is done.
func TestLocalThatIsOver(t *testing.T) {
	for name, c := range map[string]struct {
		result error
		stop   bool
	}{
		"stopped, done":        {ErrDone, true},
		"stopped, other error": {errSurprise, true},
		"stopped, nil":         {nil, true},
		"done":                 {ErrDone, false},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				running, end := make(chan struct{}, 10), make(chan struct{})
				registry := NewRegistry()
				registry.Register("test/local", Func(func(ctx context.Context, _ any) error {
					running <- struct{}{}
					select {
					case <-ctx.Done():
					case <-end:
					}
					return c.result
				}))
				runner := e.runner(t, registry, func(o *RunnerOptions) { o.Locals = []Local{} })
				id, err := runner.StartLocal(testContext(t), "default", "test/local", nil)
				require.NoError(t, err)
				receive(t, "runs", running)
				if c.stop {
					require.NoError(t, e.client(t).Stop(t.Context(), id))
				} else {
					close(end)
				}
				runner.engines["default"].locals.Wait() // its supervisor has gone
				require.Empty(t, running)
				eventually(t, "no record is left", func() bool { return e.rdb.Exists(t.Context(), e.key("task:"+id)).Val() == 0 })
			})
		})
	}
}

// New data stays with a local task when it fails, and a method that ends its goroutine does not end the task for good.
func TestLocalRunsAgainWithItsNewData(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		running, fail := make(chan string, 10), make(chan func() error)
		registry := NewRegistry()
		registry.Register("test/conf", func() Task {
			var data string
			return (&script{
				init: func(_ context.Context, raw json.RawMessage) error { data = string(raw); return nil },
				start: func(ctx context.Context) error {
					running <- data
					select {
					case <-ctx.Done():
						return ctx.Err()
					case how := <-fail:
						return how()
					}
				},
			}).task()
		})
		runner := e.runner(t, registry, nil)
		id, err := runner.StartLocal(testContext(t), "default", "test/conf", "old")
		require.NoError(t, err)
		require.Equal(t, `"old"`, receive(t, "runs", running))
		require.NoError(t, e.client(t).ReloadWith(t.Context(), id, "new"))
		require.Equal(t, `"new"`, receive(t, "runs", running))
		fail <- func() error { return errSurprise }
		require.Equal(t, `"new"`, receive(t, "runs again", running))
		fail <- func() error { runtime.Goexit(); return nil }
		require.Equal(t, `"new"`, receive(t, "runs again", running))
	})
}

// A runner that was shut down before it was started has no local tasks to start.
func TestStartLocalAfterShutdown(t *testing.T) {
	t.Parallel()
	e := onRedis(t)
	runner, err := NewRunner(e.rdb, blockRegistry(newBlocker()), RunnerOptions{Prefix: e.prefix})
	require.NoError(t, err)
	require.NoError(t, runner.Shutdown(t.Context()))
	_, err = runner.StartLocal(testContext(t), "default", "test/block", nil)
	require.ErrorContains(t, err, "not started")
}

// The runners' own tasks are theirs: a client may not start one, and one that is put in line by hand says why it does not run.
func TestLocalsAreNotStarted(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.runner(t, NewRegistry(), func(o *RunnerOptions) { o.Queues = map[string]int{"video": 1, "audio": 1, "default": 1} })
		client := e.client(t)
		_, err := client.Start(t.Context(), "redtask/monitor", nil)
		require.ErrorIs(t, err, ErrInvalid)
		require.NoError(t, e.rdb.HSet(t.Context(), e.key("task:42"), "task", "redtask/monitor").Err())
		require.NoError(t, e.rdb.LPush(t.Context(), e.key("wait"), "42").Err())
		record := wait(t, client, "42")
		require.Equal(t, StateException, record.State)
		require.Contains(t, record.Error, "redtask/monitor belongs to its runners")
	})
}

func TestClientOfARunner(t *testing.T) {
	t.Parallel()
	e := onRedis(t)
	for want, queues := range map[string]map[string]int{"audio": {"video": 1, "audio": 1}, DefaultQueue: {"a": 1, DefaultQueue: 1}} {
		runner, err := NewRunner(e.rdb, NewRegistry(), RunnerOptions{Prefix: e.prefix, Queues: queues})
		require.NoError(t, err)
		require.Equal(t, want, runner.Client().Queue())
	}
}
