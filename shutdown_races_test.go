package redtask

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

// answers sees each command of a client, and may answer in the place of the server.
type answers struct {
	lossy
	answer func(next func() error, cmd *redis.Cmd) error
}

func (a *answers) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if script, ok := cmd.(*redis.Cmd); ok && cmd.Name() == "evalsha" {
			return a.answer(func() error { return next(ctx, cmd) }, script)
		}
		return next(ctx, cmd)
	}
}

// answered is the same server through a client of its own, whose script calls answer decides on.
func (e *env) answered(t *testing.T, answer func(next func() error, cmd *redis.Cmd) error) *env {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: e.rdb.Options().Addr})
	t.Cleanup(func() { _ = rdb.Close() })
	rdb.AddHook(&answers{answer: answer})
	return &env{rdb: rdb, prefix: e.prefix, mini: e.mini, log: e.log}
}

func loseAnswer(cmd *redis.Cmd) error {
	cmd.SetErr(errLostReply)
	return errLostReply
}

// claimed reports whether the answer of a commit brought tasks.
func claimed(cmd *redis.Cmd) bool {
	values, ok := cmd.Val().([]any)
	if !ok || len(values) != 8 {
		return false
	}
	claims, ok := values[3].([]any)
	return ok && len(claims) > 0
}

// A shutdown during a claim whose answer is lost gives back what it had claimed, which nothing but comparing finds.
func TestShutdownAfterALostClaim(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		for range 5 {
			var armed atomic.Bool
			lost := make(chan struct{})
			own := e.answered(t, func(next func() error, cmd *redis.Cmd) error {
				err := next()
				if err == nil && claimed(cmd) && armed.CompareAndSwap(true, false) {
					close(lost)
					return loseAnswer(cmd)
				}
				return err
			})
			idle := make(chan string, 10)
			runner := own.runner(t, blockRegistry(newBlocker()), func(o *RunnerOptions) {
				o.Locals = []Local{}
				o.hooks.idle = func(queue string) { idle <- queue }
			})
			receive(t, "idle", idle)
			armed.Store(true)
			id := start(t, e.client(t), "test/block", nil)
			receive(t, "lost", lost)
			require.NoError(t, shutdown(t, runner))
			require.Zero(t, e.rdb.SCard(t.Context(), e.key("running:"+runner.ID())).Val())
			require.Equal(t, []string{id}, e.rdb.LRange(t.Context(), e.key("wait"), 0, -1).Val())
			require.NoError(t, e.client(t).Remove(t.Context(), id))
			require.NoError(t, e.rdb.Del(t.Context(), e.key("wait")).Err())
		}
	})
}

// A shutdown waits for an end that Redis could not take just now.
func TestShutdownWaitsForAnEndThatIsAway(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		var once atomic.Bool
		away := make(chan struct{})
		own := e.answered(t, func(next func() error, cmd *redis.Cmd) error {
			if slices.Contains(cmd.Args(), any("ENDED")) && once.CompareAndSwap(false, true) {
				cmd.SetVal([]any{"ok", "0", []any{int64(1), "away:TRYAGAIN Multiple keys request during rehashing of slot"}, []any{}, "", []any{}, []any{}, int64(0)})
				close(away)
				return nil
			}
			return next()
		})
		gate, running := newGate(t), make(chan struct{}, 1)
		registry := NewRegistry()
		registry.Register("test/ok", Func(func(context.Context, any) error { running <- struct{}{}; gate.wait(); return nil }))
		runner := own.runner(t, registry, func(o *RunnerOptions) { o.Locals = []Local{} })
		id := start(t, e.client(t), "test/ok", nil)
		receive(t, "runs", running)
		eventually(t, "its first events are out", func() bool {
			c := runner.engines["default"].committer
			c.mu.Lock()
			defer c.mu.Unlock()
			return len(c.items) == 0
		})
		gate.open()
		receive(t, "the end is away", away)
		require.NoError(t, shutdown(t, runner))
		require.Equal(t, "ENDED", e.rdb.HGet(t.Context(), e.key("task:"+id), "state").Val())
	})
}

// Tasks that a shutdown had to leave behind are cancelled before others take them over, however long their Stop may take.
func TestFenceAfterAShutdown(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		var live, most atomic.Int64
		release, running := newGate(t), make(chan string, 10)
		registry := NewRegistry()
		registry.RegisterWith("test/slow", func() Task {
			return (&script{
				start: func(ctx context.Context) error {
					most.Store(max(most.Load(), live.Add(1)))
					defer live.Add(-1)
					running <- FromContext(ctx).engine.runnerID
					select {
					case <-ctx.Done():
					case <-release.opened:
					}
					return ctx.Err()
				},
				stop: func(context.Context) error { release.wait(); return nil }, // its time is StopTimeout
			}).task()
		}, TaskOptions{StopTimeout: time.Minute})
		left, err := NewRunner(e.rdb, registry, fast(e))
		require.NoError(t, err)
		require.NoError(t, left.Start(t.Context()))
		start(t, e.client(t), "test/slow", nil)
		require.Equal(t, left.ID(), receive(t, "runs", running))
		other := e.runner(t, registry, fastLease)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		require.ErrorContains(t, left.Shutdown(ctx), "test/slow")
		require.Equal(t, other.ID(), receive(t, "runs again", running))
		require.EqualValues(t, 1, most.Load(), "at once")
		release.open()
	})
}

func fast(e *env) RunnerOptions {
	o := RunnerOptions{Prefix: e.prefix, Logger: e.logger(), Grace: NoGrace}
	fastLease(&o)
	return o
}

// Whatever is in the way, Shutdown returns soon after its ctx ends: here a Redis that is away, for several queues.
func TestShutdownMindsItsContext(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	e := newEnv(t, server.Addr, nil)
	options := RunnerOptions{Prefix: e.prefix, Logger: e.logger(), Queues: map[string]int{}, Lease: time.Hour}
	for i := range 4 {
		options.Queues[fmt.Sprint("q", i)] = 1
	}
	registered := make(chan string, 10)
	options.hooks.registered = func(queue string) { registered <- queue }
	runner, err := NewRunner(e.rdb, blockRegistry(newBlocker()), options)
	require.NoError(t, err)
	require.NoError(t, runner.Start(t.Context()))
	for range options.Queues {
		receive(t, "registered", registered)
	}
	server.Kill()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- runner.Shutdown(ctx) }()
	require.Error(t, receive(t, "an hour's lease has renewals each 20 minutes: it does not wait for those", done))
}

// A ctx that ends before the grace does is time enough for tasks that obey.
func TestShutdownWithLessTimeThanGrace(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		runner := e.runner(t, blockRegistry(b), func(o *RunnerOptions) { o.Grace = time.Hour })
		id := start(t, e.client(t), "test/block", nil)
		receive(t, "runs", b.running)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		require.NoError(t, runner.Shutdown(ctx))
		require.ErrorIs(t, receive(t, "told", b.causes), ErrShutdown)
		require.Equal(t, []string{id}, e.rdb.LRange(t.Context(), e.key("wait"), 0, -1).Val())
	})
}

// A ctx that has ended leaves a moment for what needs no more.
func TestShutdownOfAnIdleRunnerWithAnEndedContext(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		idle := make(chan string, 10)
		runner := e.runner(t, blockRegistry(newBlocker()), func(o *RunnerOptions) { o.hooks.idle = func(queue string) { idle <- queue } })
		receive(t, "idle", idle)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.NoError(t, runner.Shutdown(ctx))
	})
}
