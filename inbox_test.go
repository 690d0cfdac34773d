package redtask

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

// A slot may be taken for months: an ID that comes to a full runner's inbox goes back to where others find it.
func TestInboxOfAFullRunner(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		registry := NewRegistry()
		registry.Register("test/block", b.factory)
		idle := make(chan string, 100)
		runner := e.runner(t, registry, func(o *RunnerOptions) {
			o.Queues = map[string]int{"default": 1}
			o.hooks.idle = func(queue string) { idle <- queue }
		})
		receive(t, "idle", idle)
		client := e.client(t)
		start(t, client, "test/block", nil)
		receive(t, "the slot is taken", b.running)
		runner.engines["default"].fetcher.await() // as an empty claim does that came at the wrong moment
		second := start(t, client, "test/block", nil)
		other := e.runner(t, registry, nil)
		run := receive(t, "the second runs on the other runner", b.running)
		require.Equal(t, second, run.ID())
		require.Equal(t, other.engines["default"], run.engine)
	})
}

func TestInboxOfARunnerThatShutsDown(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		running, end := make(chan struct{}), make(chan struct{})
		registry := NewRegistry()
		registry.Register("test/long", Func(func(context.Context, any) error { close(running); <-end; return nil }))
		registry.Register("test/end", Func(func(context.Context, any) error { return nil }))
		first := e.runner(t, registry, func(o *RunnerOptions) { o.Queues, o.Grace = map[string]int{"default": 1}, time.Minute })
		client := e.client(t)
		long := start(t, client, "test/long", nil)
		receive(t, "run", running)
		require.NoError(t, e.rdb.HSet(t.Context(), e.key("task:caught"), "task", "test/end").Err())
		require.NoError(t, e.rdb.LPush(t.Context(), e.key("inbox:"+first.ID()), "caught").Err())
		done := make(chan error, 1)
		go func() { done <- shutdown(t, first) }()
		eventually(t, "it is back in line while the long one still has its grace", func() bool {
			return e.rdb.LLen(t.Context(), e.key("wait")).Val() == 1
		})
		e.runner(t, registry, nil)
		require.Equal(t, StateEnded, wait(t, client, "caught").State)
		close(end)
		require.NoError(t, receive(t, "shutdown", done))
		require.Equal(t, StateEnded, wait(t, client, long).State)
	})
}

// claimHeld keeps back the answer of one commit that claims, once armed.
type claimHeld struct {
	lossy
	armed   atomic.Bool
	held    chan struct{}
	release *gate
}

func (c *claimHeld) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		const want = 3 + keysOfCommit + 4 // evalsha, digest, number of keys; the keys; base, runner, batch, the one before
		if args := cmd.Args(); len(args) > want && args[2] == keysOfCommit && fmt.Sprint(args[want]) != "0" && c.armed.CompareAndSwap(true, false) {
			close(c.held)
			c.release.wait()
		}
		return err
	}
}

// An ID that arrives while a claim is under way, which does not see it any more, is claimed by the next one.
func TestWakeUpDuringAClaim(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.Register("test/end", Func(func(context.Context, any) error { return nil }))
		client := e.client(t)
		plain := redis.NewClient(&redis.Options{Addr: e.rdb.Options().Addr})
		t.Cleanup(func() { _ = plain.Close() })
		slow := &env{rdb: plain, prefix: e.prefix, mini: e.mini, log: e.log}
		idle := make(chan string, 100)
		runner := slow.runner(t, registry, func(o *RunnerOptions) { o.hooks.idle = func(queue string) { idle <- queue } })
		committer := runner.engines["default"].committer
		receive(t, "idle", idle)
		hook := &claimHeld{held: make(chan struct{}), release: newGate(t)}
		plain.AddHook(hook)
		hook.armed.Store(true)
		committer.lookAgain()
		receive(t, "a claim that found nothing", hook.held)
		id := start(t, client, "test/end", nil)
		eventually(t, "the ID is in the inbox, and the committer has been told", func() bool {
			committer.mu.Lock()
			defer committer.mu.Unlock()
			return e.rdb.LLen(t.Context(), e.key("inbox:"+runner.ID())).Val() == 1 && committer.inbox
		})
		hook.release.open()
		require.Equal(t, StateEnded, wait(t, client, id).State)
	})
}

// A server that does not know yet that a blocked call was cut off still moves an ID into the inbox, after the runner has looked there.
func TestInboxIsFilledLate(t *testing.T) {
	t.Parallel()
	e := newEnv(t, redistest.Start(t).Addr, nil)
	registry := NewRegistry()
	registry.Register("test/end", Func(func(context.Context, any) error { return nil }))
	idle := make(chan string, 100)
	runner := e.runner(t, registry, func(o *RunnerOptions) { o.hooks.idle = func(queue string) { idle <- queue } })
	receive(t, "idle", idle)
	require.NoError(t, e.rdb.ClientKillByFilter(t.Context(), "TYPE", "normal", "SKIPME", "yes").Err())
	receive(t, "idle again", idle)
	require.NoError(t, e.rdb.HSet(t.Context(), e.key("task:late"), "task", "test/end").Err())
	require.NoError(t, e.rdb.LPush(t.Context(), e.key("inbox:"+runner.ID()), "late").Err())
	require.Equal(t, StateEnded, wait(t, e.client(t), "late").State)
}
