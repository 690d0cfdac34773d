package store

import (
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

func TestRegister(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		info := &RunnerInfo{
			ID: "r", Host: "h", PID: 7, Version: "v", Names: []string{"test/a", "test/b"}, StartedAt: 5, Lease: 15 * time.Second, Silence: 10 * time.Second,
		}
		ok, now, err := e.queue.Register(e.ctx(), info)
		require.NoError(t, err)
		require.True(t, ok)
		runners, err := e.queue.Runners(e.ctx())
		require.NoError(t, err)
		want := *info
		want.Silence = 0 // read by Silence alone
		require.Equal(t, []LiveRunner{{RunnerInfo: want, LeaseEnd: now + 15_000}}, runners)
		silence, lease, err := e.queue.Silence(e.ctx(), "r")
		require.NoError(t, err)
		require.Equal(t, 10*time.Second, silence)
		require.Equal(t, 15*time.Second, lease)
		silence, lease, err = e.queue.Silence(e.ctx(), "nobody")
		require.NoError(t, err)
		require.Zero(t, silence+lease)
	})
}

// Registering again (a lost lease, a lost reply) keeps the claims. What was made before is not applied any more, what comes after is.
func TestRegisterAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		claim := e.own("r", "x")["x"]
		info := &RunnerInfo{ID: "r", Lease: time.Minute, Batch: 7}
		for _, made := range []int64{7, 8} { // the second time as after a lost reply: number 8 was applied meanwhile
			ok, _, err := e.queue.Register(e.ctx(), info)
			require.NoError(t, err)
			require.True(t, ok)
			require.Equal(t, []string{claim.member()}, e.members("r"))
			e.numbers["r"] = made - 1
			require.Equal(t, Replayed, e.commit("r", 0, nil).Outcome)
			require.Equal(t, Applied, e.commit("r", 0, nil).Outcome)
		}
		require.Equal(t, []string{"r"}, e.zset(e.keys.runners))
	})
}

func TestRenew(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		claims := e.own("r", "a", "b", "later")
		later := claims["later"]
		e.commit("r", 0, func(b *Batch) { items["scheduled"](b, &later) })
		_, err := e.queue.Stop(e.ctx(), "a")
		require.NoError(t, err)
		e.do("ZADD", e.keys.runners, 5, "r")
		renewal, err := e.queue.Renew(e.ctx(), "r", time.Hour)
		require.NoError(t, err)
		require.Equal(t, Renewal{
			Held: true, Now: renewal.Now, Owned: 2, Intents: 1, NextDue: integer(t, e.hash("later")["due_at"]),
		}, renewal)
		leases, _, err := e.queue.Leases(e.ctx())
		require.NoError(t, err)
		require.Equal(t, []Lease{{"r", renewal.Now + time.Hour.Milliseconds()}}, leases)

		again, err := e.queue.Renew(e.ctx(), "r", time.Hour)
		require.NoError(t, err)
		require.True(t, again.Held)
	})
}

func TestRenewOfALostLease(t *testing.T) {
	cases := map[string]func(e *env){
		"never registered":   func(e *env) { e.do("DEL", e.keys.runners, e.keys.runner("r")) },
		"taken out":          func(e *env) { e.do("ZREM", e.keys.runners, "r") },
		"its hash is gone":   func(e *env) { e.do("DEL", e.keys.runner("r")) },
		"is taken over":      func(e *env) { e.do("ZADD", e.keys.runners, 0, "r") },
		"gave it up":         func(e *env) { _, err := e.queue.Unregister(e.ctx(), "r", false); require.NoError(e.t, err) },
		"redis was emptied":  func(e *env) { e.do("DEL", e.keys.runners, e.keys.runner("r"), e.keys.scheduled) },
		"was taken over all": func(e *env) { e.takeOver("r", e.expire("r")) },
	}
	for name, lose := range cases {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				e.register("r")
				lose(e)
				before, _, err := e.queue.Leases(e.ctx())
				require.NoError(t, err)
				renewal, err := e.queue.Renew(e.ctx(), "r", time.Hour)
				require.NoError(t, err)
				require.Positive(t, renewal.Now)
				renewal.Now = 0
				require.Equal(t, Renewal{}, renewal)
				after, _, err := e.queue.Leases(e.ctx())
				require.NoError(t, err)
				require.Equal(t, before, after)
			})
		})
	}
}

// What a renewal only counts may be of the wrong type: the lease is renewed all the same.
func TestRenewWithKeysOfTheWrongType(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		for _, key := range []string{e.keys.running("r"), e.keys.controlHash("r"), e.keys.scheduled} {
			e.spoil(key)
		}
		renewal, err := e.queue.Renew(e.ctx(), "r", time.Hour)
		require.NoError(t, err)
		require.Equal(t, Renewal{Held: true, Now: renewal.Now}, renewal)
	})
}

// Leases and the clock that they count by come from one node, the queue's own.
func TestLeasesInACluster(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: redistest.Cluster(t)})
	t.Cleanup(func() { _ = rdb.Close() })
	queue := New(rdb, "p").Queue("q")
	node, err := rdb.MasterForKey(testContext(t), queue.keys.runners)
	require.NoError(t, err)
	_, now, err := queue.Register(testContext(t), &RunnerInfo{ID: "r", Lease: time.Minute})
	require.NoError(t, err)
	require.NoError(t, node.ConfigResetStat(testContext(t)).Err())
	leases, clock, err := queue.Leases(testContext(t))
	require.NoError(t, err)
	require.Equal(t, []Lease{{"r", now + time.Minute.Milliseconds()}}, leases)
	require.GreaterOrEqual(t, clock.Now, now)
	calls := node.Info(testContext(t), "commandstats").Val()
	require.Contains(t, calls, "cmdstat_time:calls=1,")
	require.Contains(t, calls, "cmdstat_zrange:calls=3,")
}

func TestUnregister(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		e.register("other")
		e.start("woken", "first")
		e.do("LMOVE", e.keys.wait, e.keys.inbox("r"), "RIGHT", "LEFT")
		e.do("HSET", e.keys.controlHash("r"), "old", Stop)
		owned, err := e.queue.Unregister(e.ctx(), "r", false)
		require.NoError(t, err)
		require.Zero(t, owned)
		require.Equal(t, []string{"first", "woken"}, e.line(), "back at the head")
		require.Equal(t, []string{"other"}, e.zset(e.keys.runners))
		for _, key := range []string{e.keys.runner("r"), e.keys.running("r"), e.keys.inbox("r"), e.keys.controlHash("r")} {
			require.Zero(t, e.do("EXISTS", key), key)
		}
		require.Equal(t, Unregistered, e.commit("r", 5, nil).Outcome)

		owned, err = e.queue.Unregister(e.ctx(), "r", false)
		require.NoError(t, err, "a replay")
		require.Zero(t, owned)
	})
}

// With tasks left, or an ID that may still arrive, the lease stays until it ends: then someone looks at what is left.
func TestUnregisterLeavesTheLease(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("owner")
		claim := e.own("owner", "x")["x"]
		owned, err := e.queue.Unregister(e.ctx(), "owner", false)
		require.NoError(t, err)
		require.Equal(t, 1, owned)
		require.Equal(t, []string{claim.member()}, e.members("owner"))

		e.register("open")
		owned, err = e.queue.Unregister(e.ctx(), "open", true)
		require.NoError(t, err)
		require.Zero(t, owned)
		require.ElementsMatch(t, []string{"owner", "open"}, e.zset(e.keys.runners))
		e.do("LPUSH", e.keys.inbox("open"), "late")
		e.set("late", "task", "test/a")
		e.takeOver("open", e.expire("open"))
		require.Equal(t, []string{"late"}, e.line())
	})
}

func TestAdopt(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		epoch, err := e.queue.Adopt(e.ctx(), "r", "local", "redtask/monitor", `{"a":1}`)
		require.NoError(t, err)
		require.Positive(t, epoch)
		hash := e.hash("local")
		require.Equal(t, map[string]string{
			"task": "redtask/monitor", "data": `{"a":1}`, "state": "RUNNING", "runner": "r", "local": "1",
			"epoch": hash["epoch"], "started_at": hash["started_at"],
		}, hash)
		require.Equal(t, []string{Member(epoch, "local")}, e.members("r"))
		require.Empty(t, e.line())

		again, err := e.queue.Adopt(e.ctx(), "r", "local", "redtask/monitor", `{"a":1}`)
		require.NoError(t, err)
		require.Equal(t, epoch, again, "a replay")
		require.Len(t, e.members("r"), 1)

		e.do("SREM", e.keys.running("r"), Member(epoch, "local"))
		third, err := e.queue.Adopt(e.ctx(), "r", "local", "redtask/monitor", `{"a":1}`)
		require.NoError(t, err)
		require.Greater(t, third, epoch, "after its claim was lost it has a new one")

		none, err := e.queue.Adopt(e.ctx(), "nobody", "other", "redtask/monitor", "null")
		require.NoError(t, err)
		require.Zero(t, none, "without a lease nothing is listed")
		require.Empty(t, e.hash("other"))
	})
}

func TestPromote(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.start("old")
		for i, id := range []string{"one", "two", "three", "later"} {
			due := int64(100 + i)
			if id == "later" {
				due = time.Now().Add(time.Hour).UnixMilli()
			}
			e.set(id, "task", "test/a", "state", "SCHEDULED", "due_at", due)
			e.do("ZADD", e.keys.scheduled, due, id)
		}
		promoted, err := e.queue.Promote(e.ctx(), 2)
		moved, next := promoted.Moved, promoted.NextDue
		require.NoError(t, err)
		require.Equal(t, 2, moved)
		require.EqualValues(t, 102, next)
		require.Equal(t, []string{"two", "one", "old"}, e.line())
		require.Equal(t, map[string]string{"task": "test/a"}, e.hash("one"))

		promoted, err = e.queue.Promote(e.ctx(), 2)
		moved, next = promoted.Moved, promoted.NextDue
		require.NoError(t, err)
		require.Equal(t, 1, moved)
		require.Equal(t, integer(t, e.hash("later")["due_at"]), next)
		promoted, err = e.queue.Promote(e.ctx(), 2)
		moved = promoted.Moved
		require.NoError(t, err)
		require.Zero(t, moved)
		require.Len(t, e.line(), 4)
		e.requireNoneLost(nil, "old", "one", "two", "three", "later")
	})
}

// Some servers write a round number of ms as 1.7957e+12.
func TestRoundTimes(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		const past, future = 1_690_000_000_000, 9_000_000_000_000
		e.register("dead")
		e.own("dead", "x")
		e.do("ZADD", e.keys.scheduled, future, "later")
		e.do("ZADD", e.keys.runners, past, "dead")
		promoted, err := e.queue.Promote(e.ctx(), 10)
		next := promoted.NextDue
		require.NoError(t, err)
		require.EqualValues(t, future, next)
		e.register("r")
		renewal, err := e.queue.Renew(e.ctx(), "r", time.Minute)
		require.NoError(t, err)
		require.EqualValues(t, future, renewal.NextDue)
		leases, clock, err := e.queue.Leases(e.ctx())
		require.NoError(t, err)
		require.EqualValues(t, future, clock.NextDue)
		require.Equal(t, Lease{"dead", past}, leases[0])
		recovery := DefaultRecovery()
		recovery.LeaseEnd = past
		require.Equal(t, TakenOver{Back: 1}, e.takeOver("dead", &recovery))
	})
}

// Whoever brings a task forward by hand may choose any score.
func TestDueTimesByHand(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		for score, due := range map[string]int64{"0": 1, "-7": 1, "0.5": 1, "1500.5": 1500, "inf": 0, "-inf": 1} {
			e.do("ZADD", e.keys.scheduled, score, "x")
			renewal, err := e.queue.Renew(e.ctx(), "r", time.Minute)
			require.NoError(t, err)
			require.Equal(t, due, renewal.NextDue, score)
			_, clock, err := e.queue.Leases(e.ctx())
			require.NoError(t, err)
			require.Equal(t, due, clock.NextDue, score)
			promoted, err := e.queue.Promote(e.ctx(), 0)
			next := promoted.NextDue
			require.NoError(t, err)
			require.Equal(t, due, next, score)
		}
	})
}

// What is in the schedule and not SCHEDULED goes out of it, and nowhere else.
func TestPromoteOfStaleEntries(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.spoil(e.keys.task("string"))
		e.set("stopped", "task", "test/a", "state", "STOPPED")
		e.set("waiting", "task", "test/a")
		e.set("good", "task", "test/a", "state", "SCHEDULED")
		for i, id := range []string{"string", "stopped", "waiting", "missing", "good"} {
			e.do("ZADD", e.keys.scheduled, i, id)
		}
		promoted, err := e.queue.Promote(e.ctx(), 10)
		moved, next := promoted.Moved, promoted.NextDue
		require.NoError(t, err)
		require.Equal(t, 1, moved)
		require.Zero(t, next)
		require.Equal(t, []string{"good"}, e.line())
		require.Equal(t, "STOPPED", e.state("stopped"))
	})
}

func TestOwnedInManyScans(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		members := map[string]bool{}
		args := []any{"SADD", e.keys.running("r")}
		for _, id := range slices.Concat(numbered("x", 1500), oddIDs) {
			members[Member(7, id)] = true
			args = append(args, Member(7, id))
		}
		e.do(args...)
		owned, err := e.queue.Owned(e.ctx(), "r")
		require.NoError(t, err)
		require.Equal(t, members, owned)
		e.spoil(e.keys.running("r"))
		_, err = e.queue.Owned(e.ctx(), "r")
		require.ErrorIs(t, err, ErrWrongType)
	})
}
