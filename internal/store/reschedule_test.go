package store

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Whatever a task is told, and however often, it is on one key, at the last time that it was told.
func TestReschedule(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.start("x")
		at := time.Now().Add(time.Hour).UnixMilli()
		for range 2 { // the second is a replay of one whose answer was lost
			require.NoError(t, e.queue.Reschedule(e.ctx(), "x", at, 0))
			require.Equal(t, "SCHEDULED", e.state("x"))
			require.Equal(t, at, integer(t, e.hash("x")["due_at"]))
			require.Equal(t, at, int64(e.rdb.ZScore(e.ctx(), e.keys.scheduled, "x").Val()))
		}
		e.register("r")
		require.Empty(t, e.commit("r", 10, nil).Claims, "what its ID left in the line is dropped")
		before := time.Now()
		require.NoError(t, e.queue.Reschedule(e.ctx(), "x", 0, time.Minute))
		require.WithinRange(t, time.UnixMilli(integer(t, e.hash("x")["due_at"])), before.Add(time.Minute-time.Second), time.Now().Add(time.Minute+time.Second))
		for _, past := range []int64{1, 0, 1} {
			require.NoError(t, e.queue.Reschedule(e.ctx(), "x", past, 0))
			require.Equal(t, []string{"x"}, e.line(), "once")
			require.Empty(t, e.zset(e.keys.scheduled))
			require.NotContains(t, e.hash("x"), "state")
			require.NotContains(t, e.hash("x"), "due_at")
		}
		require.Len(t, e.commit("r", 10, nil).Claims, 1)
		require.ErrorIs(t, e.queue.Reschedule(e.ctx(), "x", at, 0), ErrRunning)
		e.set("x", "state", "ENDED")
		require.ErrorIs(t, e.queue.Reschedule(e.ctx(), "x", at, 0), ErrFinal)
		require.ErrorIs(t, e.queue.Reschedule(e.ctx(), "nobody", at, 0), ErrMissing)
		require.Empty(t, e.hash("nobody"))
		require.Empty(t, e.zset(e.keys.scheduled))
	})
}

// One that has options goes to its own line when it is brought forward, behind those of its key.
func TestRescheduleOfATaskWithOptions(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		for _, id := range []string{"first", "second", "low"} {
			options := `{"key":"k","ordered":true}`
			if id == "low" {
				options = `{"priority":"low"}`
			}
			e.set(id, "task", "test/a", "state", "SCHEDULED", "options", options)
			e.do("ZADD", e.keys.scheduled, 1e15, id)
			require.NoError(t, e.queue.Reschedule(e.ctx(), id, 1, 0))
		}
		require.Equal(t, []string{"low"}, e.list(e.keys.wait+":low"))
		require.Equal(t, []string{"first", "second"}, e.zset(e.keys.base+"order:k"))
		require.Contains(t, e.line(), "first")
		require.NotContains(t, e.line(), "second")
		e.requireNoneLost(nil, "first")
	})
}

// A call that is cut has copied before it removed, and has not marked as done what it did not do: made again, it does it.
func TestRetryAndRescheduleCut(t *testing.T) {
	for name, call := range map[string]func(e *env) error{
		"retry":      func(e *env) error { return e.queue.Retry(e.ctx(), "x", "n") },
		"reschedule": func(e *env) error { return e.queue.Reschedule(e.ctx(), "x", 1, 0) },
		"promote":    func(e *env) error { _, err := e.queue.Promote(e.ctx(), 10); return err },
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				e.set("x", "task", "test/a", "state", "SCHEDULED", "nonce", "of its start")
				e.do("ZADD", e.keys.scheduled, 1, "x")
				mend := e.spoilAside(e.keys.wait)
				require.ErrorIs(t, call(e), ErrWrongType)
				require.Equal(t, "SCHEDULED", e.state("x"))
				require.Equal(t, []string{"x"}, e.zset(e.keys.scheduled))
				mend()
				for range 2 {
					require.NoError(t, call(e))
					require.Equal(t, []string{"x"}, e.line())
					require.Empty(t, e.zset(e.keys.scheduled))
				}
			})
		})
	}
}

// A full Redis still lets a task be put off, brought forward, retried, and become due.
func TestFullReschedule(t *testing.T) {
	e := onFull(t, func(e *env) {
		e.start("in line")
		for _, id := range []string{"forward", "later", "retry", "due"} {
			e.set(id, "task", "test/a", "state", "SCHEDULED")
			e.do("ZADD", e.keys.scheduled, 1e15, id)
		}
	})
	at := time.Now().Add(time.Hour).UnixMilli()
	require.NoError(t, e.queue.Reschedule(e.ctx(), "in line", at, 0))
	require.NoError(t, e.queue.Reschedule(e.ctx(), "later", at, 0))
	require.NoError(t, e.queue.Reschedule(e.ctx(), "forward", 1, 0))
	require.NoError(t, e.queue.Retry(e.ctx(), "retry", "n"))
	require.NoError(t, e.rdb.Eval(e.ctx(), `redis.call('DEL', KEYS[2]); return redis.call('ZADD', KEYS[1], 1, 'due')`, []string{e.keys.scheduled, "room"}).Err())
	promoted, err := e.queue.Promote(e.ctx(), 10)
	require.NoError(t, err)
	require.Equal(t, 1, promoted.Moved)
	require.Contains(t, e.line(), "due")
}

// One that waits for a limit leaves its place there; the one that it was brought forward in the place of comes instead.
func TestRescheduleOfAHeldTask(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.registerWithLimits("r", `{"concurrency":1}`)
		e.start("first", "second", "third", "fourth")
		c := e.commit("r", 10, nil).Claims[0]
		held := e.keys.base + "held:test/a"
		require.Equal(t, []string{"second", "third", "fourth"}, e.zset(held))
		at := time.Now().Add(time.Hour).UnixMilli()
		require.NoError(t, e.queue.Reschedule(e.ctx(), "second", at, 0))
		require.Equal(t, []string{"third"}, e.line(), "whether it may run shows in its claim")
		require.Equal(t, []string{"fourth"}, e.zset(held))
		require.NotContains(t, e.hash("second"), "held_by")
		require.NotContains(t, e.hash("second"), "place")
		e.commit("r", 0, func(b *Batch) { b.Leave("first", c.member(), &Leave{State: "ENDED", Event: tail(&c, 1), Holds: true}) })
		require.NoError(t, e.queue.Reschedule(e.ctx(), "third", at, 0))
		require.Equal(t, []string{"fourth"}, claimed(e.commit("r", 10, nil)))
	})
}
