package redtask

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

func blockRegistry(b *blocker) *Registry {
	registry := NewRegistry()
	registry.Register("test/block", b.factory)
	return registry
}

// A failover to a replica that had not heard of the last claim: the runner claims the ID that it runs, and goes on with it.
func TestClaimOfWhatRunsHere(t *testing.T) {
	for _, samePlace := range []bool{true, false} {
		t.Run(fmt.Sprint("same epoch ", samePlace), func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				b := newBlocker()
				idle := make(chan string, 100)
				runner := e.runner(t, blockRegistry(b), func(o *RunnerOptions) {
					o.Locals = []Local{}
					o.hooks.idle = func(queue string) { idle <- queue }
				})
				client := e.client(t)
				id := start(t, client, "test/block", nil)
				first := receive(t, "first", b.running)
				for len(idle) > 0 {
					<-idle
				}
				_, err := e.rdb.TxPipelined(t.Context(), func(p redis.Pipeliner) error {
					if samePlace {
						p.Decr(t.Context(), e.key("epoch"))
					}
					p.SRem(t.Context(), e.key("running:"+runner.ID()), first.member)
					p.HDel(t.Context(), e.key("task:"+id), "state", "epoch", "runner", "attempt", "started_at")
					p.LPush(t.Context(), e.key("wait"), id)
					return nil
				})
				require.NoError(t, err)
				if !samePlace {
					require.ErrorIs(t, receive(t, "the first is cancelled", b.causes), ErrLeaseLost)
					receive(t, "second", b.running)
				} else {
					eventually(t, "it is claimed again", func() bool { return e.rdb.SCard(t.Context(), e.key("running:"+runner.ID())).Val() == 1 })
				}
				require.NoError(t, client.Stop(t.Context(), id))
				require.ErrorIs(t, receive(t, "end", b.causes), ErrStopped)
				require.Equal(t, StateStopped, wait(t, client, id).State)
				require.Empty(t, b.running, "no more runs")
			})
		})
	}
}

// The same where the run that is overtaken ignores its ctx: the new one waits for it, since no task runs twice under one lease.
func TestClaimOfWhatHangsHere(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		running, gate := make(chan *Run, 10), newGate(t)
		registry := NewRegistry()
		registry.Register("test/hang", Func(func(ctx context.Context, _ any) error {
			running <- FromContext(ctx)
			gate.wait()
			return nil
		}))
		runner := e.runner(t, registry, func(o *RunnerOptions) { o.Locals = []Local{} })
		client := e.client(t)
		id := start(t, client, "test/hang", nil)
		first := receive(t, "first", running)
		_, err := e.rdb.TxPipelined(t.Context(), func(p redis.Pipeliner) error {
			p.SRem(t.Context(), e.key("running:"+runner.ID()), first.member)
			p.HDel(t.Context(), e.key("task:"+id), "state", "epoch", "runner", "attempt", "started_at")
			p.LPush(t.Context(), e.key("wait"), id)
			return nil
		})
		require.NoError(t, err)
		eventually(t, "it is claimed again, and the first is told", func() bool {
			return runner.engines["default"].find(id) != first && context.Cause(first.base) == ErrLeaseLost
		})
		require.Empty(t, running, "the second waits")
		gate.open()
		second := receive(t, "second", running)
		require.Greater(t, second.Epoch(), first.Epoch())
		require.Equal(t, StateEnded, wait(t, client, id).State)
	})
}

// A blocked call whose connection was cut without the server's knowledge still takes a task, into the inbox of a runner that has gone.
func TestHalfOpenConnection(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	direct := newEnv(t, server.Addr, nil)
	p := newProxy(t, server.Addr)
	via := newEnv(t, p.addr(), nil)
	via.prefix = direct.prefix
	b := newBlocker()
	blocked := func() int { return strings.Count(direct.rdb.ClientList(t.Context()).Val(), "flags=b") }
	a := via.runner(t, blockRegistry(b), fastLease)
	eventually(t, "blocks", func() bool { return blocked() == 1 })
	p.cut(true, false)
	eventually(t, "a second call blocks", func() bool { return blocked() == 2 })
	require.NoError(t, a.Shutdown(testContext(t)))
	require.Equal(t, 1, blocked())
	direct.runner(t, blockRegistry(b), fastLease)
	id := start(t, direct.client(t), "test/block", nil)
	require.Equal(t, id, receive(t, "it runs once the lease of the first has ended", b.running).ID())
}

// A claim whose answer comes after the fence has fallen would not be fenced any more: its task must not begin.
func TestClaimAnsweredAfterTheFence(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		fenced, renewed := make(chan string, 10), make(chan string, 1000)
		var cutOff atomic.Bool
		late := newGate(t)
		cut := e.hooked(t, func(keys int) error {
			switch {
			case !cutOff.Load():
			case keys == keysOfRenew:
				return errors.New("network is down")
			case keys == keysOfCommit:
				late.wait()
			}
			return nil
		})
		b := newBlocker()
		cut.runner(t, blockRegistry(b), func(o *RunnerOptions) {
			o.Lease, o.RenewInterval, o.SafetyMargin = 2*time.Second, 200*time.Millisecond, 1500*time.Millisecond
			o.hooks.fenced = func(queue string) { fenced <- queue }
			o.hooks.renewed = func(queue string) { renewed <- queue }
			o.Locals = []Local{}
		})
		receive(t, "renewed", renewed)
		cutOff.Store(true)
		client := e.client(t)
		id := start(t, client, "test/block", nil)
		receive(t, "fenced", fenced)
		late.open()
		eventually(t, "it is claimed, and given back", func() bool {
			return e.rdb.HGet(t.Context(), e.key("task:"+id), "attempt").Val() == "0" && e.rdb.LLen(t.Context(), e.key("wait")).Val() == 1
		})
		require.Empty(t, b.running)
		cutOff.Store(false)
		require.Equal(t, id, receive(t, "it runs under a new lease", b.running).ID())
	})
}

// A task that is removed while its watcher is disconnected: the watch ends.
func TestWatchFindsARemoval(t *testing.T) {
	t.Parallel()
	e := onRedis(t)
	p := newProxy(t, realRedis.Addr)
	via := newEnv(t, p.addr(), nil)
	via.prefix = e.prefix
	b := newBlocker()
	e.runner(t, blockRegistry(b), nil)
	client := e.client(t)
	id := start(t, client, "test/block", nil)
	run := receive(t, "runs", b.running)
	events, err := via.client(t).Watch(testContext(t), id)
	require.NoError(t, err)
	require.NoError(t, run.Emit("hello", nil))
	last := ""
	for event := range events {
		last = event.Name
		if event.Name == "hello" {
			p.cut(false, true)
			require.NoError(t, client.Stop(testContext(t), id))
			wait(t, client, id)
			require.NoError(t, client.Remove(testContext(t), id))
			p.allow()
		}
	}
	require.Equal(t, EventRemoved, last)
}

// Reports do not pile up while Redis is away: the last one is written when it is back.
func TestProgressWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	e := newEnv(t, server.Addr, nil)
	b := newBlocker()
	runner := e.runner(t, blockRegistry(b), func(o *RunnerOptions) { o.EventBuffer, o.Lease = 10, time.Minute })
	id := start(t, e.client(t), "test/block", nil)
	run := receive(t, "runs", b.running)
	server.Kill()
	c := runner.engines["default"].committer
	require.NoError(t, run.Progress(0))
	eventually(t, "known to be away", func() bool { return !c.healthy.Load() })
	for i := range 100_000 {
		require.NoError(t, run.Progress(i))
	}
	c.mu.Lock()
	n := len(c.items)
	c.mu.Unlock()
	require.Less(t, n, 100, "items kept in memory")
	server.Restart(t)
	eventually(t, "the last report", func() bool {
		return e.rdb.HGet(context.Background(), e.key("task:"+id), "progress").Val() == "99999"
	})
}

// A Redis that refuses everything, or is not there, is not asked more and more often, and holds up no shutdown of a runner that has nothing.
func TestRedisThatRefuses(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	require.NoError(t, server.Client(t).ConfigSet(t.Context(), "requirepass", "secret").Err())
	e := newEnv(t, server.Addr, nil)
	runner, err := NewRunner(e.rdb, blockRegistry(newBlocker()), RunnerOptions{Prefix: e.prefix, Logger: e.logger()})
	require.NoError(t, err)
	require.NoError(t, runner.Start(t.Context()))
	lines := func() int { return strings.Count(e.log.String(), "\n") }
	eventually(t, "the log says so", func() bool { return e.log.has("NOAUTH") && lines() >= 3 })
	c := runner.engines["default"].committer
	for range 1000 { // whatever wakes it up
		c.woken()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	require.NoError(t, runner.Shutdown(ctx), "nothing was lost")
	require.LessOrEqual(t, lines(), 3, "one line for each part that cannot work:\n%s", e.log)
}
