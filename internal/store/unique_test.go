package store

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// unique starts a task that wants a unique key; release says when it gives that up, ttl, in ms, when it loses it.
func (e *env) unique(id, release, ttl string) error {
	e.t.Helper()
	once := `"key":"u","release":"` + release + `","ttl_ms":` + ttl
	return e.startSpecial(id, `{"once":{`+once+`}}`, withOptions(`{"once":{`+once+`}}`, `,"once":{`+once+`,"conflict":"refuse"}`))
}

func (e *env) holderOfTheKey() any { return e.do("GET", e.keys.base+"once:u") }

// Whose key has run out does not take it from the task that has it now, however it ends.
func TestUniqueKeyOfAnother(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		for name, end := range map[string]func() error{
			"ended": func() error {
				result := e.commit("r", 1, nil)
				require.Equal(t, []string{"a"}, claimed(result))
				e.leave(&result.Claims[0], "ENDED")
				return nil
			},
			"stopped": func() error { _, err := e.queue.Stop(e.ctx(), "a"); return err },
			"removed": func() error { return e.queue.Remove(e.ctx(), "a") },
		} {
			require.NoError(t, e.unique("a", "end", "60000"), name)
			e.do("DEL", e.keys.base+"once:u") // as its time does
			require.NoError(t, e.unique("b", "end", "60000"), name)
			require.NoError(t, end(), name)
			require.Equal(t, "b", e.holderOfTheKey(), name)
			require.NoError(t, e.queue.Remove(e.ctx(), "b"))
			require.Nil(t, e.holderOfTheKey(), name)
			require.NoError(t, e.queue.Remove(e.ctx(), "a"))
		}
	})
}

// When a key is given up: with the task's end, when it begins, or after its time whatever becomes of the task.
func TestWhenAUniqueKeyIsGivenUp(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		for release, want := range map[string]struct{ begun, ended any }{
			"end": {"a", nil}, "start": {nil, nil}, "never": {"a", "a"},
		} {
			require.NoError(t, e.unique("a", release, "60000"))
			require.ErrorIs(t, e.unique("x", release, "60000"), ErrNotUnique)
			result := e.commit("r", 1, nil)
			require.Equal(t, want.begun, e.holderOfTheKey(), release)
			e.leave(&result.Claims[0], "ENDED")
			require.Equal(t, want.ended, e.holderOfTheKey(), release)
			if want.ended != nil {
				require.Positive(t, e.do("PTTL", e.keys.base+"once:u"))
				require.ErrorIs(t, e.unique("x", release, "60000"), ErrNotUnique, "its time is not over")
			}
			require.NoError(t, e.queue.Remove(e.ctx(), "a"))
			e.do("DEL", e.keys.base+"once:u")
		}
	})
}

// One that runs again takes its key again, for its time; not if another task has it, but from one that is final, or gone.
func TestUniqueKeyIsTakenAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		for _, ttl := range []string{"0", "60000"} {
			require.NoError(t, e.unique("a", "end", ttl))
			e.leave(&e.commit("r", 10, nil).Claims[0], "EXCEPTION")
			require.NoError(t, e.unique("b", "end", ttl))
			require.ErrorContains(t, e.queue.Restart(e.ctx(), "a", "again"), "another task has its unique key")
			require.Equal(t, "EXCEPTION", e.state("a"))
			e.set("b", "state", "ENDED") // by hand: the key stays
			require.NoError(t, e.queue.Restart(e.ctx(), "a", "again"))
			require.Equal(t, "a", e.holderOfTheKey())
			if ttl == "0" {
				require.Equal(t, int64(-1), e.do("PTTL", e.keys.base+"once:u"))
			} else {
				require.Positive(t, e.do("PTTL", e.keys.base+"once:u"))
			}
			require.ErrorIs(t, e.unique("c", "end", ttl), ErrNotUnique)
			require.NoError(t, e.queue.Remove(e.ctx(), "a"))
			require.NoError(t, e.queue.Remove(e.ctx(), "b"))
			require.Nil(t, e.holderOfTheKey())
		}
	})
}

// A limit that grew has room while tasks wait for it: what comes anew goes behind them.
func TestNobodyOvertakesThoseThatWait(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.registerWithLimits("r", `{"concurrency":1}`)
		e.start("runs", "held")
		require.Equal(t, []string{"runs"}, claimed(e.commit("r", 10, nil)))
		e.registerWithLimits("s", `{"concurrency":2}`)
		e.start("new")
		require.Empty(t, claimed(e.commit("s", 10, nil)))
		require.Equal(t, []string{"held", "new"}, e.zset(e.keys.base+"held:test/a"))
		e.lookAt("held:test/a")
		require.Equal(t, []string{"held"}, claimed(e.commit("s", 10, nil)))
	})
}

// What takes the place of a task in line, or of one that is due later, has its own expiry, from when that one is due, and keeps nothing of
// what the other start said.
func TestReplacedExpiry(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		once := `"once":{"key":"u","release":"end"}`
		start := func(id, rest string) {
			require.NoError(t, e.startSpecial(id, `{`+once+`}`, withOptions(`{`+once+`}`, rest)))
		}
		replace := `,"once":{"key":"u","release":"end","conflict":"replace"}`
		for _, c := range []struct {
			first, second string
			scheduled     bool
		}{
			{`,"expires_ms":1000`, `,"expires_ms":60000`, false},
			{`,"delay_ms":500000,"expires_ms":1000`, `,"expires_ms":60000`, true},
			{`,"delay_ms":500000`, `,"delay_ms":900000,"expires_ms":60000`, true},
		} {
			start("a", replace+c.first)
			e.set("a", "keep", "1")
			start("b", replace+c.second)
			hash := e.hash("a")
			begins := integer(t, hash["created_at"])
			if c.scheduled {
				begins = integer(t, hash["due_at"])
				require.Equal(t, begins+60_000, integer(t, hash["expires_at"]))
			}
			require.InDelta(t, begins+60_000, integer(t, hash["expires_at"]), 10_000)
			require.NotContains(t, hash, "keep")
			start("b", replace)
			require.NotContains(t, e.hash("a"), "expires_at")
			require.Empty(t, e.hash("b"))
			require.NoError(t, e.queue.Remove(e.ctx(), "a"))
		}
	})
}

// Each further start puts a debounced task off, but not beyond the longest time from its first start.
func TestDebounceIsBounded(t *testing.T) {
	t.Parallel()
	e := onMini(t)
	begin := time.UnixMilli(1_790_000_000_000)
	start := func(id string, after time.Duration) {
		e.mini.SetTime(begin.Add(after))
		once := `"once":{"key":"u","release":"start"}`
		rest := `,"delay_ms":10000,"most_ms":60000,"once":{"key":"u","release":"start","conflict":"replace"}`
		require.NoError(t, e.startSpecial(id, `{`+once+`}`, withOptions(`{`+once+`}`, rest)))
	}
	for after, due := range map[time.Duration]time.Duration{0: 10 * time.Second, 9 * time.Second: 19 * time.Second, 55 * time.Second: time.Minute} {
		e.mini.FlushAll()
		start("d", 0)
		start("another", after)
		require.Equal(t, begin.Add(due).UnixMilli(), integer(t, e.hash("d")["due_at"]))
		require.Equal(t, []string{"d"}, e.zset(e.keys.scheduled))
	}
}

// One in line stays there when another start takes its place, whatever that says of its time; it is still the start that it was, for a replay.
func TestReplacedInLine(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		once := `"once":{"key":"u","release":"end"}`
		require.NoError(t, e.startSpecial("a", `{`+once+`}`, withOptions(`{`+once+`}`, `,`+once)))
		replace := `,"delay_ms":60000,"once":{"key":"u","release":"end","conflict":"replace"}`
		require.NoError(t, e.startSpecial("b", `{`+once+`}`, withOptions(`{`+once+`}`, replace)))
		require.Equal(t, []string{"a"}, e.line())
		require.Empty(t, e.zset(e.keys.scheduled))
		require.NotContains(t, e.hash("a"), "due_at")
		require.Equal(t, "na", e.hash("a")["nonce"])
	})
}

func replacing(id, options string) []NewTask {
	return []NewTask{{ID: id, Task: "test/a", Data: "2", Options: options, Spec: withOptions(options, `,"once":{"key":"u","release":"end","conflict":"replace"}`)}}
}

// A task that is replaced by one of another key leaves its order: those behind it go on.
func TestReplacedWithAnotherOrder(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.registerWithLimits("r", `{"concurrency":9}`)
		options := func(key string) string {
			return `{"key":"` + key + `","ordered":true,"once":{"key":"u","release":"end"}}`
		}
		_, err := e.queue.Start(e.ctx(), replacing("x", options("a")))
		require.NoError(t, err)
		plain := `{"key":"a","ordered":true}`
		require.NoError(t, e.startSpecial("next of a", plain, withOptions(plain, "")))
		tasks := replacing("y", options("b"))
		_, err = e.queue.Start(e.ctx(), tasks)
		require.NoError(t, err)
		require.Equal(t, "x", tasks[0].ID, "kept")
		for _, c := range e.commit("r", 10, nil).Claims {
			e.leaveAll("r", 0, c)
		}
		e.commit("r", 10, nil)
		require.Contains(t, []string{"RUNNING", "ENDED"}, e.state("next of a"), "x is final; order:a has %v", e.zset(e.keys.base+"order:a"))
	})
}

// Two that exchange their keys do not wait for each other.
func TestReplacedTasksExchangeTheirKeys(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.registerWithLimits("r", `{"concurrency":9}`)
		task := func(id, key, once string) []NewTask {
			options := `{"key":"` + key + `","ordered":true,"once":{"key":"` + once + `","release":"end"}}`
			return []NewTask{{ID: id, Task: "test/a", Options: options, Spec: withOptions(options, `,"once":{"key":"`+once+`","release":"end","conflict":"replace"}`)}}
		}
		for _, tasks := range [][]NewTask{task("x", "a", "1"), task("y", "b", "2"), task("n1", "b", "1"), task("n2", "a", "2")} {
			faults, err := e.queue.Start(e.ctx(), tasks)
			require.NoError(t, err)
			require.NoError(t, faults[0])
		}
		for range 5 {
			for _, c := range e.commit("r", 10, nil).Claims {
				e.leaveAll("r", 0, c)
			}
			for _, timer := range e.zset(e.keys.base + "timers") {
				e.lookAt(timer)
			}
		}
		require.Equal(t, "ENDED", e.state("x"))
		require.Equal(t, "ENDED", e.state("y"))
	})
}
