package store

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// startOrdered starts tasks of one key that run one after the other; the first has a unique key as well.
func (e *env) startOrdered(ids ...string) {
	e.t.Helper()
	for i, id := range ids {
		options, spec := `{"key":"k","ordered":true}`, ""
		if i == 0 {
			options = `{"key":"k","ordered":true,"once":{"key":"u","release":"end"}}`
			spec = `,"once":{"key":"u","release":"end","conflict":"refuse"}`
		}
		require.NoError(e.t, e.startSpecial(id, options, withOptions(options, spec)))
	}
}

// holder has a task run that holds all that one can hold: `second` and `third` wait behind it in its order, `other` and `more` for its place.
func (e *env) holder() *Claim {
	e.t.Helper()
	e.registerWithLimits("r", `{"concurrency":1}`)
	e.startOrdered("first", "second", "third")
	e.start("other", "more")
	result := e.commit("r", 10, nil)
	require.Equal(e.t, []string{"first"}, claimed(result))
	e.requireHeld("first", "second", "third")
	require.Equal(e.t, []string{"other", "more"}, e.zset(e.keys.base+"held:test/a"))
	require.Empty(e.t, e.line())
	return &result.Claims[0]
}

// requireHeld: the tasks of the key, in their order; the first has its unique key.
func (e *env) requireHeld(ordered ...string) {
	e.t.Helper()
	require.Equal(e.t, ordered, e.zset(e.keys.base+"order:k"))
	if ordered[0] == "first" {
		require.Equal(e.t, "first", e.do("GET", e.keys.base+"once:u"))
	} else {
		require.Nil(e.t, e.do("GET", e.keys.base+"once:u"))
	}
}

func (e *env) leave(c *Claim, state string) {
	e.t.Helper()
	e.commit("r", 0, func(b *Batch) {
		b.Leave(c.ID, c.member(), &Leave{State: state, Delay: 60_000, Event: tail(c, 1), Holds: true})
	})
}

func (e *env) tell(c *Claim, word string) {
	e.t.Helper()
	e.do("HSET", e.keys.controlHash("r"), c.ID, word)
}

// dies has the runner's tasks taken over.
func (e *env) dies() {
	e.t.Helper()
	e.takeOver("r", e.expire("r"))
}

// However a task ends, what it held goes to one of each that waited for it: the next one of its key, and one for its place.
func TestWhatAnEndGives(t *testing.T) {
	for name, end := range map[string]func(e *env, c *Claim){
		"ended":     func(e *env, c *Claim) { e.leave(c, "ENDED") },
		"error":     func(e *env, c *Claim) { e.leave(c, "ERROR") },
		"exception": func(e *env, c *Claim) { e.leave(c, "EXCEPTION") },
		"stopped":   func(e *env, c *Claim) { e.leave(c, "STOPPED") },
		"given back, and a stop wins": func(e *env, c *Claim) {
			e.tell(c, Stop)
			e.leave(c, "WAIT")
		},
		"retried, and a stop wins": func(e *env, c *Claim) {
			e.tell(c, Stop)
			e.leave(c, "SCHEDULED")
		},
		"reloaded, and a stop wins": func(e *env, c *Claim) {
			e.tell(c, Stop)
			e.commit("r", 0, func(b *Batch) {
				b.Swap(c.ID, c.member(), 1000, "new", &Leave{State: "STOPPED", Event: tail(c, 1), Holds: true})
			})
		},
		"stopped, of a dead runner": func(e *env, c *Claim) {
			e.tell(c, Stop)
			e.dies()
		},
		"given up, of dead runners": func(e *env, _ *Claim) {
			e.set("first", "recoveries", DefaultRecovery().Most)
			e.dies()
		},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				end(e, e.holder())
				require.Contains(t, []string{"ENDED", "ERROR", "EXCEPTION", "STOPPED"}, e.state("first"))
				require.Equal(t, []string{"other", "second"}, e.line())
				e.requireHeld("second", "third")
				require.Equal(t, []string{"more"}, e.zset(e.keys.base+"held:test/a"))
				require.Empty(t, e.do("SMEMBERS", e.keys.base+"limit:test/a"))
			})
		})
	}
}

// A run that ends before its task does gives up its place alone: who comes after it in its order waits on.
func TestWhatAnInterruptionGives(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(e *env, c *Claim)
		line []string
	}{
		"given back": {func(e *env, c *Claim) { e.leave(c, "WAIT") }, []string{"other", "first"}},
		"retried":    {func(e *env, c *Claim) { e.leave(c, "SCHEDULED") }, []string{"other"}},
		"restarted at its end": {func(e *env, c *Claim) {
			e.tell(c, Restart)
			e.leave(c, "ENDED")
		}, []string{"other", "first"}},
		"recovered": {func(e *env, _ *Claim) { e.dies() }, []string{"first", "other"}},
		"recovered again": {func(e *env, _ *Claim) {
			e.set("first", "recoveries", 1)
			e.dies()
		}, []string{"other"}},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				test.end(e, e.holder())
				require.Equal(t, test.line, e.line())
				require.Empty(t, e.do("SMEMBERS", e.keys.base+"limit:test/a"))
				e.registerWithLimits("s", `{"concurrency":1}`)
				require.Len(t, claimed(e.commit("s", 10, nil)), 1)
				e.requireHeld("first", "second", "third")
				require.Empty(t, e.line(), "the others are held again")
			})
		})
	}
}

// The same of one that waits for a place: the one behind it comes forward in its place, and no more than that one.
func TestWhatOneThatWaitsGives(t *testing.T) {
	for name, test := range map[string]struct {
		end     func(e *env) error
		line    []string
		ordered []string
	}{
		"stopped": {func(e *env) error {
			_, err := e.queue.Stop(e.ctx(), "first")
			return err
		}, []string{"second", "other"}, []string{"second", "third"}},
		"removed": {func(e *env) error { return e.queue.Remove(e.ctx(), "first") }, []string{"second", "other"}, []string{"second", "third"}},
		"put off": {func(e *env) error { return e.queue.Reschedule(e.ctx(), "first", 0, time.Hour) }, []string{"other"}, []string{"first", "second", "third"}},
	} {
		for _, forward := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", brought forward before: ", forward), func(t *testing.T) {
				onBoth(t, func(t *testing.T, e *env) {
					e.registerWithLimits("r", `{"concurrency":1}`)
					e.start("holder")
					e.startOrdered("first", "second", "third")
					e.start("other", "more", "most")
					require.Equal(t, []string{"holder"}, claimed(e.commit("r", 10, nil)))
					require.Equal(t, []string{"first", "other", "more", "most"}, e.zset(e.keys.base+"held:test/a"))
					line := test.line
					if forward {
						e.lookAt("held:test/a")
						require.Equal(t, []string{"first"}, e.line())
						line = append(line[:len(line):len(line)], "first") // the next claim drops it
					}
					require.NoError(t, test.end(e))
					require.ElementsMatch(t, line, e.line())
					e.requireHeld(test.ordered...)
					require.Equal(t, []string{"more", "most"}, e.zset(e.keys.base+"held:test/a"))
					require.NotContains(t, e.hash("first"), "held_by")
					require.NotContains(t, e.hash("first"), "place")
					require.Equal(t, []any{"holder"}, e.do("SMEMBERS", e.keys.base+"limit:test/a"))
					require.Empty(t, claimed(e.commit("r", 10, nil)), "the holder has the place still")
				})
			})
		}
	}
}

// Who leaves an order, and who is next there: one that is put off holds up those behind it, and one whose record is gone does not.
func TestWhoIsNextInAnOrder(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		e.startOrdered("1", "2", "3", "4", "5")
		require.Equal(t, []string{"order:k"}, e.zset(e.keys.base+"timers"))
		first := e.commit("r", 10, nil).Claims[0]
		_, err := e.queue.Stop(e.ctx(), "3")
		require.NoError(t, err)
		require.Empty(t, e.line(), "the first has not left")
		e.do("DEL", e.keys.task("2"))
		e.set("4", "state", "SCHEDULED")
		e.leave(&first, "ENDED")
		require.Empty(t, e.line(), "the fourth is not due")
		require.Equal(t, []string{"4", "5"}, e.zset(e.keys.base+"order:k"))
		look := func() {
			if promoted := e.lookAt("order:k"); promoted.NextDue != 0 {
				require.Greater(t, promoted.NextDue, promoted.Now, "later, not at once again")
			}
		}
		look()
		require.Empty(t, e.line())
		require.Equal(t, []string{"order:k"}, e.zset(e.keys.base+"timers"))
		e.do("DEL", e.keys.task("4"))
		look()
		require.Equal(t, []string{"5"}, e.line())
		require.Empty(t, e.zset(e.keys.base+"timers"), "nobody waits behind it")
		e.do("DEL", e.keys.task("5"))
		look()
		require.Empty(t, e.do("KEYS", e.keys.base+"order:*"))
		require.Empty(t, e.zset(e.keys.base+"timers"))
	})
}

// Those behind the first that are gone are passed over at once; and who leaves from behind the first brings nobody.
func TestOrderWithGaps(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		e.startOrdered("1", "2", "3", "4", "5")
		require.NoError(t, e.queue.Remove(e.ctx(), "5"))
		require.Equal(t, []string{"1"}, e.line(), "not twice")
		e.do("DEL", e.keys.task("2"), e.keys.task("3"))
		require.NoError(t, e.queue.Remove(e.ctx(), "1"))
		require.Equal(t, []string{"4"}, e.zset(e.keys.base+"order:k"))
		require.Equal(t, []string{"4"}, claimed(e.commit("r", 10, nil)))
	})
}

// More are gone than one step passes over: the safety net passes over the others, and goes when nobody is left to wait.
func TestOrderWithAWideGap(t *testing.T) {
	for _, gone := range []int{MaxBatch - 1, MaxBatch, MaxBatch + 1, 3 * MaxBatch} {
		t.Run(strconv.Itoa(gone), func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				e.register("r")
				ids := numbered("", gone+2)
				e.startOrdered(ids...)
				first := e.commit("r", 10, nil).Claims[0]
				for _, id := range ids[1 : gone+1] {
					e.do("DEL", e.keys.task(id))
				}
				e.leave(&first, "ENDED")
				for range gone / MaxBatch {
					e.lookAt("order:k")
				}
				require.Equal(t, ids[gone+1:], e.zset(e.keys.base+"order:k"))
				require.Equal(t, ids[gone+1:], claimed(e.commit("r", 10, nil)))
				require.Empty(t, e.zset(e.keys.base+"timers"))
			})
		})
	}
}

// Of an order all of whose tasks are gone nothing is left, and the next one of its key runs.
func TestOrderOfTheGone(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		ids := numbered("", MaxBatch+1)
		e.startOrdered(ids...)
		first := e.commit("r", 10, nil).Claims[0]
		for _, id := range ids[1:] {
			e.do("DEL", e.keys.task(id))
		}
		e.leave(&first, "ENDED")
		require.Equal(t, []string{"order:k"}, e.zset(e.keys.base+"timers"))
		e.lookAt("order:k")
		require.Empty(t, e.zset(e.keys.base+"order:k"))
		require.Empty(t, e.zset(e.keys.base+"timers"))
		e.startOrdered("new")
		require.Equal(t, []string{"new"}, claimed(e.commit("r", 10, nil)))
	})
}

// A task without options that waits for a limit of its name leaves that place when it is stopped or removed.
func TestHeldTaskWithoutOptionsGoes(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.registerWithLimits("r", `{"concurrency":1}`)
		e.start("holder", "a", "b", "c")
		holder := e.commit("r", 10, nil).Claims[0]
		_, err := e.queue.Stop(e.ctx(), "a")
		require.NoError(t, err)
		require.NoError(t, e.queue.Remove(e.ctx(), "b"))
		require.NotContains(t, e.zset(e.keys.base+"held:test/a"), "a")
		require.NotContains(t, e.zset(e.keys.base+"held:test/a"), "b")
		e.leave(&holder, "ENDED")
		require.Equal(t, []string{"c"}, claimed(e.commit("r", 10, nil)))
	})
}

// The safety net is taken in where nobody waits: else it would look every few seconds for ever.
func TestSafetyNetIsTakenIn(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.lookAt("held:test/a")
		require.Empty(t, e.zset(e.keys.base+"timers"))
		ordered := `{"key":"k","ordered":true}`
		require.NoError(t, e.startSpecial("1", ordered, withOptions(ordered, "")))
		e.lookAt("order:k")
		require.Empty(t, e.zset(e.keys.base+"timers"), "nobody is behind the first")
		require.NoError(t, e.startSpecial("2", ordered, withOptions(ordered, "")))
		e.lookAt("order:k")
		require.Equal(t, []string{"order:k"}, e.zset(e.keys.base+"timers"))
	})
}

// The safety net goes with the last of those who wait, whatever takes that one away: no runner looks in vain.
func TestSafetyNetGoesWithTheLast(t *testing.T) {
	for name, takes := range map[string]func(e *env){
		"stop":   func(e *env) { _, err := e.queue.Stop(e.ctx(), "last"); require.NoError(e.t, err) },
		"remove": func(e *env) { require.NoError(e.t, e.queue.Remove(e.ctx(), "last")) },
		"claim of one that is in line as well": func(e *env) {
			e.do("DEL", e.keys.base+"limit:test/a")
			e.push(e.keys.wait, "last")
			require.Equal(e.t, []string{"last"}, claimed(e.commit("r", 10, nil)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				e.registerWithLimits("r", `{"concurrency":1}`)
				e.start("holder", "last")
				e.commit("r", 10, nil)
				require.Equal(t, []string{"held:test/a"}, e.zset(e.keys.base+"timers"))
				takes(e)
				require.Empty(t, e.zset(e.keys.base+"held:test/a"))
				require.Empty(t, e.zset(e.keys.base+"timers"))
			})
		})
	}
	t.Run("gaps in an order", func(t *testing.T) {
		onBoth(t, func(t *testing.T, e *env) {
			e.register("r")
			e.startOrdered("1", "2", "3", "4")
			first := e.commit("r", 10, nil).Claims[0]
			e.do("DEL", e.keys.task("2"), e.keys.task("3"))
			e.leave(&first, "ENDED")
			require.Equal(t, []string{"4"}, e.zset(e.keys.base+"order:k"))
			require.Empty(t, e.zset(e.keys.base+"timers"))
		})
	})
}
