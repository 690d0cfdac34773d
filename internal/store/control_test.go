package store

import (
	"crypto/rand"
	"testing"

	"github.com/stretchr/testify/require"
)

// control is the task's control channel.
func (e *env) control(id string) func() string {
	e.t.Helper()
	pubsub := e.rdb.Subscribe(e.ctx(), e.keys.control(id))
	e.t.Cleanup(func() { _ = pubsub.Close() })
	_, err := pubsub.Receive(e.ctx())
	require.NoError(e.t, err)
	return func() string {
		message, err := pubsub.ReceiveMessage(e.ctx())
		require.NoError(e.t, err)
		return message.Payload
	}
}

// reload makes a call of its own.
func (e *env) reload(id string, data []byte) {
	e.t.Helper()
	require.NoError(e.t, e.queue.Reload(e.ctx(), id, rand.Text(), data))
}

func TestStopOfAWaitingTask(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		events := e.listen()
		e.start("wait", "scheduled", "kept", "orphan")
		e.set("scheduled", "state", "SCHEDULED")
		e.do("ZADD", e.keys.scheduled, 5, "scheduled")
		e.set("kept", "keep", "1")
		e.set("orphan", "state", "RUNNING", "runner", "gone", "epoch", "1") // in nobody's hands
		for _, id := range []string{"wait", "scheduled", "kept", "orphan"} {
			for range 2 { // stopping a stopped task is no error
				stopped, err := e.queue.Stop(e.ctx(), id)
				require.NoError(t, err)
				require.True(t, stopped)
			}
			hash := e.hash(id)
			require.Equal(t, "STOPPED", hash["state"])
			require.Contains(t, hash, "ended_at")
			got := events.next()
			require.Equal(t, "stopped "+id, got.Event+" "+got.ID)
			require.Equal(t, "test/a", got.Task)
			require.Equal(t, integer(t, hash["epoch"]), got.Epoch)
		}
		require.ElementsMatch(t, []string{"wait", "scheduled", "orphan"}, e.final("STOPPED"))
		require.Equal(t, []string{"kept"}, e.final("kept"))
		require.Empty(t, e.zset(e.keys.scheduled))
		require.Empty(t, events.kinds(), "once each")

		e.register("r")
		result := e.commit("r", 10, nil)
		require.Empty(t, result.Claims, "none of them runs")
		require.Len(t, result.Drops, 4)
	})
}

func TestStopOfARunningTask(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		e.own("r", "x")
		heard := e.control("x")
		for range 2 {
			stopped, err := e.queue.Stop(e.ctx(), "x")
			require.NoError(t, err)
			require.False(t, stopped)
			require.Equal(t, "stop", heard())
		}
		intents, err := e.queue.Intents(e.ctx(), "r")
		require.NoError(t, err)
		require.Equal(t, map[string]string{"x": Stop}, intents)
		require.Equal(t, "RUNNING", e.state("x"))
	})
}

// A stop beats a reload and a restart that are pending, and neither replaces it.
func TestStopBeatsOtherIntents(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		e.own("r", "x")
		pending := func() string {
			intents, err := e.queue.Intents(e.ctx(), "r")
			require.NoError(t, err)
			return intents["x"]
		}
		e.reload("x", nil)
		require.Equal(t, Reload, pending())
		require.NoError(t, e.queue.Restart(e.ctx(), "x", "n"))
		require.Equal(t, Restart, pending())
		e.reload("x", nil)
		require.Equal(t, Restart, pending(), "a restart reads the data anew as well")
		_, err := e.queue.Stop(e.ctx(), "x")
		require.NoError(t, err)
		require.Equal(t, Stop, pending())
		e.reload("x", nil)
		require.Equal(t, Stop, pending())
		var refusal *StateError
		require.ErrorAs(t, e.queue.Restart(e.ctx(), "x", "n2"), &refusal)
		require.Equal(t, "RUNNING", refusal.State)
		require.Equal(t, Stop, pending())
	})
}

func TestControlRefused(t *testing.T) {
	calls := map[string]func(e *env, id string) error{
		"stop":    func(e *env, id string) error { _, err := e.queue.Stop(e.ctx(), id); return err },
		"reload":  func(e *env, id string) error { return e.queue.Reload(e.ctx(), id, rand.Text(), []byte("1")) },
		"restart": func(e *env, id string) error { return e.queue.Restart(e.ctx(), id, "n") },
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				require.ErrorIs(t, call(e, "missing"), ErrMissing)
				require.Zero(t, e.do("EXISTS", e.keys.task("missing")), "no record comes of it")
				e.spoil(e.keys.task("string"))
				require.ErrorIs(t, call(e, "string"), ErrWrongType)
				require.Equal(t, "spoilt", e.do("GET", e.keys.task("string")))
				for _, state := range []string{"ENDED", "ERROR", "EXCEPTION"} {
					e.set(state, "task", "test/a", "state", state)
					err := call(e, state)
					if name == "restart" {
						require.NoError(t, err)
						continue
					}
					var refusal *StateError
					require.ErrorAs(t, err, &refusal)
					require.ErrorIs(t, err, ErrFinal)
					require.Equal(t, StateError{ID: state, State: state, Reason: ErrFinal}, *refusal)
					require.Equal(t, state, e.state(state))
				}
			})
		})
	}
}

func TestReload(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		e.own("r", "x")
		heard := e.control("x")
		e.reload("x", []byte("new"))
		require.Equal(t, "reload", heard())
		require.Equal(t, `{"of":1}`, e.hash("x")["data"], "the old data stays until the new worked")
		data, err := e.queue.ReloadData(e.ctx(), "x")
		require.NoError(t, err)
		require.Equal(t, "new", data)

		e.reload("x", nil)
		require.Equal(t, "reload", heard())
		require.Equal(t, "new", e.hash("x")["reload_data"], "without data it asks for what is there")

		e.start("w")
		e.set("w", "reload_data", "older")
		e.reload("w", nil)
		require.Equal(t, `{"of":1}`, e.hash("w")["data"])
		e.reload("w", []byte("new"))
		require.Equal(t, "new", e.hash("w")["data"])
		require.NotContains(t, e.hash("w"), "reload_data")
		data, err = e.queue.ReloadData(e.ctx(), "w")
		require.NoError(t, err)
		require.Equal(t, "new", data)
		data, err = e.queue.ReloadData(e.ctx(), "missing")
		require.NoError(t, err)
		require.Empty(t, data)
	})
}

// A reload whose reply was lost is made again: the task is not reloaded twice, and the answer is that of the first call.
func TestReloadReplayed(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		claim := e.own("r", "x")["x"]
		next := Claim{ID: "x", Task: "test/a", Epoch: 1000}
		call := func(nonce string, data []byte) {
			require.NoError(t, e.queue.Reload(e.ctx(), "x", nonce, data))
		}
		intents := func() map[string]string {
			intents, err := e.queue.Intents(e.ctx(), "r")
			require.NoError(t, err)
			return intents
		}
		call("1", []byte("new"))
		call("1", []byte("new"))
		require.Equal(t, map[string]string{"x": Reload}, intents())
		e.commit("r", 0, func(b *Batch) {
			b.Swap("x", claim.member(), next.Epoch, "new", &Leave{State: "STOPPED", Event: tail(&claim, 1)})
		})
		call("1", []byte("new"))
		require.Empty(t, intents(), "after it was done")
		require.NotContains(t, e.hash("x"), "reload_data")
		call("2", nil)
		require.Equal(t, map[string]string{"x": Reload}, intents(), "another call is another reload")
		e.commit("r", 0, func(b *Batch) { items["ended"](b, &next) })
		call("2", nil)
		require.ErrorIs(t, e.queue.Reload(e.ctx(), "x", "3", nil), ErrFinal)

		e.start("w")
		require.NoError(t, e.queue.Reload(e.ctx(), "w", "1", []byte("new")))
		e.set("w", "data", "by hand")
		require.NoError(t, e.queue.Reload(e.ctx(), "w", "1", []byte("new")))
		require.Equal(t, "by hand", e.hash("w")["data"], "in line")
	})
}

func TestRestart(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		events := e.listen()
		for _, state := range []string{"ENDED", "ERROR", "EXCEPTION", "STOPPED"} {
			e.set(state, "task", "test/a", "data", "1", "state", state, "attempt", "3", "runner", "old", "started_at", "1", "ended_at", "2",
				"output", "o", "error", "e", "stack", "s", "progress", "p", "recoveries", "2", "restarts", "1 2", "expires_at", "5", "checkpoint", "c")
			e.do("ZADD", e.keys.final(state), 1, state)
			for range 2 { // the second is a replay
				require.NoError(t, e.queue.Restart(e.ctx(), state, "nonce"))
			}
			hash := e.hash(state)
			require.Equal(t, map[string]string{"task": "test/a", "data": "1", "checkpoint": "c", "nonce": "nonce", "epoch": hash["epoch"]}, hash)
			require.Empty(t, e.final(state))
			got := events.next()
			require.Equal(t, "wait "+state, got.Event+" "+got.ID)
			require.JSONEq(t, `{"reason":"restarted"}`, string(got.Data))
		}
		require.Len(t, e.line(), 4)
		require.Empty(t, events.kinds())
	})
}

// A restart that is replayed after the task ran again does not run it once more.
func TestRestartReplayedLate(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		e.set("x", "task", "test/a", "state", "ENDED")
		require.NoError(t, e.queue.Restart(e.ctx(), "x", "nonce"))
		claim := e.commit("r", 1, nil).Claims[0]
		require.NoError(t, e.queue.Restart(e.ctx(), "x", "nonce"))
		require.Empty(t, e.line())
		intents, err := e.queue.Intents(e.ctx(), "r")
		require.NoError(t, err)
		require.Empty(t, intents, "while it runs")
		e.commit("r", 0, func(b *Batch) { items["ended"](b, &claim) })
		require.NoError(t, e.queue.Restart(e.ctx(), "x", "nonce"))
		require.Empty(t, e.line(), "after its end")
		require.NoError(t, e.queue.Restart(e.ctx(), "x", "another"))
		require.Equal(t, []string{"x"}, e.line())
	})
}

func TestRestartOfALivingTask(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		e.own("r", "x")
		heard := e.control("x")
		require.NoError(t, e.queue.Restart(e.ctx(), "x", "n"))
		require.Equal(t, "restart", heard())
		intents, err := e.queue.Intents(e.ctx(), "r")
		require.NoError(t, err)
		require.Equal(t, map[string]string{"x": Restart}, intents)

		e.start("w")
		before := e.hash("w")
		require.NoError(t, e.queue.Restart(e.ctx(), "w", "n"))
		require.Equal(t, before, e.hash("w"), "one in line is left alone")
		require.Equal(t, []string{"w"}, e.line())
		e.set("orphan", "task", "test/a", "state", "RUNNING", "runner", "gone", "epoch", "1")
		require.NoError(t, e.queue.Restart(e.ctx(), "orphan", "n"))
		require.Equal(t, []string{"orphan", "w"}, e.line(), "one in nobody's hands goes in line")
	})
}

func TestRemove(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		events := e.listen()
		e.register("r")
		claim := e.own("r", "running")["running"]
		e.start("wait", "scheduled", "ended", "kept", "orphan")
		e.set("scheduled", "state", "SCHEDULED")
		e.do("ZADD", e.keys.scheduled, 5, "scheduled")
		e.set("ended", "state", "ENDED")
		e.do("ZADD", e.keys.final("ENDED"), 5, "ended")
		e.set("kept", "state", "ERROR", "keep", "1")
		e.do("ZADD", e.keys.kept, 5, "kept")
		e.set("orphan", "state", "RUNNING", "runner", "gone", "epoch", "1")
		e.spoil(e.keys.task("string"))
		e.do("ZADD", e.keys.final("ENDED"), 5, "string")
		for _, id := range []string{"wait", "scheduled", "ended", "kept", "orphan", "string"} {
			require.NoError(t, e.queue.Remove(e.ctx(), id))
			require.NoError(t, e.queue.Remove(e.ctx(), id), "one that is gone is no error")
			require.Zero(t, e.do("EXISTS", e.keys.task(id)))
			require.Equal(t, "removed "+id, func() string { got := events.next(); return got.Event + " " + got.ID }())
		}
		require.Empty(t, events.kinds())
		require.Empty(t, e.zset(e.keys.scheduled))
		require.Empty(t, e.final("ENDED"))
		require.Empty(t, e.final("kept"))

		err := e.queue.Remove(e.ctx(), "running")
		require.ErrorIs(t, err, ErrRunning)
		require.Equal(t, "RUNNING", e.state("running"))
		require.Equal(t, []string{claim.member()}, e.members("r"))
		require.Len(t, e.commit("r", 10, nil).Drops, 5, "IDs left in line are dropped")
	})
}

func TestField(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.set("x", "checkpoint", "7")
		for field, want := range map[string]string{"checkpoint": "7", "absent": ""} {
			got, err := e.queue.Field(e.ctx(), "x", field)
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
		e.spoil(e.keys.task("string"))
		_, err := e.queue.Field(e.ctx(), "string", "a")
		require.ErrorIs(t, err, ErrWrongType)
		_, err = e.queue.ReloadData(e.ctx(), "string")
		require.ErrorIs(t, err, ErrWrongType)
	})
}
