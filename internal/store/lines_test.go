package store

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// startIn starts tasks of a priority, "" for the normal one.
func (e *env) startIn(priority string, ids ...string) {
	e.t.Helper()
	options := `{"priority":"` + priority + `"}`
	for _, id := range ids {
		if priority == "" {
			e.start(id)
			continue
		}
		require.NoError(e.t, e.startSpecial(id, options, withOptions(options, "")))
	}
}

// Of ten claims six begin with the line of high priority, three with the normal one, one with the low one: none of them starves.
func TestTurnsOfTheLines(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		e.startIn("", numbered("n", 10)...)
		e.startIn("low", numbered("l", 10)...)
		e.startIn("high", numbered("h", 10)...)
		var ran []string
		for range 20 {
			ran = append(ran, claimed(e.commit("r", 1, nil))...)
		}
		require.Equal(t, []string{
			"h0", "h1", "n0", "h2", "h3", "n1", "h4", "h5", "n2", "l0", // and once high is used up, normal
			"h6", "h7", "n3", "h8", "h9", "n4", "n5", "n6", "n7", "l1",
		}, ran)
	})
}

// A claim takes of all lines what it has room for, the higher ones first, and leaves the rest where it was.
func TestClaimOfAllLines(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		e.startIn("", "n0")
		e.startIn("low", "l0", "l1")
		e.startIn("high", "h0", "h1")
		e.do("LMOVE", e.keys.wait, e.keys.inbox("r"), "RIGHT", "LEFT")
		result := e.commit("r", 4, nil)
		require.Equal(t, []string{"n0", "h0", "h1", "l0"}, claimed(result), "what woke the runner is its own")
		require.True(t, result.More)
		require.Empty(t, result.Drops)
		require.Equal(t, []string{"l1"}, e.list(e.keys.wait+":low"))
		require.Equal(t, []string{""}, e.line(), "another runner is woken for it")
		result = e.commit("r", 4, nil)
		require.Equal(t, []string{"l1"}, claimed(result))
		require.False(t, result.More)
		require.Empty(t, result.Drops, "what woke it is no ID")
		require.Zero(t, e.counter("dropped"))
		require.Empty(t, e.line())
	})
}

// Whoever puts a task in a line beside `wait` wakes those who wait there, once.
func TestWhatWakesForALineBeside(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		e.startIn("high", "a", "b")
		require.Equal(t, []string{""}, e.line())
		require.Equal(t, []string{"a", "b"}, claimed(e.commit("r", 10, nil)))
		require.Empty(t, e.line())
		e.start("n")
		e.startIn("low", "c")
		require.Equal(t, []string{"n"}, e.line(), "who is woken by an ID looks at all lines")
		require.NoError(t, e.queue.Remove(e.ctx(), "n"))
		e.commit("r", 10, nil)

		options := `{"priority":"high"}`
		require.NoError(t, e.startSpecial("later", options, withOptions(options, `,"delay_ms":60000`)))
		require.Empty(t, e.line())
		e.do("ZADD", e.keys.scheduled, 1, "later")
		_, err := e.queue.Promote(e.ctx(), 10)
		require.NoError(t, err)
		require.Equal(t, []string{""}, e.line())
		require.Equal(t, []string{"later"}, e.list(e.keys.wait+":high"))
		require.Equal(t, []string{"later"}, claimed(e.commit("r", 10, nil)))
	})
}

// A paused queue gives nothing, also of what a runner was woken by: that goes back to where it was.
func TestClaimOfAPausedQueue(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		e.register("s")
		e.startIn("", "n0", "n1", "n2")
		e.startIn("high", "h0")
		require.NoError(t, e.queue.Pause(e.ctx()))
		for i := range 2 {
			e.do("LMOVE", e.keys.wait, e.keys.inbox("r"), "RIGHT", "LEFT")
			result := e.commit("r", 2, nil)
			require.True(t, result.Paused, fmt.Sprint(i))
			require.Empty(t, result.Claims)
			require.Equal(t, []string{"n2", "n1", "n0"}, e.line(), "no other runner misses it")
		}
		require.Equal(t, []string{"h0"}, e.list(e.keys.wait+":high"))
		require.NoError(t, e.queue.Resume(e.ctx()))
		require.Equal(t, []string{"h0", "n0", "n1", "n2"}, claimed(e.commit("s", 10, nil)))
	})
}

// A task that runs again goes to its own line, and behind those of its order.
func TestRestartGoesToItsLine(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		e.startIn("low", "l")
		e.leave(&e.commit("r", 1, nil).Claims[0], "ERROR")
		e.startOrdered("1", "2")
		e.leave(&e.commit("r", 1, nil).Claims[0], "ERROR")
		require.Equal(t, []string{"2"}, e.line())
		require.NoError(t, e.queue.Restart(e.ctx(), "l", "again"))
		require.NoError(t, e.queue.Restart(e.ctx(), "1", "again"))
		require.Equal(t, []string{"l"}, e.list(e.keys.wait+":low"))
		require.Equal(t, []string{"2"}, e.line())
		require.Equal(t, []string{"2", "1"}, e.zset(e.keys.base+"order:k"))
	})
}

// A runner with one free slot gets the one task that there is, whatever its line and whatever woke the runner: it does not turn in circles.
func TestClaimOfOne(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		e.startIn("low", "l")
		e.start("n")
		require.Equal(t, []string{"n", ""}, e.line())
		counts, err := e.queue.Counts(e.ctx())
		require.NoError(t, err)
		require.Equal(t, int64(2), counts.Wait)
		require.Equal(t, []string{"n"}, claimed(e.commit("r", 1, nil)), "what is behind the wake-up is not passed over")
		require.Equal(t, []string{"l"}, claimed(e.commit("r", 1, nil)))
		for _, priority := range []string{"high", "", "low"} {
			for i := range 10 { // it is each line's turn
				id := fmt.Sprint(priority, i)
				e.startIn(priority, id)
				require.Equal(t, []string{id}, claimed(e.commit("r", 1, nil)))
			}
			e.startIn("low", priority+" y")
			e.do("LMOVE", e.keys.wait, e.keys.inbox("r"), "RIGHT", "LEFT")
			require.Equal(t, []string{priority + " y"}, claimed(e.commit("r", 1, nil)))
		}
	})
}
