package store

import (
	"context"
	"encoding/json"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

func TestStart(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		faults, err := e.queue.Start(e.ctx(), []NewTask{
			{ID: "drawn", Task: "test/a", Data: "1"},
			{ID: "own", Nonce: "n", Task: "test/b", Data: "2", Keep: true},
		})
		require.NoError(t, err)
		require.Equal(t, []error{nil, nil}, faults)
		require.Equal(t, []string{"own", "drawn"}, e.line(), "runners take from the right")

		drawn, own := e.hash("drawn"), e.hash("own")
		created := integer(t, drawn["created_at"])
		require.InDelta(t, time.Now().UnixMilli(), created, 60_000)
		delete(drawn, "created_at")
		delete(own, "created_at")
		require.Equal(t, map[string]string{"task": "test/a", "data": "1"}, drawn, "a waiting task stays small")
		require.Equal(t, map[string]string{"task": "test/b", "data": "2", "nonce": "n", "keep": "1"}, own)
	})
}

func TestStartNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		faults, err := e.queue.Start(e.ctx(), nil)
		require.NoError(t, err)
		require.Empty(t, faults)
		require.Zero(t, e.do("EXISTS", e.keys.wait))
	})
}

func TestStartRefusesALivingID(t *testing.T) {
	cases := map[string]struct {
		fields []any
		state  string
	}{
		"no state":  {[]any{"task", "test/a"}, "WAIT"},
		"waiting":   {[]any{"task", "test/a", "state", "WAIT"}, "WAIT"},
		"scheduled": {[]any{"task", "test/a", "state", "SCHEDULED"}, "SCHEDULED"},
		"running":   {[]any{"task", "test/a", "state", "RUNNING", "nonce", "other"}, "RUNNING"},
		"odd state": {[]any{"task", "test/a", "state", "a:b"}, "a:b"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				e.set("x", c.fields...)
				before := e.hash("x")
				faults, err := e.queue.Start(e.ctx(), []NewTask{
					{ID: "x", Nonce: "n", Task: "test/b", Data: "2"}, {ID: "y", Nonce: "n", Task: "test/b", Data: "2"},
				})
				require.NoError(t, err)
				require.ErrorIs(t, faults[0], ErrExists)
				var refusal *StateError
				require.ErrorAs(t, faults[0], &refusal)
				require.Equal(t, StateError{ID: "x", State: c.state, Reason: ErrExists}, *refusal)
				require.NoError(t, faults[1])
				require.Equal(t, before, e.hash("x"))
				require.Equal(t, []string{"y"}, e.line())
			})
		})
	}
}

func TestStartOfAFinalIDBeginsAnew(t *testing.T) {
	for _, state := range []string{"ENDED", "ERROR", "EXCEPTION", "STOPPED"} {
		for _, index := range []string{state, "kept"} {
			t.Run(state+" in "+index, func(t *testing.T) {
				onBoth(t, func(t *testing.T, e *env) {
					e.set("x", "task", "test/old", "state", state, "output", "old", "error", "old", "attempt", "7", "checkpoint", "old", "keep", "1")
					e.do("ZADD", e.keys.final(index), 1, "x")
					e.spoil(e.keys.final("ENDED" + "-unrelated"))
					e.start("x")
					hash := e.hash("x")
					delete(hash, "created_at")
					require.Equal(t, map[string]string{"task": "test/a", "data": `{"of":1}`, "nonce": "nonce of x"}, hash)
					require.Empty(t, e.final(index), "it must not be swept while it waits")
					require.Equal(t, []string{"x"}, e.line())
				})
			})
		}
	}
}

// The reply was lost, so the client calls again: wherever the task is by now, it is started once.
func TestStartReplayed(t *testing.T) {
	for _, nonce := range []string{"", "own"} {
		t.Run("nonce "+nonce, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				task := []NewTask{{ID: "x", Nonce: nonce, Task: "test/a", Data: "1"}}
				call := func() {
					faults, err := e.queue.Start(e.ctx(), task)
					require.NoError(t, err)
					require.Equal(t, []error{nil}, faults)
				}
				call()
				call()
				require.Equal(t, []string{"x"}, e.line(), "in line once")

				e.register("r")
				claim := e.commit("r", 1, nil).Claims[0]
				call()
				require.Empty(t, e.line(), "while it runs")
				require.Equal(t, "RUNNING", e.state("x"))

				e.commit("r", 0, func(b *Batch) { b.Leave("x", claim.member(), &Leave{State: "ENDED", Event: tail(&claim, 2)}) })
				call()
				require.Empty(t, e.line(), "after its end")
				require.Equal(t, "ENDED", e.state("x"))
				require.Equal(t, []string{"x"}, e.final("ENDED"))
			})
		})
	}
}

// By the time the client calls again the task may have got other data: a replay sets nothing back.
func TestStartReplayedAfterAReload(t *testing.T) {
	for _, nonce := range []string{"", "own"} {
		t.Run("nonce "+nonce, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				task := []NewTask{{ID: "x", Nonce: nonce, Task: "test/a", Data: "1", Keep: true}}
				call := func() {
					faults, err := e.queue.Start(e.ctx(), task)
					require.NoError(t, err)
					require.Equal(t, []error{nil}, faults)
				}
				call()
				require.NoError(t, e.queue.Reload(e.ctx(), "x", "n", []byte("2")))
				e.set("x", "created_at", "1")
				before := e.hash("x")
				call()
				require.Equal(t, before, e.hash("x"))
				require.Equal(t, []string{"x"}, e.line())
			})
		})
	}
}

func TestStartSameIDTwiceInOneCall(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		faults, err := e.queue.Start(e.ctx(), []NewTask{
			{ID: "x", Nonce: "1", Task: "test/a", Data: "1"}, {ID: "x", Nonce: "2", Task: "test/a", Data: "2"}, {ID: "x", Nonce: "1", Task: "test/a", Data: "1"},
		})
		require.NoError(t, err)
		require.NoError(t, faults[0])
		require.ErrorIs(t, faults[1], ErrExists)
		require.NoError(t, faults[2], "a replay of the first")
		require.Equal(t, []string{"x"}, e.line())
		require.Equal(t, "1", e.hash("x")["data"])
	})
}

func TestStartBrokenHashSpoilsNoNeighbour(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.spoil(e.keys.task("own"))
		e.spoil(e.keys.task("drawn"))
		faults, err := e.queue.Start(e.ctx(), []NewTask{
			{ID: "a", Task: "test/a", Data: "1"}, {ID: "own", Nonce: "n", Task: "test/a", Data: "1"},
			{ID: "drawn", Task: "test/a", Data: "1"}, {ID: "b", Nonce: "n", Task: "test/a", Data: "1"},
		})
		require.NoError(t, err)
		require.NoError(t, faults[0])
		require.ErrorIs(t, faults[1], ErrWrongType)
		require.ErrorContains(t, faults[1], `"own"`)
		require.ErrorIs(t, faults[2], ErrWrongType)
		require.NoError(t, faults[3])
		require.Equal(t, []string{"b", "a"}, e.line())
		require.Equal(t, "spoilt", e.do("GET", e.keys.task("own")), "what is not ours is left alone")
	})
}

func TestStartWithALineOfTheWrongType(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.spoil(e.keys.wait)
		_, err := e.queue.Start(e.ctx(), []NewTask{{ID: "x", Task: "test/a", Data: "1"}, {ID: "y", Nonce: "n", Task: "test/a", Data: "1"}})
		require.ErrorIs(t, err, ErrWrongType)
		require.True(t, Answered(err), "the outcome is known")
		require.Empty(t, e.hash("x"), "nothing is written")
		require.Empty(t, e.hash("y"))
	})
}

// Indexes of the wrong type do not keep a final task from being started again.
func TestStartWithIndexesOfTheWrongType(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		for _, index := range []string{"ENDED", "ERROR", "EXCEPTION", "STOPPED", "kept"} {
			e.spoil(e.keys.final(index))
		}
		e.set("x", "task", "test/a", "state", "ERROR")
		e.start("x")
		require.Equal(t, []string{"x"}, e.line())
	})
}

// A master behind a name becomes a replica, and the name points to the new master: the client hears of it at its next call, connects
// anew, and the start is made there.
func TestStartOnADemotedMaster(t *testing.T) {
	t.Parallel()
	old, master := redistest.Start(t), redistest.Start(t)
	var target atomic.Pointer[string]
	target.Store(&old.Addr)
	rdb := redis.NewClient(&redis.Options{Addr: "redis.example:6379", Dialer: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, *target.Load())
	}})
	t.Cleanup(func() { _ = rdb.Close() })
	queue := New(rdb, "p").Queue("q")
	for _, nonce := range []string{"", "n"} {
		faults, err := queue.Start(testContext(t), []NewTask{{ID: "before" + nonce, Nonce: nonce, Task: "test/a", Data: "1"}})
		require.NoError(t, err)
		require.NoError(t, faults[0])
	}
	host, port, _ := net.SplitHostPort(master.Addr)
	replica := old.Client(t)
	require.NoError(t, replica.Do(testContext(t), "REPLICAOF", host, port).Err())
	require.Eventually(t, func() bool { // until then it may be loading
		return strings.Contains(replica.Info(testContext(t), "replication").Val(), "master_link_status:up")
	}, 30*time.Second, 20*time.Millisecond)
	_, err := New(replica, "p").Queue("q").Start(testContext(t), []NewTask{{ID: "refused", Task: "test/a", Data: "1"}})
	require.True(t, redis.IsReadOnlyError(err), "%v", err)

	target.Store(&master.Addr)
	faults, err := queue.Start(testContext(t), []NewTask{{ID: "x", Task: "test/a", Data: "1"}, {ID: "y", Nonce: "n", Task: "test/a", Data: "1"}})
	require.NoError(t, err)
	require.Equal(t, []error{nil, nil}, faults)
	line, err := master.Client(t).LRange(testContext(t), queue.keys.wait, 0, -1).Result()
	require.NoError(t, err)
	require.Equal(t, []string{"y", "x"}, line)
}

func TestOddIDs(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		events := e.listen()
		e.register("r")
		claims := e.own("r", oddIDs...)
		result := e.commit("r", 0, func(b *Batch) {
			for _, id := range oddIDs {
				claim := claims[id]
				b.Leave(id, claim.member(), &Leave{State: "ENDED", Event: tail(&claim, 1), Fields: []string{"output", id}})
			}
		})
		require.Equal(t, slices.Repeat([]string{"ok"}, len(oddIDs)), result.Codes)
		require.ElementsMatch(t, oddIDs, e.final("ENDED"))
		require.Empty(t, e.members("r"))
		for _, id := range oddIDs {
			require.Equal(t, id, e.hash(id)["output"])
			require.Equal(t, event{Event: "ended", Data: json.RawMessage("null"), ID: id, Task: "test/a", Epoch: claims[id].Epoch, Seq: 1, At: 1}, events.next())
		}
		for _, id := range oddIDs { // the script writes these events itself
			require.NoError(t, e.queue.Restart(e.ctx(), id, "again"))
			require.Equal(t, id, events.next().ID)
			stopped, err := e.queue.Stop(e.ctx(), id)
			require.NoError(t, err)
			require.True(t, stopped)
			require.Equal(t, "stopped", events.next().Event)
			require.NoError(t, e.queue.Remove(e.ctx(), id))
			require.Equal(t, "removed", events.next().Event)
		}
	})
}

// Redis' clock counts, not the client's.
func TestStartUsesTheClockOfRedis(t *testing.T) {
	t.Parallel()
	e := onMini(t)
	e.mini.SetTime(time.UnixMilli(1_234_567_890_123))
	e.start("x")
	require.Equal(t, "1234567890123", e.hash("x")["created_at"])
}
