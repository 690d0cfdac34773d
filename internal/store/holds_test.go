package store

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// registerWithLimits gives a runner that says what limits the name test/a has.
func (e *env) registerWithLimits(runner, limits string) {
	e.t.Helper()
	info := RunnerInfo{ID: runner, Lease: time.Minute, Silence: 40 * time.Second, Names: []string{"test/a"}, Limits: `{"test/a":` + limits + `}`}
	ok, _, err := e.queue.Register(e.ctx(), &info)
	require.NoError(e.t, err)
	require.True(e.t, ok)
	e.numbers[runner] = 0
}

func (e *env) startSpecial(id, options, spec string) error {
	e.t.Helper()
	tasks := []NewTask{{ID: id, Nonce: "n" + id, Task: "test/a", Data: "1", Options: options, Spec: spec}}
	faults, err := e.queue.Start(e.ctx(), tasks)
	require.NoError(e.t, err)
	return faults[0]
}

func withOptions(options, rest string) string { return `{"options":` + options + rest + `}` }

// A key that a special start needs holds another type: that start is refused and leaves nothing, its neighbours are started.
func TestSpecialStartOnKeysOfTheWrongType(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		ordered := `{"key":"k","ordered":true}`
		for key, task := range map[string]NewTask{
			"order:k":   {Options: ordered, Spec: withOptions(ordered, "")},
			"once:u":    {Options: "{}", Spec: withOptions("{}", `,"once":{"key":"u","release":"end","conflict":"refuse"}`)},
			"scheduled": {Options: "{}", Spec: withOptions("{}", `,"delay_ms":1000`)},
			"wait:high": {Options: `{"priority":"high"}`, Spec: withOptions(`{"priority":"high"}`, "")},
		} {
			e.spoil(e.keys.base + key)
			if key == "once:u" { // a string as well, but of another kind
				e.do("DEL", e.keys.base+key)
				e.do("LPUSH", e.keys.base+key, "x")
			}
			task.ID, task.Nonce, task.Task = "bad "+key, "n", "test/a"
			faults, err := e.queue.Start(e.ctx(), []NewTask{{ID: "before " + key, Nonce: "n", Task: "test/a"}, task, {ID: "after " + key, Nonce: "n", Task: "test/a"}})
			require.NoError(t, err, key)
			require.NoError(t, faults[0], key)
			require.ErrorIs(t, faults[1], ErrWrongType, key)
			require.NoError(t, faults[2], key)
			require.Empty(t, e.hash(task.ID), "it is on no key")
			require.Equal(t, []string{"after " + key, "before " + key}, e.line()[:2])
			e.do("DEL", e.keys.base+key)
		}
	})
}

// A key that a claim of a limited task needs holds another type: its runner is told, and its neighbours are claimed.
func TestLimitsOnKeysOfTheWrongType(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.registerWithLimits("r", `{"concurrency":5,"rate":10,"per_ms":1000}`)
		for _, key := range []string{"limit:test/a", "rate:test/a", "order:k"} {
			e.set("plain", "task", "test/b")
			e.set("bad", "task", "test/a", "options", `{"key":"k","ordered":true}`)
			e.do("LPUSH", e.keys.wait, "bad", "plain")
			e.spoil(e.keys.base + key)
			result := e.commit("r", 10, nil)
			require.Equal(t, []string{"bad", "plain"}, claimed(result), key)
			require.Contains(t, result.Claims[0].Extra.Refused, "WRONGTYPE", key)
			require.Nil(t, result.Claims[1].Extra)
			require.Empty(t, result.Faults)
			e.commit("r", 0, func(b *Batch) {
				for _, c := range result.Claims {
					b.Leave(c.ID, c.member(), &Leave{State: "EXCEPTION", Event: tail(&c, 1), Holds: true})
				}
			})
			require.Equal(t, "EXCEPTION", e.state("bad"))
			require.Equal(t, "EXCEPTION", e.state("plain"))
			e.do("DEL", e.keys.base+key, e.keys.task("bad"), e.keys.task("plain"))
		}
	})
}

// The end of a run that holds a place brings exactly one of those behind it, also if it is said twice, and none if the run is no more the runner's.
func TestLeaveOfAHolder(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.registerWithLimits("r", `{"concurrency":1}`)
		e.start("first", "second", "third")
		result := e.commit("r", 10, nil)
		require.Equal(t, []string{"first"}, claimed(result))
		require.Equal(t, []string{"second", "third"}, e.zset(e.keys.base+"held:test/a"))
		require.Equal(t, "test/a", e.hash("second")["held_by"])
		require.Empty(t, e.line())
		c := result.Claims[0]
		stale := Claim{ID: "first", Epoch: c.Epoch - 1}
		lost := e.commit("r", 0, func(b *Batch) {
			b.Leave("first", stale.member(), &Leave{State: "ENDED", Event: tail(&c, 1), Holds: true})
		})
		require.Equal(t, []string{"lost"}, lost.Codes)
		require.Empty(t, e.line(), "the place is still taken")
		batch := &Batch{Number: e.numbers["r"] + 1}
		batch.Leave("first", c.member(), &Leave{State: "ENDED", Event: tail(&c, 1), Holds: true})
		for _, want := range []Outcome{Applied, Replayed} {
			result, err := e.queue.Commit(e.ctx(), "r", batch)
			require.NoError(t, err)
			require.Equal(t, want, result.Outcome)
			require.Equal(t, []string{"second"}, e.line())
		}
		e.numbers["r"]++
		require.Empty(t, e.do("SMEMBERS", e.keys.base+"limit:test/a"))
		result = e.commit("r", 10, nil)
		require.Equal(t, []string{"second"}, claimed(result))
		require.Empty(t, e.hash("second")["held_by"])
		require.Empty(t, e.hash("second")["place"])
	})
}

// Between two attempts a task has no place of a limit, and keeps its unique key and its order. A stop that is pending ends it: then these go.
func TestLeaveOfAHolderForLater(t *testing.T) {
	for _, state := range []string{"WAIT", "SCHEDULED"} {
		for _, stopped := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, stopped: %t", state, stopped), func(t *testing.T) {
				onBoth(t, func(t *testing.T, e *env) {
					e.registerWithLimits("r", `{"concurrency":1}`)
					options := `{"key":"k","ordered":true,"once":{"key":"u","release":"end"}}`
					require.NoError(t, e.startSpecial("first", options, withOptions(options, `,"once":{"key":"u","release":"end","conflict":"refuse"}`)))
					next := `{"key":"k","ordered":true}`
					require.NoError(t, e.startSpecial("next", next, withOptions(next, "")))
					e.start("held")
					c := e.commit("r", 1, nil).Claims[0]
					require.Equal(t, "first", c.ID)
					require.Empty(t, e.commit("r", 1, nil).Claims)
					require.Equal(t, []string{"held"}, e.zset(e.keys.base+"held:test/a"))
					if stopped {
						_, err := e.queue.Stop(e.ctx(), "first")
						require.NoError(t, err)
					}
					leave := &Leave{State: state, Delay: 60_000, Event: tail(&c, 1), Holds: true, Fields: []string{"attempt", "1"}}
					e.commit("r", 0, func(b *Batch) { b.Leave("first", c.member(), leave) })
					require.Empty(t, e.do("SMEMBERS", e.keys.base+"limit:test/a"))
					require.Contains(t, e.line(), "held", "the place is another's now")
					if stopped {
						require.Equal(t, "STOPPED", e.state("first"))
						require.Nil(t, e.do("GET", e.keys.base+"once:u"))
						require.Equal(t, []string{"next"}, e.zset(e.keys.base+"order:k"))
						require.Contains(t, e.line(), "next")
						return
					}
					require.Equal(t, "first", e.do("GET", e.keys.base+"once:u"))
					require.Equal(t, []string{"first", "next"}, e.zset(e.keys.base+"order:k"))
					require.NotContains(t, e.line(), "next")
				})
			})
		}
	}
}

// A pending stop that ends a run in the place of a reload frees what the task holds.
func TestStopOfAHolderThatReloads(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		options := `{"once":{"key":"u","release":"end"}}`
		require.NoError(t, e.startSpecial("x", options, withOptions(options, `,"once":{"key":"u","release":"end","conflict":"refuse"}`)))
		c := e.commit("r", 1, nil).Claims[0]
		_, err := e.queue.Stop(e.ctx(), "x")
		require.NoError(t, err)
		result := e.commit("r", 0, func(b *Batch) {
			b.Swap("x", c.member(), 1000, "new", &Leave{State: "STOPPED", Event: tail(&c, 1), Holds: true})
		})
		require.Equal(t, []string{"stopped"}, result.Codes)
		require.Equal(t, "STOPPED", e.state("x"))
		require.Nil(t, e.do("GET", e.keys.base+"once:u"))
	})
}

// One that was brought forward and finds no room goes back to its place; what comes anew goes behind it.
func TestBroughtForwardInVain(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.registerWithLimits("r", `{"concurrency":1}`)
		e.start("first", "second", "third")
		first := e.commit("r", 10, nil).Claims[0]
		e.do("ZADD", e.keys.base+"timers", 1, "held:test/a") // the safety net brings one to look
		_, err := e.queue.Promote(e.ctx(), 10)
		require.NoError(t, err)
		require.Equal(t, []string{"second"}, e.line())
		e.start("fourth")
		require.Empty(t, claimed(e.commit("r", 10, nil)))
		require.Equal(t, []string{"second", "third", "fourth"}, e.zset(e.keys.base+"held:test/a"))
		var order []string
		for c := first; len(order) < 3; {
			result := e.commit("r", 10, func(b *Batch) {
				b.Leave(c.ID, c.member(), &Leave{State: "ENDED", Event: tail(&c, 1), Holds: true})
			})
			require.Len(t, result.Claims, 1, fmt.Sprint(order))
			c = result.Claims[0]
			order = append(order, c.ID)
		}
		require.Equal(t, []string{"second", "third", "fourth"}, order)
	})
}

// A place whose task does not run any more, whatever made it keep that, is found by the safety net.
func TestPlacesOfTheGone(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.registerWithLimits("r", `{"concurrency":2}`)
		e.do("SADD", e.keys.base+"limit:test/a", "nobody", "ended")
		e.set("ended", "task", "test/a", "state", "ENDED")
		e.start("waits")
		require.Empty(t, claimed(e.commit("r", 10, nil)))
		e.do("ZADD", e.keys.base+"timers", 1, "held:test/a")
		_, err := e.queue.Promote(e.ctx(), 10)
		require.NoError(t, err)
		require.Equal(t, []string{"waits"}, claimed(e.commit("r", 10, nil)))
	})
}

// A due task goes to its own line, behind those of its key.
func TestPromoteOfTasksWithOptions(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		for i, id := range []string{"plain", "first", "low", "second"} {
			e.set(id, "task", "test/a", "state", "SCHEDULED")
			switch id {
			case "low":
				e.set(id, "options", `{"priority":"low"}`)
			case "first", "second":
				e.set(id, "options", `{"key":"k","ordered":true}`)
			}
			e.do("ZADD", e.keys.scheduled, i+1, id)
		}
		promoted, err := e.queue.Promote(e.ctx(), 10)
		require.NoError(t, err)
		require.Equal(t, 4, promoted.Moved)
		require.Equal(t, []string{"low"}, e.list(e.keys.wait+":low"))
		require.Equal(t, []string{"first", "second"}, e.zset(e.keys.base+"order:k"))
		require.Equal(t, []string{"first", "plain"}, e.line())
		require.Empty(t, e.zset(e.keys.scheduled))
	})
}

// A due task whose order cannot be read goes in line: its claim says what is wrong.
func TestPromoteWithABrokenOrder(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		ordered := `{"key":"k","ordered":true}`
		require.NoError(t, e.startSpecial("later", ordered, withOptions(ordered, `,"delay_ms":60000`)))
		e.do("ZADD", e.keys.scheduled, 1, "later")
		e.spoil(e.keys.base + "order:k")
		promoted, err := e.queue.Promote(e.ctx(), 10)
		require.NoError(t, err)
		require.Equal(t, 1, promoted.Moved)
		e.register("r")
		result := e.commit("r", 10, nil)
		require.Len(t, result.Claims, 1)
		require.Contains(t, result.Claims[0].Extra.Refused, "WRONGTYPE")
	})
}

// The start of a unique task whose answer was lost is made again: it is the same task, not a conflict with itself.
func TestSpecialStartIsReplayed(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		spec := withOptions("{}", `,"once":{"key":"u","release":"end","conflict":"refuse","ttl_ms":60000}`)
		task := func(id, nonce string) []NewTask {
			return []NewTask{{ID: id, Nonce: nonce, Task: "test/a", Data: "1", Options: `{"once":{"key":"u","release":"end"}}`, Spec: spec}}
		}
		for range 2 {
			faults, err := e.queue.Start(e.ctx(), task("drawn", ""))
			require.NoError(t, err)
			require.NoError(t, faults[0])
		}
		require.Equal(t, []string{"drawn"}, e.line())
		faults, err := e.queue.Start(e.ctx(), task("other", ""))
		require.NoError(t, err)
		require.ErrorIs(t, faults[0], ErrNotUnique)
		require.Empty(t, e.hash("other"))
		require.NoError(t, e.queue.Remove(e.ctx(), "drawn"))
		for range 2 {
			faults, err = e.queue.Start(e.ctx(), task("own", "nonce"))
			require.NoError(t, err)
			require.NoError(t, faults[0])
		}
		require.Equal(t, "own", e.do("GET", e.keys.base+"once:u"))
	})
}

// startKeyed puts tasks in line whose key is the first letter of their ID.
func (e *env) startKeyed(ids ...string) {
	e.t.Helper()
	for _, id := range ids {
		e.set(id, "task", "test/a", "options", `{"key":"`+id[:1]+`"}`)
		e.do("LPUSH", e.keys.wait, id)
	}
}

// end ends a run and claims until nothing is in line.
func (e *env) end(c *Claim) []Claim {
	e.t.Helper()
	e.commit("r", 0, func(b *Batch) { b.Leave(c.ID, c.member(), &Leave{State: "ENDED", Event: tail(c, 1), Holds: true}) })
	return e.claimAll()
}

func (e *env) claimAll() (claims []Claim) {
	e.t.Helper()
	for range 20 {
		if len(e.line()) == 0 {
			return claims
		}
		claims = append(claims, e.commit("r", 10, nil).Claims...)
	}
	require.FailNow(e.t, "there is no end of tasks that come forward")
	return nil
}

// lookAt has the safety net look at what a timer is for.
func (e *env) lookAt(timer string) Promoted {
	e.t.Helper()
	e.do("ZADD", e.keys.base+"timers", 1, timer)
	promoted, err := e.queue.Promote(e.ctx(), 10)
	require.NoError(e.t, err)
	return promoted
}

// A task that comes to its turn under one limit and waits for another one from then on passes its turn on: nobody waits for the safety net.
func TestTurnIsPassedOn(t *testing.T) {
	for name, limits := range map[string]string{
		"concurrency": `{"concurrency":2,"key_concurrency":1}`,
		"rate":        `{"concurrency":2,"key_rate":1,"key_per_ms":60000}`,
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				e.registerWithLimits("r", limits)
				e.startKeyed("x", "y", "a1", "a2", "a3", "b")
				claims := e.claimAll()
				require.Len(t, claims, 2)
				require.Equal(t, []string{"a1", "a2", "a3", "b"}, e.zset(e.keys.base+"held:test/a"))
				x, y := claims[0], claims[1]
				claims = e.end(&x)
				require.Len(t, claims, 1)
				a1 := claims[0]
				require.Equal(t, "a1", a1.ID)
				claims = e.end(&y)
				require.Len(t, claims, 1, "not one of the key that may not run")
				require.Equal(t, "b", claims[0].ID)
				require.Equal(t, []string{"a2", "a3"}, e.zset(e.keys.base+"held:test/a:a"), "in their order")
				require.Equal(t, []string{"held:test/a:a"}, e.zset(e.keys.base+"timers"))
				if claims = e.end(&a1); name == "concurrency" {
					require.Len(t, claims, 1)
					require.Equal(t, "a2", claims[0].ID)
				}
			})
		})
	}
}

// Each limit lets those come forward that it has room for, whatever another one has: they wait for that one then, which its ends tell.
func TestEachLimitLetsItsOwnCome(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.registerWithLimits("r", `{"concurrency":2,"key_rate":2,"key_per_ms":60000}`)
		e.startKeyed("a1", "a2", "a3", "a4")
		first := e.claimAll()
		require.Len(t, first, 2)
		require.Empty(t, e.end(&first[0]))
		e.do("DEL", e.keys.base+"rate:test/a:a") // the window is over
		e.lookAt("held:test/a:a")
		claims := e.claimAll()
		require.Len(t, claims, 1)
		require.Equal(t, "a3", claims[0].ID)
		claims = e.end(&first[1])
		require.Len(t, claims, 1)
		require.Equal(t, "a4", claims[0].ID)
	})
}

// A registration takes a limit away: what waits for that comes at once, not one by one as the safety net looks.
func TestTasksHeldByALimitThatIsNoMore(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.registerWithLimits("r", `{"concurrency":1}`)
		e.start(numbered("", 100)...)
		first := e.claimAll()
		require.Equal(t, "0", first[0].ID)
		e.register("s") // without it
		var ran []string
		for e.lookAt("held:test/a"); len(e.line()) > 0; {
			ran = append(ran, claimed(e.commit("s", 10, nil))...)
		}
		require.ElementsMatch(t, numbered("", 100)[1:], ran)
		require.NotContains(t, e.hash("50"), "held_by")
		require.NotContains(t, e.hash("50"), "place")
		require.Empty(t, e.zset(e.keys.base+"timers"))
	})
}

// leaveAll ends runs, and claims.
func (e *env) leaveAll(runner string, want int, claims ...Claim) *Result {
	e.t.Helper()
	return e.commit(runner, want, func(b *Batch) {
		for _, c := range claims {
			b.Leave(c.ID, c.member(), &Leave{State: "ENDED", Event: tail(&c, 1), Holds: true})
		}
	})
}

// Held tasks come in their order, also where a runner has few free slots.
func TestHeldTasksKeepTheirOrder(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.registerWithLimits("r", `{"rate":100,"per_ms":60000}`)
		e.start(numbered("", 300)...)
		n := 0
		for len(e.line()) > 0 {
			n += len(e.commit("r", 60, nil).Claims)
		}
		require.Equal(t, 100, n)
		e.do("DEL", e.keys.base+rateKey) // the window is over
		e.lookAt(heldKey)
		var got []string
		for range 5 {
			got = append(got, claimed(e.commit("r", 1, nil))...)
		}
		require.Equal(t, numbered("", 105)[100:], got)
	})
}

// A stop leaves an ID in line, and a restart brings it there again: the task runs once, and takes no turn when it has run.
func TestHeldTaskThatIsInLineTwice(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.registerWithLimits("r", `{"concurrency":1}`)
		e.start("first", "a", "x", "y", "z")
		_, err := e.queue.Stop(e.ctx(), "x")
		require.NoError(t, err)
		require.NoError(t, e.queue.Restart(e.ctx(), "x", "n"))
		c := e.commit("r", 5, nil).Claims[0]
		require.Equal(t, []string{"x"}, e.line())
		require.Equal(t, []string{"a", "x", "y", "z"}, e.zset(e.keys.base+heldKey))
		e.registerWithLimits("s", `{"concurrency":1}`)
		e.do("LMOVE", e.keys.wait, e.keys.inbox("s"), "RIGHT", "LEFT")
		e.leaveAll("r", 0, c) // brings a
		var order []string
		for range 6 {
			result := e.commit("s", 2, nil)
			order = append(order, claimed(result)...)
			if len(result.Claims) == 0 {
				break
			}
			e.leaveAll("s", 0, result.Claims...)
		}
		require.ElementsMatch(t, []string{"a", "x", "y", "z"}, order)
	})
}

// A task that a deploy gives back comes next, also before those that wait for its place.
func TestGivenBackAtALimit(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.registerWithLimits("r", `{"concurrency":1}`)
		e.start("a", "b", "c", "d")
		c := e.commit("r", 10, nil).Claims[0]
		e.commit("r", 0, func(b *Batch) {
			b.Leave(c.ID, c.member(), &Leave{State: "WAIT", Event: tail(&c, 1), Holds: true})
		})
		var order []string
		for range 6 {
			result := e.commit("r", 10, nil)
			order = append(order, claimed(result)...)
			e.leaveAll("r", 0, result.Claims...)
		}
		require.Equal(t, []string{"a", "b", "c", "d"}, order)
	})
}
