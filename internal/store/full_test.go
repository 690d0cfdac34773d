package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

// onFull runs before on a server with little memory, and fills it up to the last byte.
func onFull(t *testing.T, before func(e *env)) *env {
	t.Helper()
	t.Parallel()
	server := redistest.Start(t, "--maxmemory", "6mb", "--maxmemory-policy", "noeviction")
	e := newEnv(t, server.Addr, "t"+rand.Text())
	e.register("r")
	before(e)
	for size := 1 << 20; size > 0; size /= 2 {
		for n := 0; ; n++ {
			err := e.rdb.Set(e.ctx(), fmt.Sprint("filler:", size, ":", n), strings.Repeat("x", size), 0).Err()
			if err != nil {
				require.ErrorIs(t, explain(err), ErrFull)
				break
			}
		}
	}
	return e
}

func TestFullStart(t *testing.T) {
	var final []NewTask
	e := onFull(t, func(e *env) {
		e.start("there")
		e.set("final", "task", "test/a", "state", "ENDED", "output", "precious")
		e.do("ZADD", e.keys.final("ENDED"), 1, "final")
	})
	var tasks []NewTask
	for _, id := range numbered("x", 10) {
		tasks = append(tasks, NewTask{ID: id, Nonce: "n", Task: "test/a", Data: "1"}, NewTask{ID: "drawn" + id, Task: "test/a", Data: "1"})
	}
	faults, err := e.queue.Start(e.ctx(), tasks)
	require.NoError(t, err)
	for i, fault := range faults {
		require.ErrorIs(t, fault, ErrFull)
		require.ErrorContains(t, fault, "maxmemory")
		require.Zero(t, e.do("EXISTS", e.keys.task(tasks[i].ID)), "nothing is half written")
	}
	require.Equal(t, []string{"there"}, e.line())

	// Whatever becomes of a final ID, it is in line with its record or as it was.
	final = append(final, NewTask{ID: "final", Nonce: "n", Task: "test/a", Data: "1"})
	faults, err = e.queue.Start(e.ctx(), final)
	require.NoError(t, err)
	if faults[0] != nil {
		require.ErrorIs(t, faults[0], ErrFull)
		require.Equal(t, "precious", e.hash("final")["output"])
		require.Equal(t, []string{"final"}, e.final("ENDED"))
	} else {
		require.Contains(t, e.line(), "final")
		require.Equal(t, "1", e.hash("final")["data"])
	}
}

// A full Redis takes what makes it emptier: tasks end, move, and are claimed.
func TestFullCommit(t *testing.T) {
	var claims map[string]Claim
	e := onFull(t, func(e *env) {
		claims = e.own("r", "end", "fail", "back", "later", "gone", "write", "swap")
		e.start("next")
	})
	result := e.commit("r", 2, func(b *Batch) {
		for name, id := range map[string]string{
			"ended": "end", "exception": "fail", "wait": "back", "scheduled": "later", "removed": "gone", "write": "write", "swap": "swap",
		} {
			claim := claims[id]
			items[name](b, &claim)
		}
	})
	require.Equal(t, slices.Repeat([]string{"ok"}, 7), result.Codes)
	require.Empty(t, result.Faults)
	require.Equal(t, []string{"back", "next"}, claimed(result))
	require.Equal(t, "ENDED", e.state("end"))
	require.Equal(t, []string{"fail"}, e.final("EXCEPTION"))
	require.Equal(t, []string{"later"}, e.zset(e.keys.scheduled))
	require.Equal(t, "1", e.hash("write")["checkpoint"])
	e.requireNoneLost([]string{"r"}, "end", "fail", "back", "later", "write", "swap", "next")
}

func TestFullLease(t *testing.T) {
	e := onFull(t, func(e *env) {
		e.own("r", "mine")
		e.register("idle")
		e.start("woken")
		e.do("LMOVE", e.keys.wait, e.keys.inbox("idle"), "RIGHT", "LEFT")
	})
	renewal, err := e.queue.Renew(e.ctx(), "r", time.Hour)
	require.NoError(t, err)
	require.True(t, renewal.Held)
	_, err = e.queue.Unregister(e.ctx(), "idle", false)
	require.NoError(t, err)
	require.Equal(t, []string{"woken"}, e.line())
	require.Equal(t, []string{"r"}, e.zset(e.keys.runners))
	epoch, err := e.queue.ReserveEpoch(e.ctx())
	require.NoError(t, err)
	require.Positive(t, epoch)
	ok, _, err := e.queue.Register(e.ctx(), &RunnerInfo{ID: "new", Lease: time.Minute})
	require.NoError(t, err)
	require.True(t, ok, "a runner that comes can make it emptier")
	e.numbers["new"] = 0
	require.Equal(t, []string{"woken"}, claimed(e.commit("new", 5, nil)))
}

func TestFullTakeOver(t *testing.T) {
	var recovery *Recovery
	ids := []string{"first", "second", "poison", "stop"}
	e := onFull(t, func(e *env) {
		e.register("dead")
		e.own("dead", ids...)
		e.set("second", "recoveries", "1")
		e.set("poison", "recoveries", "10")
		_, err := e.queue.Stop(e.ctx(), "stop")
		require.NoError(t, err)
		e.start("woken")
		e.do("LMOVE", e.keys.wait, e.keys.inbox("dead"), "RIGHT", "LEFT")
		recovery = e.expire("dead")
	})
	require.Equal(t, TakenOver{Back: 1, Delayed: 1, Stopped: 1, Poisoned: 1}, e.takeOver("dead", recovery))
	require.ElementsMatch(t, []string{"first", "woken"}, e.line())
	require.Equal(t, []string{"r"}, e.zset(e.keys.runners))
	e.requireNoneLost(nil, ids...)
}

func TestFullControl(t *testing.T) {
	e := onFull(t, func(e *env) {
		e.own("r", "again", "fresh")
		e.start("wait", "gone")
		e.set("final", "task", "test/a", "state", "ERROR")
		e.set("due", "task", "test/a", "state", "SCHEDULED")
		e.do("ZADD", e.keys.scheduled, 1, "due")
	})
	_, err := e.queue.Stop(e.ctx(), "wait")
	require.NoError(t, err)
	require.Equal(t, "STOPPED", e.state("wait"))
	require.NoError(t, e.queue.Restart(e.ctx(), "again", "n"))
	e.reload("fresh", []byte("2"))
	intents, err := e.queue.Intents(e.ctx(), "r")
	require.NoError(t, err)
	require.Equal(t, map[string]string{"again": Restart, "fresh": Reload}, intents)
	require.NoError(t, e.queue.Restart(e.ctx(), "final", "n"))
	require.NoError(t, e.queue.Remove(e.ctx(), "gone"))
	promoted, err := e.queue.Promote(e.ctx(), 10)
	moved := promoted.Moved
	require.NoError(t, err)
	require.Equal(t, 1, moved)
	e.requireNoneLost([]string{"r"}, "again", "fresh", "wait", "final", "due")
}

// Cleanup makes room: after it tasks can be started again.
func TestFullCleanup(t *testing.T) {
	ids := numbered("ENDED", 50)
	e := onFull(t, func(e *env) {
		e.finals("ENDED", 50)
		for _, id := range ids {
			e.set(id, "output", strings.Repeat("x", 10_000))
		}
	})
	_, err := e.queue.Start(e.ctx(), []NewTask{{ID: "before", Task: "test/a"}})
	require.NoError(t, err)
	require.Empty(t, e.line())
	require.Equal(t, map[string][]string{"ENDED": ids}, e.expired("r", 100, Retention{State: "ENDED"}))
	removed, err := e.queue.Sweep(e.ctx(), "ENDED", endedAt(ids...))
	require.NoError(t, err)
	require.Equal(t, 50, removed)
	require.Eventually(t, func() bool { // the server counts what it freed a moment later
		faults, err := e.queue.Start(e.ctx(), []NewTask{{ID: "after", Nonce: "n", Task: "test/a"}})
		require.NoError(t, err)
		return !errors.Is(faults[0], ErrFull)
	}, 20*time.Second, 10*time.Millisecond)
	require.Equal(t, []string{"after"}, e.line())
}
