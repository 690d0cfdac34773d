package store

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

func (e *env) blocker(runner string) *Blocker {
	e.t.Helper()
	b, err := e.queue.NewBlocker(e.ctx(), runner)
	require.NoError(e.t, err)
	e.t.Cleanup(func() { _ = b.Close() })
	return b
}

type waited struct {
	found bool
	err   error
}

// waitIn calls Wait in a goroutine of its own.
func waitIn(ctx context.Context, b *Blocker) <-chan waited {
	result := make(chan waited, 1)
	go func() {
		found, err := b.Wait(ctx, 20*time.Second)
		result <- waited{found, err}
	}()
	return result
}

func (e *env) receive(from <-chan waited) waited {
	e.t.Helper()
	select {
	case got := <-from:
		return got
	case <-e.ctx().Done():
		require.FailNow(e.t, "Wait did not return")
		panic("unreachable")
	}
}

func TestBlocker(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := e.blocker("r")
		began := time.Now()
		found, err := b.Wait(e.ctx(), time.Second)
		require.NoError(t, err)
		require.False(t, found)
		require.GreaterOrEqual(t, time.Since(began), 900*time.Millisecond)

		e.start("there", "next")
		found, err = b.Wait(e.ctx(), time.Second)
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, []string{"there"}, e.list(e.keys.inbox("r")))
		require.Equal(t, []string{"next"}, e.line(), "one push wakes for one ID")
		e.do("DEL", e.keys.wait)

		result := waitIn(e.ctx(), b)
		e.start("pushed") // before the call blocks or after it: either way it comes
		require.Equal(t, waited{found: true}, e.receive(result))
		require.Equal(t, []string{"pushed", "there"}, e.list(e.keys.inbox("r")))
		e.register("r")
		require.Equal(t, []string{"there", "pushed"}, claimed(e.commit("r", 5, nil)))
	})
}

// A task given back inside a script wakes an idle runner.
func TestBlockerWokenByAScript(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		claim := e.own("r", "x")["x"]
		result := waitIn(e.ctx(), e.blocker("idle"))
		e.commit("r", 0, func(b *Batch) { items["wait"](b, &claim) })
		require.Equal(t, waited{found: true}, e.receive(result))
		require.Equal(t, []string{"x"}, e.list(e.keys.inbox("idle")))
	})
}

// Interrupt ends the call with an answer: no ID was moved, and the next call works.
func TestBlockerInterrupt(t *testing.T) {
	t.Parallel()
	e := onRedis(t)
	b := e.blocker("r")
	result := waitIn(e.ctx(), b)
	require.Eventually(t, func() bool { // the first may come before the call blocks
		require.True(t, b.Interrupt(e.ctx()))
		return len(result) == 1
	}, 20*time.Second, 5*time.Millisecond)
	require.Equal(t, waited{}, e.receive(result))
	e.start("x")
	found, err := b.Wait(e.ctx(), time.Second)
	require.NoError(t, err)
	require.True(t, found)
}

// Redis before 8.2, and Valkey before 8.1.2, panic when CLIENT UNBLOCK ends a call that CLIENT PAUSE, or a failover, has postponed
// (redis/redis#14164). An interrupt is postponed as that call is.
func TestBlockerInterruptWhileWritesArePaused(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	e := newEnv(t, server.Addr, "p")
	b := e.blocker("r")
	e.do("CLIENT", "PAUSE", 60_000, "WRITE")
	result := waitIn(e.ctx(), b)
	blocked := func(n int) {
		require.Eventually(t, func() bool {
			info, err := e.rdb.Info(e.ctx(), "clients").Result()
			require.NoError(t, err)
			return strings.Contains(info, fmt.Sprintf("blocked_clients:%d\r", n))
		}, 20*time.Second, 5*time.Millisecond)
	}
	blocked(1)
	interrupted := make(chan bool, 1)
	go func() { interrupted <- b.Interrupt(e.ctx()) }()
	blocked(2)
	e.do("CLIENT", "UNPAUSE")
	require.True(t, <-interrupted)
	require.Equal(t, waited{}, e.receive(result))
}

// A server that cannot interrupt says so; Close ends the call.
func TestBlockerClose(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := e.blocker("r")
		if e.mini != nil {
			require.False(t, b.Interrupt(e.ctx()))
		}
		result := waitIn(e.ctx(), b)
		require.NoError(t, b.Close())
		got := e.receive(result)
		require.False(t, got.found)
		require.Error(t, got.err)
	})
}

func TestBlockerOnKeysOfTheWrongType(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := e.blocker("r")
		e.start("x")
		e.spoil(e.keys.inbox("r"))
		_, err := b.Wait(e.ctx(), time.Second)
		require.ErrorIs(t, err, ErrWrongType)
		require.Equal(t, []string{"x"}, e.line(), "it stays in line")
	})
}

// A blocker takes no connection of the user's pool.
func TestBlockerHasItsOwnConnection(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		small := redis.NewClient(&redis.Options{Addr: e.rdb.Options().Addr, PoolSize: 1, PoolTimeout: time.Second})
		t.Cleanup(func() { _ = small.Close() })
		queue := New(small, e.store.prefix).Queue("q")
		b, err := queue.NewBlocker(e.ctx(), "r")
		require.NoError(t, err)
		t.Cleanup(func() { _ = b.Close() })
		result := waitIn(e.ctx(), b)
		for range 3 {
			require.NoError(t, small.Ping(e.ctx()).Err())
		}
		faults, err := queue.Start(e.ctx(), []NewTask{{ID: "x", Task: "test/a", Data: "1"}})
		require.NoError(t, err)
		require.NoError(t, faults[0])
		require.Equal(t, waited{found: true}, e.receive(result))
	})
}

func TestBlockerRefusesOtherClients(t *testing.T) {
	t.Parallel()
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": "127.0.0.1:1"}})
	t.Cleanup(func() { _ = ring.Close() })
	_, err := New(ring, "p").Queue("q").NewBlocker(testContext(t), "r")
	require.ErrorContains(t, err, "*redis.Ring")

	away := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1})
	t.Cleanup(func() { _ = away.Close() })
	_, err = New(away, "p").Queue("q").NewBlocker(testContext(t), "r")
	require.ErrorContains(t, err, "connect")
	require.False(t, Answered(err))
}

func TestReadsMaster(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		options redis.ClusterOptions
		fine    bool
	}{
		"plain":      {redis.ClusterOptions{}, true},
		"read-only":  {redis.ClusterOptions{ReadOnly: true}, false},
		"by latency": {redis.ClusterOptions{RouteByLatency: true}, false},
		"random":     {redis.ClusterOptions{RouteRandomly: true}, false},
	}
	for name, c := range cases {
		c.options.Addrs = []string{"127.0.0.1:1"}
		rdb := redis.NewClusterClient(&c.options)
		err := ReadsMaster(rdb)
		require.NoError(t, rdb.Close())
		if c.fine {
			require.NoError(t, err, name)
			continue
		}
		require.ErrorContains(t, err, "reads from replicas", name)
	}
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	require.NoError(t, ReadsMaster(rdb))
	require.NoError(t, rdb.Close())
}
