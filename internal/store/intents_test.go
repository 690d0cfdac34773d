package store

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A stop that is pending turns whatever would go on into STOPPED; an end of the task's own wins. Either way the intent is settled.
func TestCommitWithAStopPending(t *testing.T) {
	cases := map[string]struct{ code, state string }{
		"ended":     {"ok", "ENDED"},
		"error":     {"ok", "ERROR"},
		"exception": {"ok", "EXCEPTION"},
		"stopped":   {"ok", "STOPPED"},
		"wait":      {"stopped", "STOPPED"},
		"scheduled": {"stopped", "STOPPED"},
		"swap":      {"stopped", "STOPPED"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				e.register("r")
				claim := e.own("r", "x")["x"]
				stopped, err := e.queue.Stop(e.ctx(), "x")
				require.NoError(t, err)
				require.False(t, stopped, "its runner is told")
				events := e.listen()
				result := e.commit("r", 0, func(b *Batch) { items[name](b, &claim) })
				require.Equal(t, []string{c.code}, result.Codes)
				require.Equal(t, c.state, e.state("x"))
				require.Contains(t, e.hash("x"), "ended_at")
				require.Equal(t, []string{"x"}, e.final(c.state))
				require.Empty(t, e.line())
				require.Empty(t, e.zset(e.keys.scheduled))
				require.Empty(t, e.members("r"))
				require.Zero(t, e.do("EXISTS", e.keys.controlHash("r")), "the intent is settled")
				require.Equal(t, []string{strings.ToLower(c.state) + " x"}, events.kinds())
			})
		})
	}
}

func TestCommitWithAStopPendingKeepsTheRecord(t *testing.T) {
	adds := map[string]func(b *Batch, c *Claim){
		"wait": func(b *Batch, c *Claim) {
			b.Leave(c.ID, c.member(), &Leave{State: "WAIT", Keep: true, Event: tail(c, 1)})
		},
		"swap": func(b *Batch, c *Claim) {
			b.Swap(c.ID, c.member(), 1000, "new", &Leave{State: "STOPPED", Event: tail(c, 1), Keep: true})
		},
	}
	for name, add := range adds {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				e.register("r")
				claim := e.own("r", "x")["x"]
				_, err := e.queue.Stop(e.ctx(), "x")
				require.NoError(t, err)
				e.commit("r", 0, func(b *Batch) { add(b, &claim) })
				require.Equal(t, []string{"x"}, e.final("kept"))
				require.Empty(t, e.final("STOPPED"))
			})
		})
	}
}

// What else is pending does not stop a task, and the intents of other tasks stay.
func TestCommitLeavesOtherIntents(t *testing.T) {
	for _, intent := range []string{Reload, Restart, "junk"} {
		for _, item := range []string{"wait", "scheduled"} {
			t.Run(intent+" "+item, func(t *testing.T) {
				onBoth(t, func(t *testing.T, e *env) {
					e.register("r")
					claim := e.own("r", "x")["x"]
					control := e.keys.controlHash("r")
					e.do("HSET", control, "x", intent, "y", Stop)
					e.commit("r", 0, func(b *Batch) { items[item](b, &claim) })
					e.requireNoneLost(nil, "x")
					intents, err := e.queue.Intents(e.ctx(), "r")
					require.NoError(t, err)
					require.Equal(t, map[string]string{"y": Stop}, intents)
				})
			})
		}
	}
}

// A swap settles the reload that it did, and no newer one.
func TestSwapAndNewerData(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		claim := e.own("r", "x")["x"]
		e.reload("x", []byte("first"))
		e.reload("x", []byte("second"))
		e.commit("r", 0, func(b *Batch) {
			b.Swap("x", claim.member(), 1000, "first", &Leave{State: "STOPPED", Event: tail(&claim, 1)})
		})
		require.Equal(t, "first", e.hash("x")["data"])
		require.Equal(t, "second", e.hash("x")["reload_data"])
		intents, err := e.queue.Intents(e.ctx(), "r")
		require.NoError(t, err)
		require.Equal(t, map[string]string{"x": Reload}, intents, "the second is still to be done")

		e.commit("r", 0, func(b *Batch) {
			b.Swap("x", "1000:x", 1001, "second", &Leave{State: "STOPPED", Event: tail(&claim, 1)})
		})
		require.Equal(t, "second", e.hash("x")["data"])
		require.NotContains(t, e.hash("x"), "reload_data")
		require.Equal(t, []string{"1001:x"}, e.members("r"))
		require.Zero(t, e.do("EXISTS", e.keys.controlHash("r")))
	})
}

// A reload of the record's own data, without new data, is settled by the swap too.
func TestSwapWithoutNewData(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		claim := e.own("r", "x")["x"]
		e.reload("x", nil)
		e.commit("r", 0, func(b *Batch) {
			b.Swap("x", claim.member(), 1000, `{"of":1}`, &Leave{State: "STOPPED", Event: tail(&claim, 1)})
		})
		require.Zero(t, e.do("EXISTS", e.keys.controlHash("r")))
		require.Equal(t, "1000", e.hash("x")["epoch"])
	})
}

// A reload of data that was written by hand during the one before is not settled with it, nor is a restart: both are still to come.
func TestSwapWithSomethingStillToCome(t *testing.T) {
	cases := map[string]struct {
		meanwhile func(e *env)
		want      string
	}{
		"data by hand": {func(e *env) {
			e.set("x", "data", "three")
			e.reload("x", nil)
		}, Reload},
		"a restart": {func(e *env) { require.NoError(e.t, e.queue.Restart(e.ctx(), "x", "n")) }, Restart},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				e.register("r")
				claim := e.own("r", "x")["x"]
				e.set("x", "data", "two")
				e.reload("x", nil)
				c.meanwhile(e)
				e.commit("r", 0, func(b *Batch) {
					b.Swap("x", claim.member(), 1000, "two", &Leave{State: "STOPPED", Event: tail(&claim, 1)})
				})
				intents, err := e.queue.Intents(e.ctx(), "r")
				require.NoError(t, err)
				require.Equal(t, map[string]string{"x": c.want}, intents)
			})
		})
	}
}

func TestKeepOld(t *testing.T) {
	cases := map[string]struct {
		data, reloadData, intent string // before; "" is absent
		tried                    string
		wantData, wantReload     string
		wantIntent               string
	}{
		"new data went":             {"old", "bad", Reload, "bad", "old", "", ""},
		"changed by hand":           {"bad", "", "", "bad", "old", "", ""},
		"newer data came":           {"old", "newer", Reload, "bad", "old", "newer", Reload},
		"changed by hand meanwhile": {"newer", "", "", "bad", "newer", "", ""},
		"reloaded by hand":          {"bad", "", Reload, "bad", "old", "", ""},
		"reloaded by hand again":    {"newer", "", Reload, "bad", "newer", "", Reload},
		"a stop came":               {"old", "bad", Stop, "bad", "old", "", Stop},
		"a restart came":            {"old", "bad", Restart, "bad", "old", "", Restart},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				e.register("r")
				claim := e.own("r", "x")["x"]
				e.set("x", "data", c.data)
				if c.reloadData != "" {
					e.set("x", "reload_data", c.reloadData)
				}
				if c.intent != "" {
					e.do("HSET", e.keys.controlHash("r"), "x", c.intent)
				}
				for range 2 { // written again after a lost reply
					result := e.commit("r", 0, func(b *Batch) { b.KeepOld("x", claim.member(), c.tried, "old") })
					require.Equal(t, []string{"ok"}, result.Codes)
					require.Equal(t, c.wantData, e.hash("x")["data"])
					require.Equal(t, c.wantReload, e.hash("x")["reload_data"])
					intents, err := e.queue.Intents(e.ctx(), "r")
					require.NoError(t, err)
					require.Equal(t, c.wantIntent, intents["x"])
				}
				require.Equal(t, []string{claim.member()}, e.members("r"))
			})
		})
	}
}
