package store

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// everything fills a batch with each kind of item once.
func everything(b *Batch, claims map[string]Claim, epoch int64) {
	b.Emit("end", `{"event":"mine","id":"end"}`)
	for _, id := range []string{"write", "end", "back", "later", "gone", "swap", "keep"} {
		c := claims[id]
		switch id {
		case "write":
			b.Write(id, c.member(), "checkpoint", "1", "progress", "2")
		case "end":
			b.Leave(id, c.member(), &Leave{State: "ENDED", Event: tail(&c, 2), Fields: []string{"output", "out"}})
		case "back":
			b.Leave(id, c.member(), &Leave{State: "WAIT", Event: tail(&c, 1), Fields: []string{"attempt", "0"}})
		case "later":
			b.Leave(id, c.member(), &Leave{State: "SCHEDULED", Delay: 60_000, Event: tail(&c, 1), Keep: true})
		case "gone":
			b.Leave(id, c.member(), &Leave{State: "REMOVED", Event: tail(&c, 1)})
		case "swap":
			b.Swap(id, c.member(), epoch, "new", &Leave{State: "STOPPED", Event: tail(&c, 1)})
		case "keep":
			b.KeepOld(id, c.member(), "bad", `{"of":1}`)
		}
	}
}

// All that a batch can say, and a claim, in one call.
func TestCommitEverything(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		events := e.listen()
		e.register("r")
		c := e.own("r", "write", "end", "back", "later", "gone", "swap", "keep")
		epoch, err := e.queue.ReserveEpoch(e.ctx())
		require.NoError(t, err)
		e.set("swap", "reload_data", "new")
		e.set("keep", "reload_data", "bad")
		e.set("later", "recoveries", "1")
		e.set("back", "recoveries", "1")
		e.start("next")
		result := e.commit("r", 1, func(b *Batch) {
			require.True(t, b.Empty())
			everything(b, c, epoch)
			require.Equal(t, 7, b.Fenced())
			require.False(t, b.Empty())
		})
		require.Equal(t, Applied, result.Outcome)
		require.Equal(t, slices.Repeat([]string{"ok"}, 7), result.Codes)
		require.Empty(t, result.Faults)
		require.Empty(t, result.Drops)
		require.Len(t, result.Claims, 1)
		require.Equal(t, "back", result.Claims[0].ID, "given back means to the head of the line")
		require.Equal(t, 1, result.Claims[0].Attempt, "the run that was cut short does not count")
		require.True(t, result.More)

		require.Equal(t, "1", e.hash("write")["checkpoint"])
		require.Equal(t, "2", e.hash("write")["progress"])
		require.Equal(t, "ENDED out", e.state("end")+" "+e.hash("end")["output"])
		require.Equal(t, []string{"end"}, e.final("ENDED"))
		require.InDelta(t, result.Now, integer(t, e.hash("end")["ended_at"]), 0)
		require.InDelta(t, result.Now+60_000, integer(t, e.hash("later")["due_at"]), 0)
		require.Equal(t, []string{"later"}, e.zset(e.keys.scheduled))
		require.NotContains(t, e.hash("later"), "runner")
		require.NotContains(t, e.hash("later"), "started_at")
		require.NotContains(t, e.hash("later"), "recoveries", "its runner lives")
		require.NotContains(t, e.hash("back"), "recoveries")
		require.Empty(t, e.hash("gone"))
		swapped := e.hash("swap")
		require.Equal(t, "RUNNING new", swapped["state"]+" "+swapped["data"])
		require.Equal(t, epoch, integer(t, swapped["epoch"]))
		require.NotContains(t, swapped, "reload_data")
		require.Equal(t, `{"of":1}`, e.hash("keep")["data"])
		require.NotContains(t, e.hash("keep"), "reload_data")
		write, keep := c["write"], c["keep"]
		require.ElementsMatch(t, []string{write.member(), keep.member(), Member(epoch, "swap"), result.Claims[0].member()}, e.members("r"))
		require.Equal(t, []string{"next"}, e.line())
		require.Equal(t, []string{"mine end", "ended end", "wait back", "scheduled later", "removed gone"}, events.kinds())
	})
}

// A batch whose reply was lost is sent again under its number: nothing happens twice.
func TestCommitReplayed(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		claim := e.own("r", "x")["x"]
		e.start("y", "z")
		events := e.listen()
		send := func() *Result {
			b := &Batch{Number: 2, Claim: 1}
			b.Emit("x", `{"event":"mine","id":"x"}`)
			b.Leave("x", claim.member(), &Leave{State: "WAIT", Event: tail(&claim, 2)})
			result, err := e.queue.Commit(e.ctx(), "r", b)
			require.NoError(t, err)
			return result
		}
		require.Equal(t, Applied, send().Outcome)
		line, members := e.line(), e.members("r")
		again := send()
		require.Equal(t, Replayed, again.Outcome)
		require.Positive(t, again.Now)
		require.Empty(t, again.Codes)
		require.Empty(t, again.Claims)
		require.Equal(t, line, e.line())
		require.Equal(t, members, e.members("r"), "nothing more is claimed")
		require.Equal(t, []string{"mine x", "wait x"}, events.kinds())
	})
}

func TestCommitUnregistered(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.start("x")
		result := e.commit("nobody", 1, func(b *Batch) {
			b.Emit("x", `{}`)
			b.Write("x", "1:x", "checkpoint", "1")
		})
		require.Equal(t, &Result{Outcome: Unregistered}, result)
		require.Equal(t, []string{"x"}, e.line())
		require.NotContains(t, e.hash("x"), "checkpoint")
	})
}

// items are the fenced items of a batch, as each is written for one claim.
var items = map[string]func(b *Batch, c *Claim){
	"write":     func(b *Batch, c *Claim) { b.Write(c.ID, c.member(), "checkpoint", "1") },
	"ended":     func(b *Batch, c *Claim) { b.Leave(c.ID, c.member(), &Leave{State: "ENDED", Event: tail(c, 1)}) },
	"error":     func(b *Batch, c *Claim) { b.Leave(c.ID, c.member(), &Leave{State: "ERROR", Event: tail(c, 1)}) },
	"exception": func(b *Batch, c *Claim) { b.Leave(c.ID, c.member(), &Leave{State: "EXCEPTION", Event: tail(c, 1)}) },
	"stopped":   func(b *Batch, c *Claim) { b.Leave(c.ID, c.member(), &Leave{State: "STOPPED", Event: tail(c, 1)}) },
	"wait": func(b *Batch, c *Claim) {
		b.Leave(c.ID, c.member(), &Leave{State: "WAIT", Event: tail(c, 1), Fields: []string{"attempt", "0"}})
	},
	"scheduled": func(b *Batch, c *Claim) {
		b.Leave(c.ID, c.member(), &Leave{State: "SCHEDULED", Delay: 60_000, Event: tail(c, 1), Fields: []string{"attempt", "0"}})
	},
	"removed": func(b *Batch, c *Claim) { b.Leave(c.ID, c.member(), &Leave{State: "REMOVED", Event: tail(c, 1)}) },
	"swap": func(b *Batch, c *Claim) {
		b.Swap(c.ID, c.member(), 1000, "new", &Leave{State: "STOPPED", Event: tail(c, 1)})
	},
	"log":  func(b *Batch, c *Claim) { b.Log(c.ID, c.member(), "2", "1", "one", "two", "three") },
	"keep": func(b *Batch, c *Claim) { b.KeepOld(c.ID, c.member(), `{"of":1}`, "old") },
}

// A run that lost its epoch writes nothing and publishes nothing, whatever it says.
func TestCommitOfALostEpoch(t *testing.T) {
	for name, add := range items {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				e.register("r")
				e.register("other")
				claims := e.own("r", "lost", "good")
				lost, good := claims["lost"], claims["good"]
				e.do("SMOVE", e.keys.running("r"), e.keys.running("other"), lost.member())
				before := e.hash("lost")
				events := e.listen()
				result := e.commit("r", 0, func(b *Batch) {
					add(b, &lost)
					b.Write("good", good.member(), "checkpoint", "1")
				})
				require.Equal(t, []string{"lost", "ok"}, result.Codes)
				require.Equal(t, before, e.hash("lost"))
				require.Equal(t, []string{lost.member()}, e.members("other"))
				require.Empty(t, e.line())
				require.Empty(t, e.zset(e.keys.scheduled))
				require.Empty(t, events.kinds())
				require.Equal(t, "1", e.hash("good")["checkpoint"])
			})
		})
	}
}

// A record that was deleted while it ran, and started and claimed again, is the later run's alone.
func TestCommitOfAnOvertakenRun(t *testing.T) {
	for name, add := range items {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				e.register("r")
				e.register("other")
				claims := e.own("r", "x", "good")
				old, good := claims["x"], claims["good"]
				e.do("DEL", e.keys.task("x"))
				later := e.own("other", "x")["x"]
				before := e.hash("x")
				events := e.listen()
				result := e.commit("r", 0, func(b *Batch) {
					add(b, &old)
					add(b, &old)
					b.Write("good", good.member(), "checkpoint", "1")
				})
				require.Equal(t, []string{"lost", "lost", "ok"}, result.Codes)
				require.Equal(t, before, e.hash("x"))
				require.Empty(t, events.kinds())
				require.Equal(t, []string{good.member()}, e.members("r"), "what owns nothing goes")
				require.Equal(t, []string{"ok"}, e.commit("other", 0, func(b *Batch) { items["ended"](b, &later) }).Codes)
				require.Equal(t, []string{"ended x"}, events.kinds())
			})
		})
	}
}

// A record that was deleted while it ran, and that nobody claimed since, is still the run's.
func TestCommitOfADeletedRecord(t *testing.T) {
	for name, add := range items {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				e.register("r")
				claim := e.own("r", "x")["x"]
				e.do("DEL", e.keys.task("x"))
				require.Equal(t, []string{"ok"}, e.commit("r", 0, func(b *Batch) { add(b, &claim) }).Codes)
			})
		})
	}
}

// What the next run says after the swap, in the same batch, counts.
func TestCommitAfterASwapInOneBatch(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		claim := e.own("r", "x")["x"]
		next := Claim{ID: "x", Epoch: 1000}
		result := e.commit("r", 0, func(b *Batch) {
			items["write"](b, &claim)
			items["swap"](b, &claim)
			b.Write("x", next.member(), "checkpoint", "2")
			items["write"](b, &claim)
			items["ended"](b, &next)
			items["write"](b, &next)
		})
		require.Equal(t, []string{"ok", "ok", "ok", "lost", "ok", "lost"}, result.Codes)
		require.Equal(t, "2", e.hash("x")["checkpoint"])
		require.Equal(t, "ENDED", e.state("x"))
		require.Empty(t, e.members("r"))
	})
}

// Once an item has ended a claim, later items of that claim in the same batch are lost.
func TestCommitAfterTheEndInOneBatch(t *testing.T) {
	for _, first := range []string{"ended", "wait", "scheduled", "removed", "swap"} {
		for second, add := range items {
			t.Run(first+" then "+second, func(t *testing.T) {
				onBoth(t, func(t *testing.T, e *env) {
					e.register("r")
					claim := e.own("r", "x")["x"]
					events := e.listen()
					result := e.commit("r", 0, func(b *Batch) {
						items[first](b, &claim)
						add(b, &claim)
					})
					require.Equal(t, []string{"ok", "lost"}, result.Codes)
					require.NotContains(t, e.hash("x"), "checkpoint")
					require.LessOrEqual(t, len(e.line())+len(e.zset(e.keys.scheduled))+len(e.members("r")), 1, "on one key at most")
					if first == "swap" {
						require.Empty(t, events.kinds())
					} else {
						require.Equal(t, []string{first + " x"}, events.kinds())
					}
				})
			})
		}
	}
}

func TestCommitKeepsTheOrderOfItems(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		claim := e.own("r", "x")["x"]
		e.commit("r", 0, func(b *Batch) {
			b.Write("x", claim.member(), "checkpoint", "1")
			b.Write("x", claim.member(), "checkpoint", "2", "progress", "1")
			b.Leave("x", claim.member(), &Leave{State: "ENDED", Event: tail(&claim, 1), Fields: []string{"progress", "2"}})
		})
		hash := e.hash("x")
		require.Equal(t, "2 2 ENDED", hash["checkpoint"]+" "+hash["progress"]+" "+hash["state"])
	})
}

func TestCommitOfAKeptRecord(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		c := e.own("r", "x")["x"]
		e.commit("r", 0, func(b *Batch) { b.Leave("x", c.member(), &Leave{State: "ERROR", Keep: true, Event: tail(&c, 1)}) })
		require.Equal(t, []string{"x"}, e.final("kept"))
		require.Empty(t, e.final("ERROR"))
	})
}

// A full batch: 64 fenced items of every kind of end, and 64 claims.
func TestCommitFullBatch(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		states := []string{"ENDED", "ERROR", "EXCEPTION", "STOPPED"}
		claims := e.own("r", numbered("old", MaxBatch)...)
		e.start(numbered("new", MaxBatch+1)...)
		result := e.commit("r", MaxBatch, func(b *Batch) {
			for i, id := range numbered("old", MaxBatch) {
				claim := claims[id]
				b.Leave(id, claim.member(), &Leave{State: states[i%4], Event: tail(&claim, 1)})
			}
			require.Equal(t, MaxBatch, b.Fenced())
		})
		require.Equal(t, slices.Repeat([]string{"ok"}, MaxBatch), result.Codes)
		require.Len(t, result.Claims, MaxBatch)
		require.True(t, result.More)
		for i, claim := range result.Claims {
			require.Equal(t, fmt.Sprintf("new%d", i), claim.ID, "first in, first out")
			require.Equal(t, result.Claims[0].Epoch+int64(i), claim.Epoch)
		}
		for _, state := range states {
			require.Len(t, e.final(state), MaxBatch/4)
		}
		require.Len(t, e.members("r"), MaxBatch)

		last := e.commit("r", MaxBatch, func(b *Batch) {
			for _, claim := range result.Claims {
				b.Leave(claim.ID, claim.member(), &Leave{State: "WAIT", Event: tail(&claim, 1), Fields: []string{"attempt", "0"}})
			}
		})
		require.Len(t, last.Claims, MaxBatch)
		require.True(t, last.More, "one is left")
		require.Equal(t, []string{"new64"}, e.line())
		e.requireNoneLost([]string{"r"}, numbered("new", MaxBatch+1)...)
	})
}

// A batch that comes before the one that it must follow changes nothing; once that one is applied, or known to be lost, it is.
func TestCommitEarly(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		claim := e.own("r", "x")["x"]
		e.start("y")
		last := e.numbers["r"]
		events := e.listen()
		send := func(number, after int64) Outcome {
			b := &Batch{Number: number, After: after, Claim: 1}
			b.Emit("x", fmt.Sprintf(`{"event":"of %d","id":"x"}`, number))
			if number == last+2 {
				items["ended"](b, &claim)
			}
			result, err := e.queue.Commit(e.ctx(), "r", b)
			require.NoError(t, err)
			return result.Outcome
		}
		require.Equal(t, Early, send(last+2, last+1))
		require.Equal(t, "RUNNING", e.state("x"))
		require.Equal(t, []string{"y"}, e.line(), "nothing is claimed")
		require.Equal(t, Applied, send(last+1, 0))
		require.Equal(t, Applied, send(last+2, last+1))
		require.Equal(t, Replayed, send(last+2, last+1))
		require.Equal(t, Applied, send(last+4, 0), "the one before is known to be lost, as after a failover")
		require.Equal(t, []string{fmt.Sprintf("of %d x", last+1), fmt.Sprintf("of %d x", last+2), "ended x", fmt.Sprintf("of %d x", last+4)}, events.kinds())
	})
}
