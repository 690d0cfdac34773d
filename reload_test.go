package redtask

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestReload(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		v := newVersions()
		registry := NewRegistry()
		registry.Register("test/versions", v.factory)
		e.runner(t, registry, nil)
		client := e.client(t)
		id := start(t, client, "test/versions", "one")
		require.Equal(t, "one", receive(t, "start", v.starts))
		before, err := client.Get(testContext(t), id)
		require.NoError(t, err)

		require.NoError(t, client.ReloadWith(testContext(t), id, "two"))
		require.Equal(t, "one:"+ErrReloaded.Error(), receive(t, "end of the old", v.ends))
		require.Equal(t, "two", receive(t, "start of the new", v.starts))
		after, err := client.Get(testContext(t), id)
		require.NoError(t, err)
		require.JSONEq(t, `"two"`, string(after.Data))
		require.Greater(t, after.Epoch, before.Epoch)
		require.Equal(t, StateRunning, after.State)
		require.Equal(t, 1, after.Attempt)
		require.False(t, e.rdb.HExists(t.Context(), e.key("task:"+id), "reload_data").Val())

		require.NoError(t, client.Stop(testContext(t), id))
		require.Equal(t, StateStopped, wait(t, client, id).State)
	})
}

func TestReloadThatFailsKeepsTheOld(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		v := newVersions()
		registry := NewRegistry()
		registry.Register("test/versions", v.factory)
		e.runner(t, registry, nil)
		client := e.client(t)
		id := start(t, client, "test/versions", "one")
		require.Equal(t, "one", receive(t, "start", v.starts))
		events, err := client.Watch(testContext(t), id)
		require.NoError(t, err)

		require.NoError(t, client.ReloadWith(testContext(t), id, "bad"))
		for event := range events {
			if event.Name == EventReloadFailed {
				require.Contains(t, string(event.Data), "cannot do bad")
				break
			}
		}
		key := e.key("task:" + id)
		eventually(t, "data restored", func() bool { return !e.rdb.HExists(t.Context(), key, "reload_data").Val() })
		require.Equal(t, `"one"`, e.rdb.HGet(t.Context(), key, "data").Val())
		require.Empty(t, v.ends, "the old one goes on")

		// The same by hand: the hash's data changed, then the word.
		e.rdb.HSet(t.Context(), key, "data", `"bad"`)
		e.publish(t, id, "reload")
		eventually(t, "data restored", func() bool { return e.rdb.HGet(t.Context(), key, "data").Val() == `"one"` })
		e.rdb.HSet(t.Context(), key, "data", `"three"`)
		e.publish(t, id, "reload")
		require.Equal(t, "three", receive(t, "start of the new", v.starts))
		require.NoError(t, client.Stop(testContext(t), id))
		wait(t, client, id)
	})
}

// slowSuccessor makes one task of b, and then one whose Init closes inInit and lasts until it is cancelled.
func slowSuccessor(b *blocker, inInit chan struct{}) Factory {
	first := true
	return func() Task {
		task := b.factory().(scripted)
		if first {
			first = false
			return task
		}
		task.script.init = func(ctx context.Context, _ json.RawMessage) error {
			close(inInit)
			<-ctx.Done()
			return ctx.Err()
		}
		return task
	}
}

// A stop beats a reload: the new instance's Init is cancelled and it never starts.
func TestStopBeatsReload(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		inInit, b := make(chan struct{}), newBlocker()
		registry := NewRegistry()
		registry.Register("test/slow", slowSuccessor(b, inInit))
		e.runner(t, registry, nil)
		client := e.client(t)
		id := start(t, client, "test/slow", nil)
		receive(t, "run", b.running)
		require.NoError(t, client.ReloadWith(testContext(t), id, "two"))
		receive(t, "init of the new", inInit)
		require.NoError(t, client.Stop(testContext(t), id))
		require.Equal(t, StateStopped, wait(t, client, id).State)
		require.Empty(t, b.running)
	})
}

// An ordinary end beats a reload whose new instance is not ready.
func TestEndBeatsReload(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		inInit, end := make(chan struct{}), make(chan struct{})
		registry := NewRegistry()
		instances := 0
		registry.Register("test/slow", func() Task {
			instances++
			if instances == 1 {
				return (&script{start: func(ctx context.Context) error {
					<-end
					return FromContext(ctx).SetOutput("first")
				}}).task()
			}
			return (&script{init: func(ctx context.Context, _ json.RawMessage) error {
				close(inInit)
				<-ctx.Done()
				return ctx.Err()
			}}).task()
		})
		e.runner(t, registry, nil)
		client := e.client(t)
		id := start(t, client, "test/slow", nil)
		eventually(t, "running", func() bool { r, err := client.Get(testContext(t), id); return err == nil && r.State == StateRunning })
		require.NoError(t, client.ReloadWith(testContext(t), id, "two"))
		receive(t, "init of the new", inInit)
		close(end)
		record := wait(t, client, id)
		require.Equal(t, StateEnded, record.State)
		require.JSONEq(t, `"first"`, string(record.Output))
	})
}

// cutSwap loses the answer of the commit that hands a task from one run to the next.
type cutSwap struct {
	lossy
	before func() // runs before that commit
	once   sync.Once
}

func (c *cutSwap) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		var lost error
		if cmd.Name() == "evalsha" && slices.Contains(cmd.Args(), any("swap")) {
			c.once.Do(func() { lost = errLostReply })
		}
		if lost != nil {
			c.before()
		}
		if err := next(ctx, cmd); err != nil || lost == nil {
			return err
		}
		cmd.SetErr(lost)
		return lost
	}
}

func TestReloadWhoseAnswerIsLost(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		for _, stop := range []bool{false, true} {
			b := newBlocker()
			registry := NewRegistry()
			registry.Register("test/block", b.factory)
			plain := redis.NewClient(&redis.Options{Addr: e.rdb.Options().Addr})
			other := &env{rdb: plain, prefix: e.prefix + fmt.Sprint(stop), mini: e.mini, log: e.log}
			t.Cleanup(func() { _ = plain.Close() })
			runner := other.runner(t, registry, func(o *RunnerOptions) { o.Lease = time.Minute })
			client := other.client(t)
			id := start(t, client, "test/block", nil)
			first := receive(t, "run", b.running)
			plain.AddHook(&cutSwap{before: func() {
				if stop {
					e.rdb.HSet(t.Context(), other.key("control:"+runner.ID()), id, "stop")
				}
			}})
			require.NoError(t, client.Reload(t.Context(), id))
			require.ErrorIs(t, receive(t, "the old one is told", b.causes), ErrReloaded)
			if stop {
				require.Equal(t, StateStopped, wait(t, client, id).State)
				eventually(t, "the commit is answered", func() bool {
					return e.log.has(`msg="redis answers again" queue=default runner=` + runner.ID())
				})
				eventually(t, "only local tasks are left", func() bool { return runner.engines["default"].owned() == len(defaultLocals()) })
				require.Empty(t, b.running, "the new one never begins")
				continue
			}
			second := receive(t, "the new one", b.running)
			require.Greater(t, second.Epoch(), first.Epoch())
			require.NoError(t, client.Stop(t.Context(), id))
			require.Equal(t, StateStopped, wait(t, client, id).State)
			require.ErrorIs(t, receive(t, "end", b.causes), ErrStopped)
			require.Empty(t, b.running)
		}
	})
}

// A reload that Redis refuses fails; the old instance and the next reload work.
func TestReloadThatRedisRefuses(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		registry := NewRegistry()
		registry.Register("test/block", b.factory)
		e.runner(t, registry, nil)
		client := e.client(t)
		id := start(t, client, "test/block", nil)
		receive(t, "run", b.running)
		events, err := client.Watch(testContext(t), id)
		require.NoError(t, err)
		require.NoError(t, e.rdb.Rename(t.Context(), e.key("epoch"), e.key("kept")).Err())
		require.NoError(t, e.rdb.Set(t.Context(), e.key("epoch"), "x", 0).Err())
		require.NoError(t, client.Reload(t.Context(), id))
		for event := range events {
			if event.Name == EventReloadFailed {
				break
			}
		}
		require.Empty(t, b.causes, "the old one goes on")
		require.NoError(t, e.rdb.Rename(t.Context(), e.key("kept"), e.key("epoch")).Err())
		require.NoError(t, client.Reload(t.Context(), id))
		receive(t, "the new one", b.running)
		require.NoError(t, client.Stop(t.Context(), id))
		require.Equal(t, StateStopped, wait(t, client, id).State)
	})
}

// A task that was started without data is reloaded once, not again and again.
func TestReloadWithoutData(t *testing.T) {
	for name, fields := range map[string][]any{"absent": {"task", "test/block"}, "empty": {"task", "test/block", "data", ""}} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				b := newBlocker()
				runner := e.runner(t, blockRegistry(b), nil)
				require.NoError(t, e.rdb.HSet(t.Context(), e.key("task:42"), fields...).Err())
				require.NoError(t, e.rdb.LPush(t.Context(), e.key("wait"), "42").Err())
				receive(t, "runs", b.running)
				require.NoError(t, e.client(t).Reload(t.Context(), "42"))
				receive(t, "runs again", b.running)
				require.Empty(t, e.rdb.HGetAll(t.Context(), e.key("control:"+runner.ID())).Val())
			})
		})
	}
}

// unready answers the first calls that read a reload's data as a server does that has just been restarted.
type unready struct {
	lossy
	left   atomic.Int64
	answer error
}

func (u *unready) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "hmget" && u.left.Add(-1) >= 0 {
			cmd.SetErr(u.answer)
			return u.answer
		}
		return next(ctx, cmd)
	}
}

// A Redis that is not ready yet does not fail a reload: nobody would ask for it again.
func TestReloadWhileRedisLoads(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		own := e.hooked(t, func(int) error { return nil })
		hook := &unready{answer: e.rdb.Eval(t.Context(), "return redis.error_reply('LOADING Redis is loading the dataset in memory')", nil).Err()}
		require.True(t, redis.IsLoadingError(hook.answer), hook.answer)
		hook.left.Store(2)
		own.rdb.AddHook(hook)
		v := newVersions()
		registry := NewRegistry()
		registry.Register("test/versions", v.factory)
		own.runner(t, registry, nil)
		client := e.client(t)
		id := start(t, client, "test/versions", "one")
		require.Equal(t, "one", receive(t, "start", v.starts))
		events, err := client.Watch(testContext(t), id)
		require.NoError(t, err)
		require.NoError(t, client.ReloadWith(testContext(t), id, "two"))
		for event := range events {
			require.Equal(t, EventRunning, event.Name, "the new one runs, and nothing failed before")
			break
		}
		require.Equal(t, "two", receive(t, "start of the new", v.starts))
		require.Negative(t, hook.left.Load())
	})
}

func TestReloadWaiting(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		client := e.client(t)
		id := start(t, client, "test/versions", "one")
		require.NoError(t, client.ReloadWith(testContext(t), id, "two"))
		v := newVersions()
		registry := NewRegistry()
		registry.Register("test/versions", v.factory)
		e.runner(t, registry, nil)
		require.Equal(t, "two", receive(t, "start", v.starts))
	})
}
