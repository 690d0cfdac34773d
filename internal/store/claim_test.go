package store

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestClaim(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		e.set("plain", "task", "test/a")
		e.set("full", "task", "test/b", "data", `{"a":1}`, "keep", "1", "epoch", "0", "reload_data", "2", "attempt", "4")
		e.do("LPUSH", e.keys.wait, "plain", "full")
		result := e.commit("r", 2, nil)
		require.Len(t, result.Claims, 2)
		first := result.Claims[0].Epoch
		require.Equal(t, []Claim{
			{ID: "plain", Task: "test/a", Epoch: first, Attempt: 1},
			{ID: "full", Task: "test/b", Data: `{"a":1}`, Epoch: first + 1, Attempt: 5, Keep: true, Reload: true},
		}, result.Claims)
		require.True(t, result.More, "the claim was filled")
		require.Empty(t, e.line())
		hash := e.hash("full")
		require.Equal(t, "RUNNING", hash["state"])
		require.Equal(t, "r", hash["runner"])
		require.Equal(t, "5", hash["attempt"])
		require.Equal(t, fmt.Sprint(first+1), hash["epoch"])
		require.Equal(t, fmt.Sprint(result.Now), hash["started_at"])
		require.ElementsMatch(t, []string{Member(first, "plain"), Member(first+1, "full")}, e.members("r"))

		none := e.commit("r", 2, nil)
		require.Empty(t, none.Claims)
		require.False(t, none.More)
	})
}

func TestClaimCountsAttempts(t *testing.T) {
	cases := map[string]struct {
		attempt string // in the record
		want    int
	}{
		"none": {"", 1}, "zero": {"0", 1}, "third": {"2", 3}, "junk": {"junk", 1}, "huge": {"999999999999", 1000000000000},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				e.register("r")
				e.set("x", "task", "test/a", "epoch", "0", "attempt", c.attempt)
				e.do("LPUSH", e.keys.wait, "x")
				require.Equal(t, c.want, e.commit("r", 1, nil).Claims[0].Attempt)
				require.Equal(t, fmt.Sprint(c.want), e.hash("x")["attempt"])
			})
		})
	}
}

// The error of the attempt before is in the history; a run that works must not end with it.
func TestClaimForgetsTheErrorOfTheAttemptBefore(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		e.set("x", "task", "test/a", "epoch", "5", "attempt", "1", "error", "boom", "stack", "main.go:1", "history1", "{}", "checkpoint", "c")
		e.do("LPUSH", e.keys.wait, "x")
		require.Len(t, e.commit("r", 1, nil).Claims, 1)
		require.NotContains(t, e.hash("x"), "error")
		require.NotContains(t, e.hash("x"), "stack")
		require.Equal(t, "{}", e.hash("x")["history1"])
		require.Equal(t, "c", e.hash("x")["checkpoint"])
	})
}

// HSET state WAIT and an LPUSH run a final task again: its old end leaves no trace.
func TestClaimOfAFinalTaskStartedAgainByHand(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		for i, state := range []string{"ENDED", "ERROR", "EXCEPTION", "STOPPED", "kept"} {
			id := fmt.Sprint("x", i)
			e.set(id, "task", "test/a", "state", "WAIT", "ended_at", "1", "error", "old", "output", "old", "stack", "old", "attempt", "1",
				"progress", "old", "recoveries", "10", "reload_data", "old")
			e.do("ZADD", e.keys.final(state), 1, id)
			e.do("LPUSH", e.keys.wait, id)
			claim := e.commit("r", 1, nil).Claims[0]
			require.Equal(t, id, claim.ID)
			require.Equal(t, 2, claim.Attempt)
			require.False(t, claim.Reload, "what it missed in its old life")
			require.Empty(t, e.final(state))
			for _, field := range []string{"ended_at", "error", "output", "stack", "progress", "recoveries", "reload_data"} {
				require.NotContains(t, e.hash(id), field)
			}
		}
	})
}

// A reload that the task's own end overtook does not come true when the task is run again.
func TestRunAgainAfterAReloadThatCameTooLate(t *testing.T) {
	ways := map[string]func(e *env){
		"by hand": func(e *env) {
			e.set("x", "data", `"by hand"`, "state", "WAIT")
			e.do("LPUSH", e.keys.wait, "x")
		},
		"restarted": func(e *env) { require.NoError(e.t, e.queue.Restart(e.ctx(), "x", "n")) },
	}
	for name, again := range ways {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				e.register("r")
				claim := e.own("r", "x")["x"]
				e.reload("x", []byte(`"too late"`))
				e.commit("r", 0, func(b *Batch) { items["ended"](b, &claim) })
				again(e)
				next := e.commit("r", 1, nil).Claims[0]
				require.False(t, next.Reload)
				data, err := e.queue.ReloadData(e.ctx(), "x")
				require.NoError(t, err)
				require.Equal(t, next.Data, data)
			})
		})
	}
}

// A restart of a task in nobody's hands keeps the data of a reload that was promised.
func TestRestartOfAnOrphanKeepsItsReload(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		e.set("x", "task", "test/a", "data", "1", "state", "RUNNING", "runner", "gone", "epoch", "1")
		e.reload("x", []byte("2"))
		require.NoError(t, e.queue.Restart(e.ctx(), "x", "n"))
		require.True(t, e.commit("r", 1, nil).Claims[0].Reload)
	})
}

// HSET state WAIT and an LPUSH said of a task that runs, as by a script that was run twice, start no second run of it.
func TestClaimOfARunningTaskSetToWaitByHand(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("a")
		e.register("b")
		claim := e.own("a", "x")["x"]
		runs := Drop{"x", "it runs; its state was set to WAIT by hand"}
		before := e.hash("x")
		for _, runner := range []string{"a", "b"} {
			e.set("x", "state", "WAIT")
			e.do("LPUSH", e.keys.wait, "x")
			result := e.commit(runner, 1, nil)
			require.Empty(t, result.Claims)
			require.Equal(t, []Drop{runs}, result.Drops)
			require.Equal(t, before, e.hash("x"))
		}
		e.do("HDEL", e.keys.task("x"), "state")
		e.do("LPUSH", e.keys.wait, "x")
		require.Equal(t, []Drop{runs}, e.commit("b", 1, nil).Drops)
		require.Equal(t, before, e.hash("x"))
		require.EqualValues(t, 3, e.counter("dropped"))

		require.Equal(t, []string{"ok"}, e.commit("a", 0, func(b *Batch) { items["ended"](b, &claim) }).Codes)
		require.Equal(t, []string{"x"}, e.final("ENDED"))
		e.set("x", "state", "WAIT")
		e.do("LPUSH", e.keys.wait, "x")
		require.Equal(t, []string{"x"}, claimed(e.commit("b", 1, nil)), "after its end it runs again")
	})
}

// The ID that woke this runner comes first, then the line; what the inbox held beyond goes back to the head of the line.
func TestClaimTakesFromTheInboxFirst(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		e.start("line1", "line2", "inbox1", "inbox2", "inbox3")
		for range 3 {
			e.do("LMOVE", e.keys.wait, e.keys.inbox("r"), "LEFT", "LEFT")
		}
		require.Equal(t, []string{"inbox1", "inbox2", "inbox3"}, e.list(e.keys.inbox("r")))
		require.Equal(t, []string{"inbox3", "inbox2"}, claimed(e.commit("r", 2, nil)))
		require.Zero(t, e.do("EXISTS", e.keys.inbox("r")), "nothing waits there for this runner alone")
		require.Equal(t, []string{"line2", "line1", "inbox1"}, e.line())

		e.do("LMOVE", e.keys.wait, e.keys.inbox("r"), "RIGHT", "LEFT")
		last := e.commit("r", 3, nil)
		require.Equal(t, []string{"inbox1", "line1", "line2"}, claimed(last))
		require.True(t, last.More)
		require.Empty(t, e.line())
	})
}

func claimed(r *Result) []string {
	var ids []string
	for _, claim := range r.Claims {
		ids = append(ids, claim.ID)
	}
	return ids
}

// A batch that claims nothing leaves inbox and line alone.
func TestCommitWithoutAClaim(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		e.start("a", "b")
		e.do("LMOVE", e.keys.wait, e.keys.inbox("r"), "RIGHT", "LEFT")
		result := e.commit("r", 0, nil)
		require.Empty(t, result.Claims)
		require.False(t, result.More)
		require.Equal(t, []string{"a"}, e.list(e.keys.inbox("r")))
		require.Equal(t, []string{"b"}, e.line())
	})
}

// What cannot run is dropped and counted; its neighbours run.
func TestClaimDrops(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		e.start("good1", "good2")
		for _, state := range []string{"RUNNING", "SCHEDULED", "ENDED", "ERROR", "EXCEPTION", "STOPPED", "odd"} {
			e.set("is "+state, "task", "test/a", "state", state)
			e.do("LPUSH", e.keys.wait, "is "+state)
		}
		e.spoil(e.keys.task("string"))
		e.do("LPUSH", e.keys.wait, "string", "missing", "good1", "good2", "good1", "")
		before := map[string]map[string]string{}
		for _, state := range []string{"RUNNING", "SCHEDULED", "ENDED", "STOPPED"} {
			before["is "+state] = e.hash("is " + state)
		}
		result := e.commit("r", 30, nil)
		require.Equal(t, []string{"good1", "good2"}, claimed(result))
		require.Equal(t, 1, result.Claims[0].Attempt)
		reasons := map[string][]string{}
		for _, drop := range result.Drops {
			reasons[drop.ID] = append(reasons[drop.ID], drop.Reason)
		}
		require.Equal(t, []string{"it is RUNNING"}, reasons["is RUNNING"])
		require.Equal(t, []string{"it is STOPPED; to run it again set its state to WAIT, then push it"}, reasons["is STOPPED"])
		require.Equal(t, []string{"it is odd"}, reasons["is odd"])
		require.Equal(t, []string{"in line twice", "in line twice"}, reasons["good1"])
		require.Equal(t, []string{"in line twice"}, reasons["good2"])
		require.Equal(t, []string{"there is no hash with this ID"}, reasons["missing"])
		require.Empty(t, reasons[""], "it only woke somebody")
		require.Len(t, reasons["string"], 1)
		require.Contains(t, reasons["string"][0], "holds no hash")
		require.Len(t, result.Drops, 12)
		require.EqualValues(t, 12, e.counter("dropped"))
		require.False(t, result.More)
		require.Empty(t, e.line())
		for id, hash := range before {
			require.Equal(t, hash, e.hash(id), "a tombstone changes nothing")
		}

		e.do("LPUSH", e.keys.wait, "missing")
		e.commit("r", 1, nil)
		require.EqualValues(t, 13, e.counter("dropped"))
	})
}

// An ID that is in the inbox and in line runs once.
func TestClaimOfAnIDInInboxAndLine(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		e.start("x")
		e.do("LPUSH", e.keys.inbox("r"), "x")
		result := e.commit("r", 5, nil)
		require.Equal(t, []string{"x"}, claimed(result))
		require.Equal(t, []Drop{{"x", "in line twice"}}, result.Drops)
		require.Len(t, e.members("r"), 1)
	})
}

// A hash that has no task ends in EXCEPTION, where someone will see it.
func TestClaimOfAHashWithoutTask(t *testing.T) {
	for _, id := range slices.Concat([]string{"plain"}, oddIDs[:6]) {
		t.Run(id, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				events := e.listen()
				e.register("r")
				e.set(id, "data", "1")
				e.do("LPUSH", e.keys.wait, id)
				e.start("good")
				result := e.commit("r", 5, nil)
				require.Equal(t, []string{"good"}, claimed(result))
				require.Len(t, result.Drops, 1)
				require.Equal(t, id, result.Drops[0].ID)
				require.EqualValues(t, 1, e.counter("dropped"))
				hash := e.hash(id)
				require.Equal(t, "EXCEPTION", hash["state"])
				require.Contains(t, hash["error"], "`task`")
				require.Equal(t, fmt.Sprint(result.Now), hash["ended_at"])
				require.Equal(t, []string{id}, e.final("EXCEPTION"))

				got := events.next()
				require.Equal(t, "exception "+id, got.Event+" "+got.ID)
				require.Equal(t, hash["epoch"], fmt.Sprint(got.Epoch))
				require.EqualValues(t, 1, got.Seq)
				var data struct{ Error string }
				require.NoError(t, json.Unmarshal(got.Data, &data))
				require.Equal(t, hash["error"], data.Error)

				// Repaired and started again by hand, it runs.
				e.set(id, "task", "test/a", "state", "WAIT")
				e.do("LPUSH", e.keys.wait, id)
				require.Equal(t, []string{id}, claimed(e.commit("r", 1, nil)))
				require.NotContains(t, e.hash(id), "error")
				require.Empty(t, e.final("EXCEPTION"))
			})
		})
	}
}

// Two runners never get the same task.
func TestClaimByTwoRunners(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("a")
		e.register("b")
		ids := numbered("x", 20)
		e.start(ids...)
		var got []string
		var epochs []int64
		for i := range 10 {
			for _, claim := range e.commit([]string{"a", "b"}[i%2], 2, nil).Claims {
				got = append(got, claim.ID)
				epochs = append(epochs, claim.Epoch)
			}
		}
		require.Equal(t, ids, got)
		require.True(t, slices.IsSorted(epochs))
		require.Len(t, slices.Compact(epochs), 20, "an epoch is never reused")
		require.Len(t, e.members("a"), 10)
		require.Len(t, e.members("b"), 10)
	})
}

func TestClaimWithAnInboxOfTheWrongType(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		e.start("x")
		e.spoil(e.keys.inbox("r"))
		result := e.commit("r", 1, nil)
		require.Equal(t, []string{"x"}, claimed(result))
		require.Len(t, result.Faults, 1)
		require.True(t, strings.HasPrefix(result.Faults[0], e.keys.inbox("r")+": "), result.Faults)
	})
}

func TestClaimUsesTheClockOfRedis(t *testing.T) {
	t.Parallel()
	e := onMini(t)
	e.mini.SetTime(time.UnixMilli(1_000_000_000_007))
	e.register("r")
	claim := e.own("r", "x")["x"]
	require.Equal(t, "1000000000007", e.hash("x")["started_at"])
	e.mini.SetTime(time.UnixMilli(1_000_000_060_000))
	result := e.commit("r", 0, func(b *Batch) { items["scheduled"](b, &claim) })
	require.EqualValues(t, 1_000_000_060_000, result.Now)
	require.Equal(t, "1000000120000", e.hash("x")["due_at"])
	promoted, err := e.queue.Promote(e.ctx(), 10)
	moved, next := promoted.Moved, promoted.NextDue
	require.NoError(t, err)
	require.Zero(t, moved)
	require.EqualValues(t, 1_000_000_120_000, next)
	e.mini.SetTime(time.UnixMilli(1_000_000_120_000))
	promoted, err = e.queue.Promote(e.ctx(), 10)
	moved = promoted.Moved
	require.NoError(t, err)
	require.Equal(t, 1, moved)
}
