package store

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A script that is cut by a key of the wrong type has copied before it removed: once the key is mended, no task is lost.

func TestTakeOverCut(t *testing.T) {
	for _, broken := range []string{"wait", "scheduled"} {
		t.Run(broken, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				e.register("dead")
				ids := []string{"first", "second", "third", "fourth"}
				e.own("dead", ids...)
				e.set("second", "recoveries", "1")
				e.set("fourth", "recoveries", "1")
				recovery := e.expire("dead")
				mend := e.spoilAside(map[string]string{"wait": e.keys.wait, "scheduled": e.keys.scheduled}[broken])
				for range 3 {
					_, err := e.queue.TakeOver(e.ctx(), "dead", recovery)
					if err != nil {
						require.ErrorIs(t, err, ErrWrongType)
					}
				}
				mend()
				e.takeOverAll("dead")
				e.requireNoneLost(nil, ids...)
			})
		})
	}
}

// What a commit could not put back in line, or in the schedule, is still owned: with the lease it comes back.
func TestTakeOverOfWhatCouldNotGoBack(t *testing.T) {
	for _, name := range []string{"wait", "scheduled"} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				e.register("r")
				claim := e.own("r", "x")["x"]
				mend := e.spoilAside(map[string]string{"wait": e.keys.wait, "scheduled": e.keys.scheduled}[name])
				result := e.commit("r", 0, func(b *Batch) { items[name](b, &claim) })
				require.NotEmpty(t, result.Faults)
				require.Equal(t, []string{claim.member()}, e.members("r"))
				mend()
				e.expire("r")
				e.takeOverAll("r")
				e.requireNoneLost(nil, "x")
			})
		})
	}
}

// The fault of one key must not make a batch fail for ever: it would be sent again and again, with its events each time.
func TestCommitCut(t *testing.T) {
	cases := map[string]struct {
		before func(e *env)
		fill   func(b *Batch, c *Claim)
		claim  int
	}{
		"keep with intents of the wrong type": {
			func(e *env) { e.spoil(e.keys.controlHash("r")) }, func(b *Batch, c *Claim) { items["keep"](b, c) }, 0,
		},
		"drop with counters of the wrong type": {
			func(e *env) {
				e.spoil(e.keys.counters)
				e.do("LPUSH", e.keys.wait, "missing")
				e.start("next")
			}, func(b *Batch, c *Claim) { items["ended"](b, c) }, 2,
		},
		"hash without task with an epoch of the wrong type": {
			func(e *env) {
				e.do("DEL", e.keys.epoch)
				e.do("LPUSH", e.keys.epoch, "spoilt")
				e.set("bad", "data", "1")
				e.do("LPUSH", e.keys.wait, "bad")
			}, func(b *Batch, c *Claim) { items["ended"](b, c) }, 2,
		},
		"two in the inbox with a line of the wrong type": {
			func(e *env) {
				e.spoil(e.keys.wait)
				e.set("a", "task", "test/a")
				e.set("b", "task", "test/a")
				e.do("LPUSH", e.keys.inbox("r"), "a", "b")
			}, func(b *Batch, c *Claim) { items["ended"](b, c) }, 1,
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				e.register("r")
				claim := e.own("r", "x")["x"]
				c.before(e)
				events := e.listen()
				send := func() (*Result, error) { // the same batch, as the committer does after an error
					b := &Batch{Number: 2, Claim: c.claim}
					b.Emit("x", `{"event":"mine","id":"x"}`)
					c.fill(b, &claim)
					return e.queue.Commit(e.ctx(), "r", b)
				}
				result, err := send()
				for range 2 {
					if err != nil {
						result, err = send()
					}
				}
				require.NoError(t, err, "it fails for ever")
				require.NotContains(t, result.Codes, "lost", "it was this run's")
				mine := 0
				for _, kind := range events.kinds() {
					if kind == "mine x" {
						mine++
					}
				}
				require.Equal(t, 1, mine, "each event once")
			})
		})
	}
}

func TestFullStopOfARunningTask(t *testing.T) {
	e := onFull(t, func(e *env) { e.own("r", "run") })
	_, err := e.queue.Stop(e.ctx(), "run")
	require.NoError(t, err)
}

// Cleanup is what makes room: one kept record at the front must not end it.
func TestFullSweepOfAKeptRecord(t *testing.T) {
	e := onFull(t, func(e *env) {
		e.finals("ENDED", 3)
		e.set("ENDED0", "keep", "1")
	})
	_, err := e.queue.Sweep(e.ctx(), "ENDED", endedAt("ENDED0", "ENDED1", "ENDED2"))
	require.NoError(t, err)
}

// Without it no runner can come after the last one went, and a full Redis stays full.
func TestFullAnnounce(t *testing.T) {
	e := onFull(t, func(e *env) { require.NoError(t, e.store.Announce(e.ctx(), "q")) })
	require.NoError(t, e.store.Announce(e.ctx(), "q"))
	_, _, err := e.queue.Register(e.ctx(), &RunnerInfo{ID: "new", Lease: time.Minute})
	require.NoError(t, err)
}
