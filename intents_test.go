package redtask

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// A stop that was recorded while the runner heard nothing is obeyed when it listens again; the next renewal may be long after that.
func TestStopWhileTheRunnerIsDeaf(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		p := newProxy(t, e.rdb.Options().Addr)
		via := newEnv(t, p.addr(), e.mini)
		via.prefix, via.log = e.prefix, e.log
		b := newBlocker()
		renewed := make(chan string, 100)
		runner := via.runner(t, blockRegistry(b), func(o *RunnerOptions) {
			longLease(o)
			o.hooks.renewed = func(queue string) { renewed <- queue }
		})
		id := start(t, e.client(t), "test/block", nil)
		receive(t, "runs", b.running)
		p.cut(false, true)
		require.NoError(t, e.rdb.HSet(t.Context(), e.key("control:"+runner.ID()), id, "stop").Err())
		p.allow()
		require.ErrorIs(t, receive(t, "told", b.causes), ErrStopped)
		require.Equal(t, StateStopped, wait(t, e.client(t), id).State)
		require.Empty(t, renewed)
	})
}

// lateAnswer holds back the answer of one command on a key, once armed.
type lateAnswer struct {
	lossy
	command, key string
	armed        atomic.Bool
	held         chan struct{}
	release      *gate
}

func (l *lateAnswer) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if cmd.Name() == l.command && cmd.Args()[1] == l.key && l.armed.CompareAndSwap(true, false) {
			close(l.held)
			l.release.wait()
		}
		return err
	}
}

// An intent is read, and before it is obeyed its run ends and another of the same ID begins: that one is not meant.
func TestIntentForAnEarlierRun(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		own := e.hooked(t, func(int) error { return nil })
		running, end := make(chan *Run, 10), make(chan error)
		registry := NewRegistry()
		registry.Register("test/x", Func(func(ctx context.Context, _ any) error {
			running <- FromContext(ctx)
			select {
			case err := <-end:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		}))
		renewed := make(chan string, 10)
		runner := own.runner(t, registry, func(o *RunnerOptions) {
			longLease(o)
			o.hooks.renewed = func(queue string) { renewed <- queue }
		})
		control := e.key("control:" + runner.ID())
		late := &lateAnswer{command: "hgetall", key: control, held: make(chan struct{}), release: newGate(t)}
		own.rdb.AddHook(late)
		client := e.client(t)
		_, err := client.StartWith(testContext(t), "test/x", nil, StartOptions{ID: "42"})
		require.NoError(t, err)
		first := receive(t, "first run", running)
		require.NoError(t, e.rdb.HSet(t.Context(), control, "42", "stop").Err())
		late.armed.Store(true)
		runner.engines["default"].lease.check <- struct{}{}
		receive(t, "the intent is read", late.held)
		end <- nil
		require.Equal(t, StateEnded, wait(t, client, "42").State, "an ordinary end wins")
		require.Zero(t, e.rdb.Exists(t.Context(), control).Val(), "and settles the intent")
		_, err = client.StartWith(testContext(t), "test/x", nil, StartOptions{ID: "42"})
		require.NoError(t, err)
		second := receive(t, "second run", running)
		require.Greater(t, second.Epoch(), first.Epoch())
		late.release.open()
		receive(t, "what was read is done", renewed)
		second.mu.Lock()
		told := second.told
		second.mu.Unlock()
		require.NoError(t, told, "stopped for an intent of the run before")
		end <- nil
		require.Equal(t, StateEnded, wait(t, client, "42").State)
	})
}
