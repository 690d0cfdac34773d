package store

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGet(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.start("x", "y")
		e.spoil(e.keys.task("string"))
		hash, err := e.queue.Get(e.ctx(), "x")
		require.NoError(t, err)
		require.Equal(t, "test/a", hash["task"])
		_, err = e.queue.Get(e.ctx(), "missing")
		require.ErrorIs(t, err, ErrMissing)
		_, err = e.queue.Get(e.ctx(), "string")
		require.ErrorIs(t, err, ErrWrongType)

		hashes, err := e.queue.GetMany(e.ctx(), []string{"x", "missing", "string", "y"})
		require.NoError(t, err)
		require.Len(t, hashes, 4)
		require.Equal(t, hash, hashes[0])
		require.Nil(t, hashes[1])
		require.Nil(t, hashes[2], "a broken one hides no other")
		require.Equal(t, "test/a", hashes[3]["task"])
		none, err := e.queue.GetMany(e.ctx(), nil)
		require.NoError(t, err)
		require.Empty(t, none)
	})
}

// pages reads a whole list.
func (e *env) pages(index string, limit int) []string {
	e.t.Helper()
	var all []string
	cursor := ""
	for range 1000 {
		ids, next, err := e.queue.Page(e.ctx(), index, cursor, limit)
		require.NoError(e.t, err)
		all = append(all, ids...)
		if next == "" {
			return all
		}
		cursor = next
	}
	require.FailNow(e.t, "the list does not end")
	return nil
}

func TestPage(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		waiting := numbered("w", 10)
		e.start(waiting...)
		var scheduled, ended, kept []string
		for i := range 10 {
			scheduled = append(scheduled, fmt.Sprint("s", i))
			ended = append(ended, fmt.Sprint("e", i))
			kept = append(kept, fmt.Sprint("k", i))
			e.do("ZADD", e.keys.scheduled, i, scheduled[i])
			e.do("ZADD", e.keys.final("ENDED"), i, ended[i])
			e.do("ZADD", e.keys.kept, i, kept[i])
		}
		slices.Reverse(ended)
		slices.Reverse(kept)
		for _, limit := range []int{1, 3, 5, 10, 100} {
			require.Equal(t, waiting, e.pages("wait", limit), "in the order in which they run")
			require.Equal(t, scheduled, e.pages("scheduled", limit), "by due time")
			require.Equal(t, ended, e.pages("ENDED", limit), "the latest first")
			require.Equal(t, kept, e.pages("kept", limit))
			require.Empty(t, e.pages("STOPPED", limit))
		}
	})
}

func TestPageOfRunningTasks(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		var ids []string
		for _, runner := range []string{"a", "b:c", "empty", "z"} {
			e.register(runner)
			if runner == "empty" {
				continue
			}
			own := numbered(runner+" ", 300)
			for part := range slices.Chunk(own, 50) {
				e.own(runner, part...)
			}
			ids = append(ids, own...)
		}
		for _, limit := range []int{7, 100, 1000} {
			got := e.pages("running", limit)
			slices.Sort(got)
			require.ElementsMatch(t, ids, slices.Compact(got))
		}
	})
}

func TestPageRefusesBadCursors(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		for index, cursors := range map[string][]string{
			"wait": {"x", "-1", "1:r", "99999999999999999999"}, "ENDED": {"x", "-1"}, "scheduled": {"1.5"}, "running": {"x", "x:r", "-1:r", "5"},
		} {
			for _, cursor := range cursors {
				_, _, err := e.queue.Page(e.ctx(), index, cursor, 10)
				require.ErrorContains(t, err, "cursor", index+" "+cursor)
			}
		}
	})
}

func TestCounts(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		counts, err := e.queue.Counts(e.ctx())
		require.NoError(t, err)
		require.Equal(t, Counts{Counters: map[string]int64{}}, counts)

		e.register("a")
		e.register("b")
		e.own("a", "1", "2")
		e.own("b", "3")
		e.start("4", "5", "6", "7")
		e.do("ZADD", e.keys.scheduled, 1, "s")
		for i, index := range []string{"ENDED", "ERROR", "EXCEPTION", "STOPPED", "kept"} {
			for j := range i + 1 {
				e.do("ZADD", e.keys.final(index), 1, j)
			}
		}
		require.NoError(t, e.queue.Count(e.ctx(), "stuck", 2))
		require.NoError(t, e.queue.Count(e.ctx(), "stuck", 1))
		counts, err = e.queue.Counts(e.ctx())
		require.NoError(t, err)
		require.Equal(t, Counts{
			Wait: 4, Scheduled: 1, Running: 3, Ended: 1, Error: 2, Exception: 3, Stopped: 4, Kept: 5, Counters: map[string]int64{"stuck": 3},
		}, counts)

		// A key of the wrong type is told, and hides no other.
		for _, key := range []string{e.keys.wait, e.keys.final("ERROR"), e.keys.counters, e.keys.running("a")} {
			e.spoil(key)
		}
		counts, err = e.queue.Counts(e.ctx())
		require.NoError(t, err)
		require.Equal(t, Counts{
			Wait: -1, Scheduled: 1, Running: 1, Ended: 1, Error: -1, Exception: 3, Stopped: 4, Kept: 5, Counters: map[string]int64{},
		}, counts)
		require.ErrorIs(t, e.queue.Count(e.ctx(), "stuck", 1), ErrWrongType)
		e.spoil(e.keys.runners)
		counts, err = e.queue.Counts(e.ctx())
		require.NoError(t, err)
		require.EqualValues(t, -1, counts.Running)
	})
}

func TestAnnounce(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		for range 2 {
			require.NoError(t, e.store.Announce(e.ctx(), "q"))
		}
		require.NoError(t, e.store.Announce(e.ctx(), "other"))
		queues, err := e.store.Queues(e.ctx())
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"q", "other"}, queues)
		protocol := e.store.prefix + ":protocol"
		require.Equal(t, Protocol, e.do("GET", protocol))

		e.do("SET", protocol, "99")
		err = e.store.Announce(e.ctx(), "third")
		require.ErrorIs(t, err, ErrProtocol)
		require.ErrorContains(t, err, `"99"`)
		queues, err = e.store.Queues(e.ctx())
		require.NoError(t, err)
		require.NotContains(t, queues, "third")

		e.do("DEL", protocol)
		e.do("LPUSH", protocol, "1")
		require.ErrorIs(t, e.store.Announce(e.ctx(), "q"), ErrWrongType)
		e.do("DEL", protocol)
		e.spoil(e.store.prefix + ":queues")
		require.ErrorIs(t, e.store.Announce(e.ctx(), "q"), ErrWrongType)
		_, err = e.store.Queues(e.ctx())
		require.ErrorIs(t, err, ErrWrongType)
	})
}

// Two prefixes, and two queues of one, have no key in common.
func TestQueuesAreApart(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		other := e.store.Queue("other")
		require.Equal(t, "other", other.Name())
		require.Equal(t, "q", e.queue.Name())
		e.register("r")
		e.start("x")
		_, err := other.Get(e.ctx(), "x")
		require.ErrorIs(t, err, ErrMissing)
		result, err := other.Commit(e.ctx(), "r", &Batch{Number: 1, Claim: 5})
		require.NoError(t, err)
		require.Equal(t, Unregistered, result.Outcome)
		_, err = New(e.rdb, e.store.prefix+"2").Queue("q").Get(e.ctx(), "x")
		require.ErrorIs(t, err, ErrMissing)
	})
}

func TestReserveEpoch(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		claim := e.own("r", "x")["x"]
		reserved, err := e.queue.ReserveEpoch(e.ctx())
		require.NoError(t, err)
		require.Greater(t, reserved, claim.Epoch)
		next := e.own("r", "y")["y"]
		require.Greater(t, next.Epoch, reserved)
	})
}
