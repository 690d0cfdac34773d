package redtask

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// longLease is one that no test outlives: what happens to it a test does itself.
func longLease(o *RunnerOptions) {
	o.Lease, o.RenewInterval, o.SafetyMargin = time.Hour, 20*time.Minute, 20*time.Minute
	o.Locals = []Local{}
}

// lookOnce makes a runner look into the line, and waits until what it claims there, if it does, is among its runs.
func lookOnce(t *testing.T, e *engine) {
	t.Helper()
	e.committer.lookAgain()
	for range 2 { // the first comes before that claim, the second when it is settled
		between := make(chan struct{})
		e.committer.do(func(context.Context) { close(between) })
		receive(t, "between two batches", between)
	}
}

// A lease counts from when its renewal, or the registration, was sent: the answer may be late, and Redis counts from before that.
func TestLeaseCountsFromTheSending(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		var calledAt atomic.Pointer[time.Time]
		own := e.answered(t, func(next func() error, cmd *redis.Cmd) error {
			if cmd.Args()[2] == keysOfRenew || slices.Contains(cmd.Args(), any("silence_ms")) { // the latter is in a registration alone
				now := time.Now()
				calledAt.Store(&now)
			}
			return next()
		})
		registered, renewed := make(chan string, 10), make(chan string, 10)
		runner := own.runner(t, NewRegistry(), func(o *RunnerOptions) {
			longLease(o)
			o.hooks.registered = func(queue string) { registered <- queue }
			o.hooks.renewed = func(queue string) { renewed <- queue }
		})
		lease := runner.engines["default"].lease
		receive(t, "registered", registered)
		first := lease.lastSent()
		require.False(t, first.After(*calledAt.Load()), "the registration was sent at %s, the lease counts from %s", calledAt.Load(), first)
		lease.check <- struct{}{}
		receive(t, "renewed", renewed)
		second := lease.lastSent()
		require.True(t, second.After(first), "the renewal counts")
		require.False(t, second.After(*calledAt.Load()), "the renewal was sent at %s, the lease counts from %s", calledAt.Load(), second)
	})
}

// A runner whose lease runs low takes no more tasks, long before its fence falls: they would be cancelled as soon as they have begun.
func TestLowLeaseTakesNoTasks(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		idle := make(chan string, 100)
		low := e.runner(t, blockRegistry(b), func(o *RunnerOptions) {
			longLease(o)
			o.hooks.idle = func(queue string) { idle <- queue }
		})
		engine := low.engines["default"]
		receive(t, "idle", idle)
		begun := start(t, e.client(t), "test/block", nil)
		require.Equal(t, begun, receive(t, "runs", b.running).ID(), "with a good lease it does")
		engine.lease.set(true, time.Now().Add(-35*time.Minute)) // claims end after 30, the fence falls after 40
		lookOnce(t, engine)                                     // a claim that was under way is through
		late := start(t, e.client(t), "test/block", nil)
		lookOnce(t, engine)
		require.Nil(t, engine.find(late), "claimed with a lease that runs low")
		require.False(t, engine.lease.ranOut())
		require.Empty(t, b.causes, "what runs goes on")
		other := e.runner(t, blockRegistry(b), longLease)
		run := receive(t, "it runs elsewhere", b.running)
		require.Equal(t, late, run.ID())
		require.Equal(t, other.ID(), run.engine.runnerID)
	})
}

// Renewals fail, and nothing else does: the tasks are told before the lease has ended, by as much as the safety margin.
func TestFenceFallsInTheSafetyMargin(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		var down atomic.Bool
		own := e.hooked(t, func(keys int) error {
			if keys == keysOfRenew && down.Load() {
				return errors.New("network is down")
			}
			return nil
		})
		b := newBlocker()
		runner := own.runner(t, blockRegistry(b), func(o *RunnerOptions) {
			o.Lease, o.RenewInterval, o.SafetyMargin = time.Minute, 100*time.Millisecond, 58*time.Second // so wide that no load closes it
			o.Locals = []Local{}
		})
		start(t, e.client(t), "test/block", nil)
		receive(t, "runs", b.running)
		down.Store(true)
		require.ErrorIs(t, receive(t, "told", b.causes), ErrLeaseLost)
		told := time.Now()
		require.True(t, told.Before(runner.engines["default"].lease.lastSent().Add(time.Minute)), "told when the lease had ended")
	})
}

// A lost lease leaves no time to be polite: the ctx of a task with Stop is cancelled at once, also if Stop runs since it was told something
// else. Stop goes on: its ctx has a deadline and the values, and not that cancellation.
func TestLostLeaseWithStop(t *testing.T) {
	for name, toldBefore := range map[string]bool{"told nothing before": false, "told to stop before": true} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				hold := newGate(t)
				running, causes := make(chan struct{}, 10), make(chan error, 10)
				stopBegins, stopEnds := make(chan context.Context, 10), make(chan error, 10)
				registry := NewRegistry()
				registry.RegisterWith("test/patient", func() Task {
					quit := make(chan struct{})
					return (&script{
						provide: func(ctx context.Context) (context.Context, func(), error) {
							return context.WithValue(ctx, appKey{}, "app"), nil, nil
						},
						start: func(ctx context.Context) error {
							running <- struct{}{}
							select {
							case <-ctx.Done():
								causes <- context.Cause(ctx)
							case <-quit:
							}
							return ctx.Err()
						},
						stop: func(ctx context.Context) error {
							defer close(quit)
							stopBegins <- ctx
							hold.wait()
							stopEnds <- ctx.Err()
							return nil
						},
					}).task()
				}, TaskOptions{StopTimeout: time.Hour})
				runner := e.runner(t, registry, longLease)
				client := e.client(t)
				id := start(t, client, "test/patient", nil)
				receive(t, "runs", running)
				var stopContext context.Context
				if toldBefore {
					require.NoError(t, client.Stop(t.Context(), id))
					stopContext = receive(t, "Stop", stopBegins)
					require.Empty(t, causes)
				}
				runner.engines["default"].loseAll()
				require.ErrorIs(t, receive(t, "cancelled while Stop has an hour", causes), ErrLeaseLost)
				if !toldBefore {
					stopContext = receive(t, "Stop", stopBegins)
				}
				requireStopContext(t, stopContext)
				hold.open()
				require.NoError(t, receive(t, "Stop's own ctx", stopEnds), "the loss of the lease cancelled it")
				if toldBefore {
					require.Equal(t, StateStopped, wait(t, client, id).State, "the stop is the stronger")
				} else {
					receive(t, "it goes on in another run", running)
				}
			})
		})
	}
}

func requireStopContext(t *testing.T, ctx context.Context) {
	t.Helper()
	require.Equal(t, "app", ctx.Value(appKey{}), "what ProvideContext gave")
	require.NotNil(t, FromContext(ctx))
	deadline, ok := ctx.Deadline()
	require.True(t, ok, "no deadline")
	require.True(t, deadline.After(time.Now()))
}

// The fence falls while a reload hands over: it finds the old instance, which is over, and the new one is not there yet. Nothing else
// would fence that one.
func TestFenceDuringAHandOver(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		fenced := make(chan string, 10)
		v := newVersions()
		registry := NewRegistry()
		registry.Register("test/versions", v.factory)
		runner := e.runner(t, registry, func(o *RunnerOptions) {
			longLease(o)
			o.hooks.fenced = func(queue string) { fenced <- queue }
		})
		engine := runner.engines["default"]
		client := e.client(t)
		id := start(t, client, "test/versions", "one")
		require.Equal(t, "one", receive(t, "runs", v.starts))
		slow, busy := newGate(t), make(chan struct{})
		engine.committer.do(func(context.Context) { close(busy); slow.wait() })
		receive(t, "redis is slow", busy)
		require.NoError(t, client.ReloadWith(testContext(t), id, "two"))
		require.Equal(t, "one:"+ErrReloaded.Error(), receive(t, "the old one ends", v.ends))
		eventually(t, "its hand-over waits for redis", func() bool {
			c := engine.committer
			c.mu.Lock()
			defer c.mu.Unlock()
			return slices.ContainsFunc(c.items, func(i item) bool { return i.op == opSwap })
		})
		engine.lease.set(true, time.Now().Add(-45*time.Minute))
		receive(t, "fenced", fenced)
		slow.open()
		eventually(t, "the new one is back in line", func() bool {
			return e.rdb.LLen(t.Context(), e.key("wait")).Val() == 1
		})
		require.Empty(t, v.starts, "it never began")
		engine.lease.check <- struct{}{} // the network is back
		require.Equal(t, "two", receive(t, "it runs under a good lease", v.starts))
	})
}
