package store

import (
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// finals puts n final tasks in a state's index, with end times from 1 ms on.
func (e *env) finals(state string, n int) []string {
	e.t.Helper()
	ids := numbered(state, n)
	for i, id := range ids {
		e.set(id, "task", "test/a", "state", state, "ended_at", i+1)
		require.NoError(e.t, e.rdb.ZAdd(e.ctx(), e.keys.final(state), redis.Z{Score: float64(i + 1), Member: id}).Err())
	}
	return ids
}

// expired returns the IDs that are due.
func (e *env) expired(runner string, limit int, keep ...Retention) map[string][]string {
	e.t.Helper()
	due, err := e.queue.Expired(e.ctx(), runner, time.Minute, limit, keep)
	require.NoError(e.t, err)
	ids := map[string][]string{}
	for state, tasks := range due {
		for _, task := range tasks {
			ids[state] = append(ids[state], task.ID)
		}
	}
	return ids
}

// endedAt are tasks as [env.finals] makes them.
func endedAt(ids ...string) []Final {
	tasks := make([]Final, len(ids))
	for i, id := range ids {
		tasks[i] = Final{id, fmt.Sprint(i + 1)}
	}
	return tasks
}

func TestExpired(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		ended, failed := e.finals("ENDED", 10), e.finals("ERROR", 3)
		now := time.Now().UnixMilli()
		e.do("ZADD", e.keys.final("ENDED"), now, "young")
		long := 100 * 365 * 24 * time.Hour
		cases := []struct {
			limit int
			keep  []Retention
			want  map[string][]string
		}{
			{100, []Retention{{State: "ENDED", Age: long, Count: 100}}, map[string][]string{}},
			{100, []Retention{{State: "ENDED", Age: long, Count: 8}}, map[string][]string{"ENDED": ended[:3]}},
			{2, []Retention{{State: "ENDED", Age: long, Count: 8}}, map[string][]string{"ENDED": ended[:2]}},
			{2, []Retention{{State: "ENDED", Age: long, Count: 8, Skip: 2}}, map[string][]string{"ENDED": ended[2:3]}},
			{100, []Retention{{State: "ENDED", Age: time.Hour, Count: 100}}, map[string][]string{"ENDED": ended}},
			{4, []Retention{{State: "ENDED", Age: time.Hour, Count: 100, Skip: 8}}, map[string][]string{"ENDED": ended[8:]}},
			{4, []Retention{{State: "ENDED", Age: time.Hour, Count: 100, Skip: 10}}, map[string][]string{}},
			{100, []Retention{{State: "ENDED", Age: long, Count: 100}, {State: "ERROR", Age: long, Count: 1}}, map[string][]string{"ERROR": failed[:2]}},
			{1, []Retention{{State: "ENDED", Count: 0}, {State: "STOPPED"}, {State: "ERROR"}}, map[string][]string{"ENDED": ended[:1], "ERROR": failed[:1]}},
			{100, nil, map[string][]string{}},
		}
		for i, c := range cases {
			require.Equal(t, c.want, e.expired("r", c.limit, c.keep...), fmt.Sprint("case ", i))
		}
		require.Len(t, e.final("ENDED"), 11, "it only looks")
	})
}

// One runner cleans a queue at a time, until its lock ends.
func TestExpiredLocks(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		ids := e.finals("ENDED", 2)
		keep := Retention{State: "ENDED"}
		for range 2 {
			require.Equal(t, map[string][]string{"ENDED": ids}, e.expired("a", 10, keep), "it may go on")
			require.Empty(t, e.expired("b", 10, keep))
		}
		ttl := e.rdb.PTTL(e.ctx(), e.keys.cleaner).Val()
		require.Greater(t, ttl, 30*time.Second, "the lock ends by itself")
		require.LessOrEqual(t, ttl, time.Minute)
		e.do("DEL", e.keys.cleaner)
		require.Equal(t, map[string][]string{"ENDED": ids}, e.expired("b", 10, keep))
	})
}

func TestExpiredUsesTheClockOfRedis(t *testing.T) {
	t.Parallel()
	e := onMini(t)
	e.mini.SetTime(time.UnixMilli(60_002))
	ids := e.finals("ENDED", 3)
	require.Equal(t, map[string][]string{"ENDED": ids[:2]}, e.expired("r", 10, Retention{State: "ENDED", Age: time.Minute, Count: 100}))
}

func TestSweep(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		ids := e.finals("ENDED", 7)
		e.set(ids[1], "state", "WAIT")             // started again
		e.do("HDEL", e.keys.task(ids[2]), "state") // the same
		e.set(ids[3], "state", "ERROR")            // ended again, otherwise
		e.set(ids[4], "keep", "1")                 // to be kept, marked by hand
		e.set(ids[5], "keep", "")                  // and not
		e.spoil(e.keys.task(ids[6]))
		removed, err := e.queue.Sweep(e.ctx(), "ENDED", endedAt(append(ids, "missing")...))
		require.NoError(t, err)
		require.Equal(t, 2, removed)
		require.Empty(t, e.final("ENDED"))
		require.Equal(t, []string{ids[4]}, e.final("kept"))
		require.InDelta(t, 5, e.rdb.ZScore(e.ctx(), e.keys.kept, ids[4]).Val(), 0, "its end time")
		for i, id := range ids {
			require.Equal(t, i != 0 && i != 5, e.do("EXISTS", e.keys.task(id)) == int64(1), id)
		}

		removed, err = e.queue.Sweep(e.ctx(), "ENDED", endedAt(ids...))
		require.NoError(t, err)
		require.Zero(t, removed, "a replay")
		removed, err = e.queue.Sweep(e.ctx(), "ENDED", nil)
		require.NoError(t, err)
		require.Zero(t, removed)
	})
}

// A task that was started again and has ended anew while handlers ran stays, with its entry, until it is due itself.
func TestSweepOfATaskThatEndedAnew(t *testing.T) {
	t.Parallel()
	e := onMini(t)
	e.mini.SetTime(time.UnixMilli(1_795_700_000_000))
	e.register("r")
	claims := e.own("r", "x", "y")
	end := func(c Claim) { e.commit("r", 0, func(b *Batch) { items["ended"](b, &c) }) }
	end(claims["x"])
	end(claims["y"])
	due, err := e.queue.Expired(e.ctx(), "r", time.Minute, 10, []Retention{{State: "ENDED"}})
	require.NoError(t, err)
	require.Len(t, due["ENDED"], 2)
	e.mini.SetTime(time.UnixMilli(1_795_700_000_001))
	require.NoError(t, e.queue.Restart(e.ctx(), "x", "n"))
	end(e.commit("r", 1, nil).Claims[0])
	removed, err := e.queue.Sweep(e.ctx(), "ENDED", due["ENDED"])
	require.NoError(t, err)
	require.Equal(t, 1, removed)
	require.Equal(t, "ENDED", e.state("x"))
	require.Equal(t, []string{"x"}, e.final("ENDED"))
}

// A score is compared as a number, however the server writes it.
func TestSweepByScore(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		for id, score := range map[string]string{"round": "1795700000000", "fraction": "0.1", "other": "1790000000000"} {
			e.set(id, "task", "test/a", "state", "ENDED")
			e.do("ZADD", e.keys.final("ENDED"), score, id)
		}
		due, err := e.queue.Expired(e.ctx(), "r", time.Minute, 10, []Retention{{State: "ENDED"}})
		require.NoError(t, err)
		require.Len(t, due["ENDED"], 3)
		e.do("ZADD", e.keys.final("ENDED"), "1795000000000", "other")
		removed, err := e.queue.Sweep(e.ctx(), "ENDED", due["ENDED"])
		require.NoError(t, err)
		require.Equal(t, 2, removed)
		require.Equal(t, []string{"other"}, e.final("ENDED"))
	})
}
