package store

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A local task belongs to its runner and goes with it.
func TestTakeOverRemovesLocalTasks(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("dead")
		epoch, err := e.queue.Adopt(e.ctx(), "dead", "local", "redtask/monitor", "null")
		require.NoError(t, err)
		require.Positive(t, epoch)
		e.own("dead", "x")
		events := e.listen()
		require.Equal(t, TakenOver{Back: 1}, e.takeOver("dead", e.expire("dead")))
		require.Empty(t, e.hash("local"))
		require.ElementsMatch(t, []string{"removed local", "wait x"}, events.kinds())
	})
}

// Members that own nothing any more are dropped, and touch nobody's task.
func TestTakeOverOfStaleMembers(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("dead")
		e.register("r")
		e.own("dead", "good")
		elsewhere := e.own("r", "elsewhere")["elsewhere"]
		e.start("waiting")
		e.set("ended", "task", "test/a", "state", "ENDED", "epoch", "7")
		e.spoil(e.keys.task("string"))
		e.do("SADD", e.keys.running("dead"), "1:elsewhere", "1:waiting", "7:ended", "1:string", "1:missing", "junk", ":", "x:y", "-1:good", "")
		before := e.hash("elsewhere")
		require.Equal(t, TakenOver{Back: 1}, e.takeOver("dead", e.expire("dead")))
		require.Equal(t, before, e.hash("elsewhere"))
		require.Equal(t, []string{elsewhere.member()}, e.members("r"))
		require.Equal(t, "ENDED", e.state("ended"))
		require.Equal(t, "spoilt", e.do("GET", e.keys.task("string")))
		require.Equal(t, []string{"waiting", "good"}, e.line())
		require.Zero(t, e.do("EXISTS", e.keys.running("dead")))
		require.EqualValues(t, 1, e.counter("recovered"))
	})
}

func TestTakeOverOfOddIDs(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		events := e.listen()
		e.register(`runner "of" :ü`)
		e.own(`runner "of" :ü`, oddIDs...)
		require.Equal(t, TakenOver{Back: len(oddIDs)}, e.takeOver(`runner "of" :ü`, e.expire(`runner "of" :ü`)))
		require.ElementsMatch(t, oddIDs, e.line())
		for range oddIDs { // each is valid JSON that names its ID
			require.JSONEq(t, `{"reason":"recovered","recoveries":1,"runner":"runner \"of\" :ü"}`, string(events.next().Data))
		}
	})
}

// The old runner is fenced out by the takeover: its end does not overwrite the next run, also after it registered again.
func TestTakeOverFencesTheOldRunner(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("old")
		e.register("new")
		old := e.own("old", "x")["x"]
		e.takeOver("old", e.expire("old"))
		next := e.commit("new", 1, nil).Claims[0]
		require.Greater(t, next.Epoch, old.Epoch)
		require.Equal(t, 1, next.Attempt)
		before := e.hash("x")
		for _, registered := range []bool{false, true} {
			want := &Result{Outcome: Unregistered}
			if registered {
				e.register("old")
				want = &Result{Outcome: Applied, Codes: []string{"lost", "lost"}}
			}
			got := e.commit("old", 0, func(b *Batch) {
				items["write"](b, &old)
				items["ended"](b, &old)
			})
			require.Equal(t, want.Outcome, got.Outcome)
			require.Equal(t, want.Codes, got.Codes)
			require.Equal(t, before, e.hash("x"))
		}
		require.Equal(t, []string{"ok"}, e.commit("new", 0, func(b *Batch) { items["ended"](b, &next) }).Codes)
	})
}

// An ID that reached the inbox of a runner without tasks is not lost.
func TestTakeOverOfAnIdleRunner(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("dead")
		e.start("x", "y", "z")
		for range 3 {
			e.do("LMOVE", e.keys.wait, e.keys.inbox("dead"), "RIGHT", "LEFT")
		}
		require.Equal(t, TakenOver{}, e.takeOver("dead", e.expire("dead")))
		require.ElementsMatch(t, []string{"x", "y", "z"}, e.line())
		require.Empty(t, e.zset(e.keys.runners))
		require.Zero(t, e.counter("recovered"))
	})
}

// A lease counts by Redis' clock.
func TestTakeOverUsesTheClockOfRedis(t *testing.T) {
	t.Parallel()
	e := onMini(t)
	begin := time.UnixMilli(1_000_000_000_000)
	e.mini.SetTime(begin)
	e.register("dead")
	e.own("dead", "x")
	leases, clock, err := e.queue.Leases(e.ctx())
	require.NoError(t, err)
	require.Equal(t, Clock{Now: begin.UnixMilli()}, clock)
	require.Equal(t, []Lease{{Runner: "dead", End: begin.UnixMilli() + 60_000}}, leases)
	recovery := DefaultRecovery()
	recovery.LeaseEnd = leases[0].End
	e.mini.SetTime(begin.Add(time.Minute - time.Millisecond))
	require.True(t, e.takeOver("dead", &recovery).Renewed, "a millisecond too early")
	e.mini.SetTime(begin.Add(time.Minute + time.Millisecond))
	require.Equal(t, TakenOver{Back: 1}, e.takeOver("dead", &recovery))
}
