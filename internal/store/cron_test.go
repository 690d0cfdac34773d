package store

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

const never = 253_402_300_799_000 // NEVER of the scripts

func (e *env) entry(name string) map[string]string {
	e.t.Helper()
	hash, err := e.rdb.HGetAll(e.ctx(), e.keys.entry(name)).Result()
	require.NoError(e.t, err)
	return hash
}

// next is when an entry fires; 0 if it is not in the schedule.
func (e *env) next(name string) int64 {
	e.t.Helper()
	at, err := e.rdb.ZScore(e.ctx(), e.keys.cron, name).Result()
	if errors.Is(err, redis.Nil) {
		return 0
	}
	require.NoError(e.t, err)
	return int64(at)
}

func (e *env) enter(next int64, fields map[string]string) {
	e.t.Helper()
	require.NoError(e.t, e.queue.Enter(e.ctx(), "n", next, fields))
}

// An entry that is written again keeps its time and its pause, but for a new schedule; one that was bad, or had got lost, is due again.
func TestEnter(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		told := e.control("")
		daily := map[string]string{"schedule": "@daily", "zone": "", "task": "test/a", "data": "1"}
		e.enter(1000, daily)
		require.Equal(t, "due 1000", told())
		require.Equal(t, int64(1000), e.next("n"))
		require.Equal(t, map[string]string{"schedule": "@daily", "task": "test/a", "data": "1", "next_at": "1000", "timed": "@daily"}, e.entry("n"))

		e.enter(2000, map[string]string{"schedule": "@daily", "zone": "", "task": "test/b", "data": ""})
		require.Equal(t, int64(1000), e.next("n"), "the times are the same")
		require.Equal(t, map[string]string{"schedule": "@daily", "task": "test/b", "next_at": "1000", "timed": "@daily"}, e.entry("n"))
		e.enter(3000, map[string]string{"schedule": "@daily", "zone": "Europe/Berlin", "task": "test/b", "data": ""})
		require.Equal(t, int64(3000), e.next("n"))
		e.enter(4000, daily)
		require.Equal(t, int64(4000), e.next("n"))

		found, err := e.queue.Suspend(e.ctx(), "n", "error", "it is bad")
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, int64(never), e.next("n"))
		require.NotContains(t, e.entry("n"), "next_at")
		e.enter(5000, daily)
		require.Equal(t, int64(5000), e.next("n"))
		require.NotContains(t, e.entry("n"), "error")
		e.do("ZREM", e.keys.cron, "n")
		e.enter(6000, daily)
		require.Equal(t, int64(6000), e.next("n"))

		e.do("HSET", e.keys.entry("n"), "paused", "by hand")
		e.enter(7000, map[string]string{"schedule": "@hourly", "zone": "", "task": "test/a", "data": "1"})
		require.Equal(t, int64(never), e.next("n"))
		require.Equal(t, "@hourly", e.entry("n")["schedule"])
	})
}

// A pause, its end and a new time are for entries that there are, and a new time only for what was seen.
func TestSuspend(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.do("ZADD", e.keys.cron, 1, "gone")
		found, err := e.queue.Suspend(e.ctx(), "gone", "paused", "1")
		require.NoError(t, err)
		require.False(t, found)
		require.Zero(t, e.next("gone"), "nobody looks at it again")

		e.enter(1000, map[string]string{"schedule": "@daily", "task": "test/a"})
		require.NoError(t, e.queue.Retime(e.ctx(), DueEntry{Name: "n", Due: 999}, 2000))
		require.Equal(t, int64(1000), e.next("n"), "somebody else was first")
		require.NoError(t, e.queue.Retime(e.ctx(), DueEntry{Name: "n", Due: 1000}, 2000))
		require.Equal(t, int64(2000), e.next("n"))
		_, err = e.queue.Suspend(e.ctx(), "n", "paused", "1")
		require.NoError(t, err)
		told := e.control("")
		found, err = e.queue.ResumeEntry(e.ctx(), "n", 3000)
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, "due 3000", told())
		require.Equal(t, int64(3000), e.next("n"))
		require.Equal(t, "3000", e.entry("n")["next_at"])
		require.NotContains(t, e.entry("n"), "paused")
	})
}

// What comes of a firing, and what it leaves in the entry.
func TestFire(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		fire := func(due, next int64, id, overlap string) string {
			t.Helper()
			f := &Firing{Name: "n", Due: due, Next: next, Overlap: overlap, Schedule: "@daily"}
			if id != "" {
				f.Task = &NewTask{ID: id, Task: "test/a", Data: "1", Spec: "{}"}
			}
			outcome, err := e.queue.Fire(e.ctx(), f)
			require.NoError(t, err)
			return outcome
		}
		last := func(id string, at, next int64) {
			t.Helper()
			require.Equal(t, id, e.entry("n")["last_id"])
			require.Equal(t, fmt.Sprint(at), e.entry("n")["last_at"])
			require.Equal(t, next, e.next("n"))
		}
		require.Equal(t, "other", fire(1, 2, "n@0", "skip"), "it was removed")
		require.Empty(t, e.line())
		e.enter(1, map[string]string{"schedule": "@daily", "task": "test/a"})
		require.Equal(t, "started", fire(1, 2, "n@1", "skip"))
		last("n@1", 1, 2)
		require.Equal(t, "other", fire(1, 2, "n@1", "skip"), "a lost answer")
		require.Equal(t, "overlap", fire(2, 3, "n@2", "skip"))
		last("n@1", 1, 3)
		require.Equal(t, "left out", fire(3, 4, "", "skip"))
		last("n@1", 1, 4)
		require.Equal(t, "started", fire(4, 5, "n@4", "allow"))
		require.Equal(t, "started", fire(5, 6, "n@5", "replace"))
		require.Equal(t, "STOPPED", e.state("n@4"))
		e.set("n@6", "task", "test/a")
		require.Equal(t, "exists", fire(6, 7, "n@6", "allow"), "a clock was set back")
		last("n@6", 6, 7)
		require.Equal(t, []string{"n@5", "n@4", "n@1"}, e.line())
		e.set("n@6", "state", "ENDED")
		require.Equal(t, "started", fire(7, 8, "n@7", "skip"))
		e.spoil(e.keys.task("n@7"))
		require.Equal(t, "started", fire(8, 9, "n@8", "skip"), "what is no task does not run")
		require.Equal(t, "left out", fire(9, 0, "", "skip"))
		last("n@8", 8, never)
		require.NotContains(t, e.entry("n"), "next_at")

		e.do("ZADD", e.keys.cron, 10, "n")
		e.spoil(e.keys.wait)
		_, err := e.queue.Fire(e.ctx(), &Firing{Name: "n", Due: 10, Next: 11, Overlap: "allow", Schedule: "@daily", Task: &NewTask{ID: "n@10", Task: "test/a", Spec: "{}"}})
		require.ErrorIs(t, err, ErrWrongType)
		require.Empty(t, e.hash("n@10"))
		last("n@8", 8, 10)
	})
}

// Those that are due, to the millisecond, as many as one look takes; and when the next one is.
func TestDueEntries(t *testing.T) {
	t.Parallel()
	e := onMini(t)
	e.mini.SetTime(time.UnixMilli(1_000_000_000_007))
	due, next, now, err := e.queue.DueEntries(e.ctx(), 2)
	require.NoError(t, err)
	require.Empty(t, due)
	require.Zero(t, next)
	require.Equal(t, int64(1_000_000_000_007), now)
	e.do("ZADD", e.keys.cron, 1_000_000_000_008, "later")
	due, next, _, err = e.queue.DueEntries(e.ctx(), 2)
	require.NoError(t, err)
	require.Empty(t, due)
	require.Equal(t, int64(1_000_000_000_008), next)
	e.do("ZADD", e.keys.cron, 1_000_000_000_007, "now")
	due, _, _, err = e.queue.DueEntries(e.ctx(), 2)
	require.NoError(t, err)
	require.Equal(t, []DueEntry{{Name: "now", Due: 1_000_000_000_007}}, due)
	e.do("ZADD", e.keys.cron, 0, "odd", 1, "old")
	due, _, _, err = e.queue.DueEntries(e.ctx(), 2)
	require.NoError(t, err)
	require.Equal(t, []DueEntry{{Name: "odd"}, {Name: "old", Due: 1}}, due)
}

// A start at a time that has passed is in line at once.
func TestStartAtAPastTime(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		for i, rest := range []string{`,"at":1`, `,"delay_ms":0`} {
			id := fmt.Sprint(i)
			require.NoError(t, e.startSpecial(id, `{}`, withOptions(`{}`, rest)))
			require.NotContains(t, e.hash(id), "state")
			require.NotContains(t, e.hash(id), "due_at")
		}
		require.Equal(t, []string{"1", "0"}, e.line())
		require.Empty(t, e.zset(e.keys.scheduled))
	})
}

// An entry whose hash is deleted after a runner has read it does not fire, and does not come back.
func TestFireOfARemovedEntry(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		require.NoError(t, e.queue.Enter(e.ctx(), "n", 1000, map[string]string{"schedule": "@hourly", "task": "test/a"}))
		e.do("DEL", e.keys.entry("n"))
		outcome, err := e.queue.Fire(e.ctx(), &Firing{Name: "n", Due: 1000, Next: 2000, Overlap: "skip", Schedule: "@hourly", Task: &NewTask{ID: "n@1", Task: "test/a", Spec: "{}"}})
		require.NoError(t, err)
		require.Equal(t, "other", outcome)
		require.Empty(t, e.entry("n"))
	})
}

// An entry that has got another schedule, whose next time is the same, after a runner has read it, fires by the new one.
func TestFireOfAChangedEntry(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		now := time.Now().UnixMilli()
		day, hour := int64(86_400_000), int64(3_600_000)
		require.NoError(t, e.queue.Enter(e.ctx(), "n", now, map[string]string{"schedule": "@daily", "task": "test/a"}))
		stale := &Firing{Name: "n", Due: now, Next: now + day, Overlap: "skip", Schedule: "@daily", Task: &NewTask{ID: "n@1", Task: "test/a", Spec: "{}"}}
		require.NoError(t, e.queue.Enter(e.ctx(), "n", now, map[string]string{"schedule": "@hourly", "task": "test/b"}))
		outcome, err := e.queue.Fire(e.ctx(), stale)
		require.NoError(t, err)
		require.Equal(t, "other", outcome)
		hash, err := e.queue.Entry(e.ctx(), "n")
		require.NoError(t, err)
		require.LessOrEqual(t, integer(t, hash["next_at"]), now+hour, "timed says %s", hash["timed"])
	})
}

// A runner found a name without a hash, and somebody adds the entry before it forgets the name.
func TestEntryIsAddedMeanwhile(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		fields := map[string]string{"schedule": "@hourly", "task": "test/a"}
		require.NoError(t, e.queue.Enter(e.ctx(), "n", 1000, fields))
		e.do("DEL", e.keys.entry("n"))
		_, err := e.queue.Entry(e.ctx(), "n")
		require.ErrorIs(t, err, ErrMissing) // the runner
		require.NoError(t, e.queue.Enter(e.ctx(), "n", 5000, fields))
		require.NoError(t, e.queue.Retime(e.ctx(), DueEntry{Name: "n", Due: 1000}, 0)) // the runner
		_, err = e.queue.Entry(e.ctx(), "n")
		require.NoError(t, err)
	})
}

// A runner read a bad entry, and somebody mends it before it writes what was wrong.
func TestEntryIsMendedMeanwhile(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		require.NoError(t, e.queue.Enter(e.ctx(), "n", 1000, map[string]string{"schedule": "@hourly", "task": ""}))
		due, _, _, err := e.queue.DueEntries(e.ctx(), 10)
		require.NoError(t, err)
		require.Len(t, due, 1)
		next := time.Now().Add(time.Hour).UnixMilli()
		e.do("HSET", e.keys.entry("n"), "task", "test/a")
		e.do("ZADD", e.keys.cron, next, "n")
		require.NoError(t, e.queue.Spoil(e.ctx(), due[0], "error", "no task")) // the runner
		require.Equal(t, next, e.next("n"))
	})
}

// An empty `paused` is none.
func TestEmptyPaused(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.do("HSET", e.keys.entry("n"), "paused", "")
		require.NoError(t, e.queue.Enter(e.ctx(), "n", 1000, map[string]string{"schedule": "@hourly", "task": "test/a"}))
		require.Equal(t, int64(1000), e.next("n"))
	})
}

// A time that somebody wrote by hand, and that is no number of milliseconds, is dealt with as any other, once.
func TestOddTimes(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		for score, want := range map[string]int64{"1.6": 2, "-5.5": 0, "-inf": 0} {
			e.enter(1000, map[string]string{"schedule": "@daily", "task": "test/a"})
			e.do("ZADD", e.keys.cron, score, "n")
			due, _, _, err := e.queue.DueEntries(e.ctx(), 10)
			require.NoError(t, err)
			require.Equal(t, []DueEntry{{Name: "n", Due: want}}, due, score)
			require.NoError(t, e.queue.Retime(e.ctx(), due[0], 2000))
			require.Equal(t, int64(2000), e.next("n"), score)
			e.do("ZADD", e.keys.cron, score, "n")
			outcome, err := e.queue.Fire(e.ctx(), &Firing{Name: "n", Due: want, Next: 3000, Schedule: "@daily", Overlap: "skip"})
			require.NoError(t, err)
			require.Equal(t, "left out", outcome, score)
			require.Equal(t, int64(3000), e.next("n"), score)
			require.NoError(t, e.queue.RemoveEntry(e.ctx(), "n"))
		}
	})
}
