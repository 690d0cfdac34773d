package store

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A hash of the wrong type among good ones spoils nothing, whatever is said of it; its claim ends all the same.
func TestCommitBrokenHash(t *testing.T) {
	for name, add := range items {
		if name == "removed" {
			continue // it removes what is there
		}
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				e.register("r")
				claims := e.own("r", "a", "broken", "b")
				e.start("next")
				e.spoil(e.keys.task("broken"))
				result := e.commit("r", 1, func(b *Batch) {
					for _, id := range []string{"a", "broken", "b"} {
						claim := claims[id]
						add(b, &claim)
					}
				})
				require.Equal(t, "ok", result.Codes[0])
				require.Regexp(t, "^broken:.*WRONGTYPE", result.Codes[1])
				require.Equal(t, "ok", result.Codes[2])
				require.Len(t, result.Claims, 1)
				require.Equal(t, "spoilt", e.do("GET", e.keys.task("broken")))
				e.requireNoneLost([]string{"r"}, "a", "b", "next")
			})
		})
	}
}

func TestCommitRemovesABrokenHash(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		claim := e.own("r", "x")["x"]
		e.spoil(e.keys.task("x"))
		require.Equal(t, []string{"ok"}, e.commit("r", 0, func(b *Batch) { items["removed"](b, &claim) }).Codes)
		require.Zero(t, e.do("EXISTS", e.keys.task("x")))
		require.Empty(t, e.members("r"))
	})
}

// What cannot go back in line stays the runner's: it is on a key, and can be given back again.
func TestCommitWithALineOfTheWrongType(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		claims := e.own("r", "back", "end")
		back, end := claims["back"], claims["end"]
		e.spoil(e.keys.wait)
		result := e.commit("r", 5, func(b *Batch) {
			items["wait"](b, &back)
			items["ended"](b, &end)
		})
		require.Equal(t, "ok", result.Codes[1])
		require.NotEmpty(t, result.Faults)
		require.Contains(t, result.Faults[0], e.keys.wait+": ")
		require.Contains(t, result.Faults[0], "WRONGTYPE")
		require.Empty(t, result.Claims)
		require.Equal(t, []string{back.member()}, e.members("r"))
		require.Equal(t, "ENDED", e.state("end"))

		e.do("DEL", e.keys.wait)
		require.Equal(t, []string{"ok"}, e.commit("r", 0, func(b *Batch) { items["wait"](b, &back) }).Codes)
		require.Equal(t, []string{"back"}, e.line())
		require.Empty(t, e.members("r"))
	})
}

func TestCommitWithScheduledOfTheWrongType(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		claims := e.own("r", "later", "end")
		later, end := claims["later"], claims["end"]
		e.spoil(e.keys.scheduled)
		result := e.commit("r", 0, func(b *Batch) {
			items["scheduled"](b, &later)
			items["ended"](b, &end)
		})
		require.Regexp(t, "^broken:.*WRONGTYPE", result.Codes[0])
		require.Equal(t, "ok", result.Codes[1])
		require.Len(t, result.Faults, 1)
		require.Contains(t, result.Faults[0], e.keys.scheduled)
		require.Equal(t, []string{later.member()}, e.members("r"), "it stays the runner's")
	})
}

// The index only lists: a task ends without it.
func TestCommitWithAnIndexOfTheWrongType(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		claims := e.own("r", "a", "b")
		a, b := claims["a"], claims["b"]
		e.spoil(e.keys.final("ENDED"))
		result := e.commit("r", 0, func(batch *Batch) {
			items["ended"](batch, &a)
			items["error"](batch, &b)
		})
		require.Equal(t, []string{"ok", "ok"}, result.Codes)
		require.Len(t, result.Faults, 1)
		require.Contains(t, result.Faults[0], e.keys.final("ENDED"))
		require.Equal(t, "ENDED", e.state("a"))
		require.Equal(t, []string{"b"}, e.final("ERROR"))
		require.Empty(t, e.members("r"))
	})
}

// Without readable intents tasks still end and move.
func TestCommitWithIntentsOfTheWrongType(t *testing.T) {
	for _, name := range []string{"write", "ended", "wait", "scheduled", "removed", "swap"} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				e.register("r")
				claim := e.own("r", "x")["x"]
				e.spoil(e.keys.controlHash("r"))
				e.start("y")
				result := e.commit("r", 1, func(b *Batch) { items[name](b, &claim) })
				require.Equal(t, []string{"ok"}, result.Codes)
				require.Len(t, result.Claims, 1)
				require.Equal(t, "spoilt", e.do("GET", e.keys.controlHash("r")))
			})
		})
	}
}

// Where the fence itself cannot be read nothing is done, and the error says which fault it is.
func TestCommitWithAFenceOfTheWrongType(t *testing.T) {
	keys := map[string]func(e *env) string{
		"running": func(e *env) string { return e.keys.running("r") },
		"runner":  func(e *env) string { return e.keys.runner("r") },
	}
	for name, key := range keys {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				e.register("r")
				claim := e.own("r", "x")["x"]
				e.start("y")
				before := e.hash("x")
				e.do("RENAME", key(e), key(e)+":aside")
				e.spoil(key(e))
				_, err := e.tryCommit("r", 1, func(b *Batch) { items["ended"](b, &claim) })
				require.ErrorIs(t, err, ErrWrongType)
				require.True(t, Answered(err))
				require.Equal(t, before, e.hash("x"))
				require.Equal(t, []string{"y"}, e.line())

				e.do("RENAME", key(e)+":aside", key(e))
				result := e.commit("r", 1, func(b *Batch) { items["ended"](b, &claim) })
				require.Equal(t, []string{"ok"}, result.Codes)
				require.Len(t, result.Claims, 1)
			})
		})
	}
}

// Without a counter of epochs nothing can be claimed; what is in line stays there, and ends are written.
func TestCommitWithAnEpochOfTheWrongType(t *testing.T) {
	for _, junk := range []string{"type", "number"} {
		t.Run(junk, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				e.register("r")
				claim := e.own("r", "x")["x"]
				e.start("y")
				e.do("DEL", e.keys.epoch)
				if junk == "type" {
					e.do("LPUSH", e.keys.epoch, "spoilt")
				} else {
					e.do("SET", e.keys.epoch, "junk")
				}
				result := e.commit("r", 1, func(b *Batch) { items["ended"](b, &claim) })
				require.Equal(t, []string{"ok"}, result.Codes)
				require.Empty(t, result.Claims)
				require.Len(t, result.Faults, 1)
				require.Contains(t, result.Faults[0], e.keys.epoch)
				require.Equal(t, []string{"y"}, e.line())
				require.Empty(t, e.state("y"))

				e.do("DEL", e.keys.epoch)
				require.Len(t, e.commit("r", 1, nil).Claims, 1)
			})
		})
	}
}
