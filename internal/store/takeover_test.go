package store

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// takeOver calls TakeOver once.
func (e *env) takeOver(dead string, r *Recovery) TakenOver {
	e.t.Helper()
	done, err := e.queue.TakeOver(e.ctx(), dead, r)
	require.NoError(e.t, err)
	return done
}

func TestTakeOver(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		events := e.listen()
		e.register("dead")
		e.register("r")
		claims := e.own("dead", "a", "b")
		e.start("later")
		e.do("LPUSH", e.keys.inbox("dead"), "woken")
		e.do("HSET", e.keys.controlHash("dead"), "a", Reload)
		recovery := e.expire("dead")
		require.Equal(t, TakenOver{Back: 2}, e.takeOver("dead", recovery))
		line := e.line()
		require.ElementsMatch(t, []string{"a", "b", "woken", "later"}, line)
		require.Equal(t, "later", line[0], "what is recovered goes to the head")
		for _, id := range []string{"a", "b"} {
			hash := e.hash(id)
			require.Equal(t, "0", hash["attempt"], "a recovery is not an attempt")
			require.Equal(t, "1", hash["recoveries"])
			require.Greater(t, integer(t, hash["epoch"]), claims[id].Epoch)
			for _, field := range []string{"state", "runner", "started_at"} {
				require.NotContains(t, hash, field)
			}
			got := events.next()
			require.Equal(t, "wait", got.Event)
			require.Equal(t, "test/a", got.Task)
			require.EqualValues(t, 1, got.Seq)
			require.JSONEq(t, `{"reason":"recovered","recoveries":1,"runner":"dead"}`, string(got.Data))
			require.Equal(t, e.hash(got.ID)["epoch"], fmt.Sprint(got.Epoch))
		}
		require.EqualValues(t, 2, e.counter("recovered"))
		for _, key := range []string{e.keys.runner("dead"), e.keys.running("dead"), e.keys.inbox("dead"), e.keys.controlHash("dead")} {
			require.Zero(t, e.do("EXISTS", key), key)
		}
		require.Equal(t, []string{"r"}, e.zset(e.keys.runners))

		require.Equal(t, TakenOver{Renewed: true}, e.takeOver("dead", recovery), "a replay finds nobody")
		require.Equal(t, line, e.line())
	})
}

func TestTakeOverOfALivingRunner(t *testing.T) {
	cases := map[string]func(e *env) int64{
		"renewed since it was seen": func(e *env) int64 { e.register("r"); return 1000 },
		"its end is yet to come": func(e *env) int64 {
			e.register("r")
			leases, clock, err := e.queue.Leases(e.ctx())
			require.NoError(e.t, err)
			require.Greater(e.t, leases[0].End, clock.Now)
			return leases[0].End
		},
		"past, and another than was seen": func(e *env) int64 { e.register("r"); return e.expire("r").LeaseEnd - 1 },
	}
	for name, seen := range cases {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				e.register("r")
				claim := e.own("r", "x")["x"]
				recovery := DefaultRecovery()
				recovery.LeaseEnd = seen(e)
				before := e.hash("x")
				require.Equal(t, TakenOver{Renewed: true}, e.takeOver("r", &recovery))
				require.Equal(t, before, e.hash("x"))
				require.Equal(t, []string{claim.member()}, e.members("r"))
				e.numbers["r"] = 100
				require.Equal(t, []string{"ok"}, e.commit("r", 0, func(b *Batch) { items["ended"](b, &claim) }).Codes, "it goes on")
			})
		})
	}
}

// Each call moves so many; meanwhile the old runner is refused, and may register only when all is moved.
func TestTakeOverInSteps(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("dead")
		ids := numbered("x", 150)
		for i := 0; i < len(ids); i += 50 {
			e.own("dead", ids[i:i+50]...)
		}
		recovery := e.expire("dead")
		info := &RunnerInfo{ID: "dead", Lease: time.Minute}
		for _, left := range []int{86, 22} {
			done := e.takeOver("dead", recovery)
			require.Equal(t, TakenOver{Left: left, Back: 64}, done)
			e.requireNoneLost([]string{"dead"}, ids...)

			result := e.commit("dead", 5, func(b *Batch) { b.Write("x0", "1:x0", "checkpoint", "1") })
			require.Equal(t, Unregistered, result.Outcome)
			renewal, err := e.queue.Renew(e.ctx(), "dead", time.Minute)
			require.NoError(t, err)
			require.False(t, renewal.Held)
			epoch, err := e.queue.Adopt(e.ctx(), "dead", "local", "redtask/monitor", "null")
			require.NoError(t, err)
			require.Zero(t, epoch)
			ok, now, err := e.queue.Register(e.ctx(), info)
			require.NoError(t, err)
			require.False(t, ok)
			require.Positive(t, now)
		}
		require.Equal(t, TakenOver{Back: 22}, e.takeOver("dead", recovery))
		require.EqualValues(t, 150, e.counter("recovered"))
		require.Len(t, e.line(), 150)
		e.requireNoneLost(nil, ids...)
		ok, _, err := e.queue.Register(e.ctx(), info)
		require.NoError(t, err)
		require.True(t, ok, "all is moved: it may begin anew")
		require.Equal(t, Applied, e.commit("dead", 0, nil).Outcome)
	})
}

// From the second recovery on a task is delayed, each time twice as long, by half to one and a half of that.
func TestTakeOverDelays(t *testing.T) {
	cases := []struct {
		recoveries, jitter int
		least, most        int64 // ms
	}{
		{1, 0, 5_000, 5_000},
		{1, 999, 14_990, 14_990},
		{1, 500, 10_000, 10_000},
		{2, 0, 10_000, 10_000},
		{3, 0, 20_000, 20_000},
		{5, 0, 25_000, 25_000}, // half of the longest
		{60, 999, 74_950, 74_950},
	}
	for _, c := range cases {
		t.Run(fmt.Sprintf("after %d jitter %d", c.recoveries, c.jitter), func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				events := e.listen()
				e.register("dead")
				e.own("dead", "x")
				e.set("x", "recoveries", strconv.Itoa(c.recoveries))
				recovery := e.expire("dead")
				recovery.First, recovery.Longest, recovery.Most, recovery.Jitter = 10*time.Second, 50*time.Second, 100, c.jitter
				require.Equal(t, TakenOver{Delayed: 1}, e.takeOver("dead", recovery))
				hash := e.hash("x")
				got := events.next()
				require.Equal(t, "scheduled", got.Event)
				delay := integer(t, hash["due_at"]) - got.At
				require.GreaterOrEqual(t, delay, c.least)
				require.LessOrEqual(t, delay, c.most)
				require.Equal(t, "SCHEDULED", hash["state"])
				require.Equal(t, strconv.Itoa(c.recoveries+1), hash["recoveries"])
				require.Equal(t, "0", hash["attempt"])
				require.NotContains(t, hash, "runner")
				require.Equal(t, []string{"x"}, e.zset(e.keys.scheduled))
				require.Empty(t, e.line())
			})
		})
	}
}

// Tasks of one call are spread: the poison's neighbours come back at other times than the poison.
func TestTakeOverSpreadsDelays(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("dead")
		ids := numbered("x", 64)
		e.own("dead", ids...)
		for _, id := range ids {
			e.set(id, "recoveries", "1")
		}
		recovery := e.expire("dead")
		recovery.First, recovery.Jitter = 10*time.Second, 123
		require.Equal(t, TakenOver{Delayed: 64}, e.takeOver("dead", recovery))
		dues := map[string]bool{}
		var first, last int64
		for _, id := range ids {
			due := integer(t, e.hash(id)["due_at"])
			dues[fmt.Sprint(due)] = true
			if first == 0 || due < first {
				first = due
			}
			last = max(last, due)
		}
		require.Greater(t, len(dues), 32)
		require.Less(t, last-first, int64(10_000), "between half and one and a half of the delay")
		require.Greater(t, last-first, int64(5_000))
	})
}

func TestTakeOverOfPoison(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		events := e.listen()
		e.register("dead")
		e.own("dead", "poison", "kept", "good")
		e.set("poison", "recoveries", "3")
		e.set("kept", "recoveries", "3", "keep", "1")
		recovery := e.expire("dead")
		recovery.Most = 3
		require.Equal(t, TakenOver{Back: 1, Poisoned: 2}, e.takeOver("dead", recovery))
		hash := e.hash("poison")
		require.Equal(t, "EXCEPTION", hash["state"])
		require.Contains(t, hash["error"], "4 times")
		require.Contains(t, hash, "ended_at")
		require.Equal(t, []string{"poison"}, e.final("EXCEPTION"))
		require.Equal(t, []string{"kept"}, e.final("kept"))
		require.Equal(t, []string{"good"}, e.line())
		require.ElementsMatch(t, []string{"exception poison", "exception kept", "wait good"}, events.kinds())
	})
}

// A task that was given up and is run again by hand has all its recoveries before it.
func TestTakeOverOfPoisonRunAgainByHand(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("dead")
		e.own("dead", "x")
		e.set("x", "recoveries", "10")
		require.Equal(t, TakenOver{Poisoned: 1}, e.takeOver("dead", e.expire("dead")))
		e.set("x", "state", "WAIT")
		e.do("LPUSH", e.keys.wait, "x")
		e.register("r")
		require.Len(t, e.commit("r", 1, nil).Claims, 1)
		require.Equal(t, TakenOver{Back: 1}, e.takeOver("r", e.expire("r")))
	})
}

// A stable run forgets the recoveries before it.
func TestTakeOverAfterAStableRun(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("dead")
		e.own("dead", "stable", "young")
		recovery := e.expire("dead")
		renewed := recovery.LeaseEnd - time.Minute.Milliseconds() // long ago: that time does not count
		e.set("stable", "recoveries", "10", "started_at", fmt.Sprint(renewed-60_000))
		e.set("young", "recoveries", "1", "started_at", fmt.Sprint(renewed-59_999))
		recovery.Limit = 1 // a second call knows it too
		first := e.takeOver("dead", recovery)
		require.Equal(t, 1, first.Left)
		second := e.takeOver("dead", recovery)
		require.Equal(t, []int{1, 1, 0}, []int{first.Back + second.Back, first.Delayed + second.Delayed, second.Left})
		require.Equal(t, "1", e.hash("stable")["recoveries"])
		require.Equal(t, "2", e.hash("young")["recoveries"])
	})
}

// A stop that the dead runner missed is done; another intent is not, since the task begins anew with its newest data.
func TestTakeOverWithIntents(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		events := e.listen()
		e.register("dead")
		e.own("dead", "stop", "kept", "reload", "restart")
		e.set("kept", "keep", "1")
		for _, id := range []string{"stop", "kept"} {
			_, err := e.queue.Stop(e.ctx(), id)
			require.NoError(t, err)
		}
		e.reload("reload", []byte("new"))
		require.NoError(t, e.queue.Restart(e.ctx(), "restart", "n"))
		require.Equal(t, TakenOver{Back: 2, Stopped: 2}, e.takeOver("dead", e.expire("dead")))
		require.Equal(t, []string{"stop"}, e.final("STOPPED"))
		require.Equal(t, []string{"kept"}, e.final("kept"))
		require.Equal(t, "STOPPED", e.state("kept"))
		require.ElementsMatch(t, []string{"reload", "restart"}, e.line())
		require.ElementsMatch(t, []string{"stopped stop", "stopped kept", "wait reload", "wait restart"}, events.kinds())
		e.register("r")
		for _, claim := range e.commit("r", 2, nil).Claims {
			require.Equal(t, claim.ID == "reload", claim.Reload, "its new data is not forgotten")
		}
	})
}
