package store

import (
	"context"
	"crypto/rand"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// calls are all transitions, each on the tasks of a world.
var calls = map[string]func(ctx context.Context, e *env) error{
	"register": func(ctx context.Context, e *env) error {
		_, _, err := e.queue.Register(ctx, &RunnerInfo{ID: "r", Lease: time.Minute})
		return err
	},
	"renew": func(ctx context.Context, e *env) error {
		_, err := e.queue.Renew(ctx, "r", time.Minute)
		return err
	},
	"unregister": func(ctx context.Context, e *env) error {
		_, err := e.queue.Unregister(ctx, "idle", false)
		return err
	},
	"adopt": func(ctx context.Context, e *env) error {
		_, err := e.queue.Adopt(ctx, "r", "local", "redtask/monitor", "null")
		return err
	},
	"reserve":        func(ctx context.Context, e *env) error { _, err := e.queue.ReserveEpoch(ctx); return err },
	"leases":         func(ctx context.Context, e *env) error { _, _, err := e.queue.Leases(ctx); return err },
	"promote":        func(ctx context.Context, e *env) error { _, err := e.queue.Promote(ctx, 10); return err },
	"counts":         func(ctx context.Context, e *env) error { _, err := e.queue.Counts(ctx); return err },
	"stop waiting":   func(ctx context.Context, e *env) error { _, err := e.queue.Stop(ctx, "w1"); return err },
	"stop running":   func(ctx context.Context, e *env) error { _, err := e.queue.Stop(ctx, "run1"); return err },
	"reload waiting": func(ctx context.Context, e *env) error { return e.queue.Reload(ctx, "w1", rand.Text(), []byte("2")) },
	"reload running": func(ctx context.Context, e *env) error { return e.queue.Reload(ctx, "run1", rand.Text(), []byte("2")) },
	"reschedule":     func(ctx context.Context, e *env) error { return e.queue.Reschedule(ctx, "w1", 0, time.Hour) },
	"entries":        func(ctx context.Context, e *env) error { _, _, _, err := e.queue.DueEntries(ctx, 10); return err },
	"enter": func(ctx context.Context, e *env) error {
		return e.queue.Enter(ctx, "new", 2000, map[string]string{"schedule": "@daily", "task": "test/a"})
	},
	"suspend": func(ctx context.Context, e *env) error {
		_, err := e.queue.Suspend(ctx, "due", "paused", "1")
		return err
	},
	"fire": func(ctx context.Context, e *env) error {
		task := &NewTask{ID: "due@1000", Task: "test/a", Data: "1", Spec: "{}"}
		_, err := e.queue.Fire(ctx, &Firing{Name: "due", Due: 1000, Next: 2000, Overlap: "replace", Schedule: "@daily", Task: task})
		return err
	},
	"restart final": func(ctx context.Context, e *env) error { return e.queue.Restart(ctx, "end1", "n2") },
	"restart running": func(ctx context.Context, e *env) error {
		return e.queue.Restart(ctx, "run1", "n2")
	},
	"retry scheduled": func(ctx context.Context, e *env) error { return e.queue.Retry(ctx, "s1", "n2") },
	"remove waiting":  func(ctx context.Context, e *env) error { return e.queue.Remove(ctx, "w1") },
	"remove final":    func(ctx context.Context, e *env) error { return e.queue.Remove(ctx, "end1") },
	"start": func(ctx context.Context, e *env) error {
		_, err := e.queue.Start(ctx, []NewTask{{ID: "new", Nonce: "n", Task: "test/a"}, {ID: "end1", Nonce: "n2", Task: "test/a"}})
		return err
	},
	"expired": func(ctx context.Context, e *env) error {
		_, err := e.queue.Expired(ctx, "r", time.Minute, 10, []Retention{{State: "ERROR"}, {State: "ENDED"}})
		return err
	},
	"sweep": func(ctx context.Context, e *env) error {
		tasks := []Final{{ID: "end1", EndedAt: e.ended["end1"]}, {ID: "end2", EndedAt: e.ended["end2"]}}
		_, err := e.queue.Sweep(ctx, "ENDED", tasks)
		return err
	},
	"take over": func(ctx context.Context, e *env) error {
		r := DefaultRecovery()
		r.LeaseEnd = 1000
		_, err := e.queue.TakeOver(ctx, "dead", &r)
		return err
	},
	"commit": func(ctx context.Context, e *env) error {
		b := &Batch{Number: 100, Claim: 2}
		c := e.claims["run1"]
		items["write"](b, &c)
		items["ended"](b, &c)
		_, err := e.queue.Commit(ctx, "r", b)
		return err
	},
}

// touched are the keys that a transition reads or writes.
var touched = map[string]string{
	"register":        "runners runner:r",
	"renew":           "runners runner:r running:r control:r scheduled",
	"unregister":      "runners runner:idle running:idle inbox:idle control:idle wait",
	"adopt":           "running:r runner:r epoch",
	"reserve":         "epoch",
	"leases":          "runners scheduled",
	"promote":         "scheduled wait",
	"counts":          "wait scheduled runners counters running:r final:ENDED final:kept",
	"stop waiting":    "scheduled epoch task:w1 final:STOPPED",
	"stop running":    "scheduled epoch task:run1 running:r control:r",
	"reload waiting":  "scheduled task:w1",
	"reload running":  "scheduled task:run1 running:r control:r",
	"reschedule":      "scheduled wait task:w1",
	"entries":         "cron",
	"enter":           "cron",
	"suspend":         "cron cron:due",
	"fire":            "cron cron:due wait task:w2",
	"restart final":   "wait epoch task:end1 final:ENDED final:STOPPED",
	"restart running": "wait epoch task:run1 running:r control:r final:STOPPED",
	"retry scheduled": "wait scheduled",
	"remove waiting":  "scheduled epoch task:w1 final:ENDED final:kept",
	"remove final":    "scheduled epoch task:end1 final:ENDED final:kept",
	"start":           "wait task:end1 final:ENDED final:kept",
	"expired":         "cleaner final:ENDED final:ERROR",
	"sweep":           "final:ENDED final:kept task:end1",
	"take over": "runners runner:dead running:dead inbox:dead control:dead wait scheduled epoch counters task:dead1 final:STOPPED " +
		"final:EXCEPTION",
	"commit": "wait running:r inbox:r runner:r control:r epoch scheduled counters task:run1 task:w1 final:ENDED",
}

// worldIDs are the tasks of a world: waiting, running, of a dead runner (one to stop, one for the second time), scheduled, final.
var worldIDs = []string{"w1", "w2", "run1", "run2", "dead1", "dead2", "dead3", "s1", "s2", "end1", "end2"}

// world makes a queue with tasks in every state, under a prefix of its own on e's server.
func (e *env) world() *env {
	e.t.Helper()
	w := *e
	w.store = New(e.rdb, "w"+rand.Text())
	w.queue = w.store.Queue("q")
	w.keys, w.numbers = w.queue.keys, map[string]int64{}
	for _, runner := range []string{"r", "idle", "dead"} {
		w.register(runner)
	}
	w.claims = w.own("r", "run1", "run2", "s1", "s2", "end1", "end2")
	w.commit("r", 0, func(b *Batch) {
		for id, c := range w.claims {
			switch id[0] {
			case 's':
				b.Leave(id, c.member(), &Leave{State: "SCHEDULED", Event: tail(&c, 1)})
			case 'e':
				items["ended"](b, &c)
			}
		}
	})
	w.ended = map[string]string{"end1": w.hash("end1")["ended_at"], "end2": w.hash("end2")["ended_at"]}
	w.own("dead", "dead1", "dead2", "dead3")
	w.set("dead2", "recoveries", "1")
	w.expire("dead")
	w.start("w1", "w2", "woken")
	for _, runner := range []string{"r", "idle", "dead"} {
		w.do("LPUSH", w.keys.inbox(runner), "of "+runner)
		w.do("HSET", w.keys.controlHash(runner), "dead3", Stop)
	}
	w.do("HSET", w.keys.counters, "dropped", 1)
	w.do("ZADD", w.keys.cron, 1000, "due")
	w.do("HSET", w.keys.entry("due"), "schedule", "@daily", "task", "test/a", "last_id", "w2")
	w.do("SET", w.keys.cleaner, "r")
	for _, index := range []string{"ERROR", "EXCEPTION", "STOPPED", "kept"} {
		w.do("ZADD", w.keys.final(index), 1, "old")
	}
	return &w
}

func (e *env) allKeys() map[string]string {
	k := e.keys
	all := map[string]string{
		"wait": k.wait, "scheduled": k.scheduled, "runners": k.runners, "epoch": k.epoch, "counters": k.counters, "cleaner": k.cleaner,
		"task:run1": k.task("run1"), "task:dead1": k.task("dead1"), "task:w1": k.task("w1"), "task:end1": k.task("end1"),
		"task:w2": k.task("w2"), "cron": k.cron, "cron:due": k.entry("due"),
	}
	for _, runner := range []string{"r", "idle", "dead"} {
		all["runner:"+runner], all["running:"+runner] = k.runner(runner), k.running(runner)
		all["inbox:"+runner], all["control:"+runner] = k.inbox(runner), k.controlHash(runner)
	}
	for _, index := range []string{"ENDED", "ERROR", "EXCEPTION", "STOPPED", "kept"} {
		all["final:"+index] = k.final(index)
	}
	return all
}

// spoilAside keeps what a key held aside; mend brings it back.
func (e *env) spoilAside(key string) (mend func()) {
	e.t.Helper()
	held := e.do("EXISTS", key) == int64(1)
	if held {
		e.do("RENAME", key, key+":aside")
	}
	if key == e.keys.epoch { // a string as well, but of another kind
		e.do("LPUSH", key, "spoilt")
	} else {
		e.spoil(key)
	}
	return func() {
		e.do("DEL", key)
		if held {
			e.do("RENAME", key+":aside", key)
		}
	}
}

// Each transition with each key of the wrong type: it works, or it says which fault it met, and after the key was mended, and the dead
// runner's tasks were taken over, every task is on the key where it belongs.
func TestEveryCallOnEveryKeyOfTheWrongType(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		for _, call := range slices.Sorted(maps.Keys(calls)) {
			require.NotEmpty(t, touched[call], call)
			for key := range strings.FieldsSeq(touched[call]) {
				w := e.world()
				require.Contains(t, w.allKeys(), key)
				mend := w.spoilAside(w.allKeys()[key])
				err := calls[call](w.ctx(), w)
				mend()
				name := call + " with " + key
				if err != nil {
					require.ErrorIs(t, err, ErrWrongType, name)
				}
				w.takeOverAll("dead")
				w.requireWorld(name, key, call)
			}
		}
	})
}

// takeOverAll does what monitors do as long as a dead runner has tasks.
func (e *env) takeOverAll(dead string) {
	e.t.Helper()
	recovery := DefaultRecovery()
	recovery.LeaseEnd = 1000
	for range 10 {
		if done := e.takeOver(dead, &recovery); done.Renewed || done.Left == 0 {
			return
		}
	}
	require.FailNow(e.t, "the takeover does not end")
}

// requireWorld: what was in somebody's hands is there still, or has moved on.
func (e *env) requireWorld(name, key, call string) {
	e.t.Helper()
	for _, id := range worldIDs {
		if key == "task:"+id {
			continue // its record was away
		}
		if len(e.hash(id)) == 0 {
			require.Contains(e.t, []string{"remove waiting", "remove final", "sweep"}, call, name+": the record of "+id+" is gone")
			continue
		}
		require.NotPanics(e.t, func() { e.requireNoneLost([]string{"r", "idle", "dead"}, id) }, name)
	}
	for _, id := range []string{"of r", "of idle", "of dead"} {
		on := slices.Contains(e.line(), id)
		for _, runner := range []string{"r", "idle", "dead"} {
			on = on || slices.Contains(e.list(e.keys.inbox(runner)), id)
		}
		require.True(e.t, on || call == "commit" && id == "of r", name+": "+id+" is on no key") // commit drops it: it has no hash
	}
}
