package redtask

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// record writes a task as runners would leave it, from fields, some ms ago.
func (e *env) record(t testing.TB, id string, state State, ago time.Duration, fields ...any) {
	t.Helper()
	now := e.rdb.Time(t.Context()).Val()
	at := now.Add(-ago).UnixMilli()
	since, key := "created_at", e.key("scheduled")
	if state.Final() {
		since, key = "ended_at", e.key("final:"+string(state))
	}
	e.do(t, append([]any{"HSET", e.key("task:" + id), "task", "test/a", since, at, "state", string(state)}, fields...)...)
	if state == StateWait {
		e.do(t, "LPUSH", e.key("wait"), id)
		return
	}
	e.do(t, "ZADD", key, at, id)
}

// mixed are tasks of all kinds that do not run.
func (e *env) mixed(t testing.TB) {
	t.Helper()
	for _, state := range []State{StateWait, StateScheduled, StateEnded, StateError, StateException, StateStopped} {
		for _, r := range []struct {
			id     string
			ago    time.Duration
			fields []any
		}{
			{"old", time.Hour, nil},
			{"young", time.Minute, []any{"error", "dial tcp: timeout"}},
			{"b", time.Minute, []any{"task", "test/b"}},
			{"other", time.Minute, []any{"task", "testing/a"}},
			{"local", time.Minute, []any{"local", "1"}},
		} {
			e.record(t, string(state)+" "+r.id, state, r.ago, r.fields...)
		}
		e.do(t, "HDEL", e.key("task:"+string(state)+" b"), "created_at", "ended_at")
	}
	e.do(t, "HSET", e.key("task:kept"), "task", "test/a", "state", "EXCEPTION", "keep", "1", "ended_at", 1)
	e.do(t, "HSET", e.key("task:kept well"), "task", "test/a", "state", "ENDED", "keep", "1", "ended_at", 2)
	e.do(t, "ZADD", e.key("final:kept"), 1, "kept", 2, "kept well")
}

// left are the states of all tasks; "" for those that are gone.
func (e *env) left(t testing.TB) map[string]State {
	t.Helper()
	states := map[string]State{}
	keys := e.rdb.Keys(t.Context(), e.key("task:*")).Val()
	for _, key := range keys {
		id := key[len(e.key("task:")):]
		if states[id] = State(e.rdb.HGet(t.Context(), key, "state").Val()); states[id] == "" {
			states[id] = StateWait
		}
	}
	return states
}

func TestManyByFilter(t *testing.T) {
	all := []string{"old", "young", "b", "other"}
	filters := map[string]struct {
		filter Filter
		fits   []string
	}{
		"all":          {Filter{}, all},
		"name":         {Filter{Task: "test/a"}, []string{"old", "young"}},
		"names":        {Filter{Task: "test/*"}, []string{"old", "young", "b"}},
		"error":        {Filter{Error: "tcp: time"}, []string{"young"}},
		"old":          {Filter{OlderThan: 30 * time.Minute}, []string{"old"}},
		"young":        {Filter{NewerThan: 30 * time.Minute}, []string{"young", "other"}},
		"between":      {Filter{OlderThan: 50 * time.Minute, NewerThan: 70 * time.Minute}, []string{"old"}},
		"two of them":  {Filter{Task: "test/a", NewerThan: 30 * time.Minute}, []string{"young"}},
		"none of them": {Filter{Task: "test/b", Error: "tcp"}, nil},
	}
	for word, call := range manyCalls {
		for _, state := range call.states {
			t.Run(word+" "+string(state), func(t *testing.T) {
				onBoth(t, func(t *testing.T, e *env) {
					for name, f := range filters {
						if f.filter.State = state; state == StateEnded && f.filter.Error != "" {
							continue
						}
						e.prefix = "t" + newID()
						e.mixed(t)
						want := e.left(t)
						for _, id := range f.fits {
							if id = string(state) + " " + id; call.after == "" {
								delete(want, id)
							} else {
								want[id] = call.after
							}
						}
						done, err := call.many(e.client(t), testContext(t), f.filter)
						require.NoError(t, err)
						require.Equal(t, ManyResult{Looked: 5, Matched: len(f.fits), Done: len(f.fits)}, done, name)
						require.Equal(t, want, e.left(t), name)
					}
				})
			})
		}
	}
}

type manyCall struct {
	many   func(c *Client, ctx context.Context, f Filter) (ManyResult, error)
	states []State // without RUNNING
	after  State
}

var manyCalls = map[string]manyCall{
	"stop":    {(*Client).StopMany, []State{StateWait, StateScheduled}, StateStopped},
	"restart": {(*Client).RestartMany, []State{StateEnded, StateError, StateException, StateStopped}, StateWait},
	"remove":  {(*Client).RemoveMany, []State{StateWait, StateScheduled, StateEnded, StateError, StateException, StateStopped}, ""},
	"retry":   {(*Client).RetryMany, []State{StateScheduled, StateError, StateException}, StateWait},
}

func TestManyOfKeptRecords(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		for _, c := range []struct {
			call   string
			filter Filter
			fits   []string
		}{
			{"restart", Filter{Kept: true}, []string{"kept", "kept well"}},
			{"remove", Filter{Kept: true, State: StateEnded}, []string{"kept well"}},
			{"retry", Filter{Kept: true}, []string{"kept"}},
			{"retry", Filter{State: StateException, Task: "test/a"}, []string{"EXCEPTION old", "EXCEPTION young"}},
		} {
			e.prefix = "t" + newID()
			e.mixed(t)
			before := e.left(t)
			done, err := manyCalls[c.call].many(e.client(t), testContext(t), c.filter)
			require.NoError(t, err)
			require.Equal(t, len(c.fits), done.Done)
			var changed []string
			for id, state := range before {
				if after, there := e.left(t)[id]; !there || after != state {
					changed = append(changed, id)
				}
			}
			require.ElementsMatch(t, c.fits, changed)
		}
	})
}

func TestManyOfABadFilter(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.mixed(t)
		before := e.left(t)
		client := e.client(t)
		for word, states := range map[string][]State{
			"stop":    {"", "NONSENSE", StateEnded, StateError, StateException, StateStopped},
			"restart": {"", "NONSENSE", StateWait, StateScheduled},
			"remove":  {"", "NONSENSE", StateRunning},
			"retry":   {"", "NONSENSE", StateWait, StateRunning, StateEnded, StateStopped},
		} {
			for _, state := range states {
				done, err := manyCalls[word].many(client, testContext(t), Filter{State: state})
				require.ErrorIs(t, err, ErrInvalid, "%s %s", word, state)
				require.ErrorContains(t, err, "Filter.State", "%s %s", word, state)
				require.Zero(t, done)
			}
		}
		for fault, filter := range map[string]Filter{
			"Filter.Kept": {Kept: true, State: StateEnded}, "Filter.State": {Kept: true, State: StateWait},
		} {
			_, err := client.StopMany(testContext(t), filter)
			require.ErrorIs(t, err, ErrInvalid)
			require.ErrorContains(t, err, fault)
		}
		for _, task := range []string{"*", "a*", "/*", "test/a*", "test/**", "no name", "te st/*"} {
			_, err := client.RestartMany(testContext(t), Filter{State: StateError, Task: task})
			require.ErrorIs(t, err, ErrInvalid, task)
		}
		for name, filter := range map[string]Filter{
			"Error": {Error: "x", State: StateRunning}, "OlderThan": {OlderThan: 5}, "NewerThan": {NewerThan: -time.Hour}, "Limit": {Limit: -1},
			"no task is both": {OlderThan: time.Hour, NewerThan: time.Hour},
		} {
			if filter.State == "" {
				filter.State = StateStopped
			}
			_, err := client.RestartMany(testContext(t), filter)
			require.ErrorIs(t, err, ErrInvalid, name)
			require.ErrorContains(t, err, name)
		}
		_, err := client.RetryMany(testContext(t), Filter{State: StateEnded, Task: "?", Error: "x", OlderThan: 1, NewerThan: -1, Limit: -1})
		for _, part := range []string{"State ENDED", "Task", "Error", "OlderThan", "NewerThan", "Limit"} {
			require.ErrorContains(t, err, part, "all at once")
		}
		_, err = client.ForQueue("bad queue").StopMany(testContext(t), Filter{State: StateWait})
		require.ErrorIs(t, err, ErrInvalid)
		require.Equal(t, before, e.left(t))
	})
}

// failed writes n tasks that ended in ERROR.
func (e *env) failed(t testing.TB, n int) []string {
	t.Helper()
	ids := make([]string, n)
	for i := range ids {
		ids[i] = "failed" + strconv.Itoa(i)
		e.record(t, ids[i], StateError, time.Duration(n-i)*time.Second, "epoch", i+1, "error", "it broke")
	}
	e.do(t, "SET", e.key("epoch"), n)
	return ids
}

func (e *env) line(t testing.TB) []string {
	return e.rdb.LRange(t.Context(), e.key("wait"), 0, -1).Val()
}

func TestManyProgress(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		ids := e.failed(t, 300)
		e = e.hooked(t, func(int) error { return nil })
		reads := &readCounter{}
		e.rdb.AddHook(reads)
		var steps []ManyResult
		filter := Filter{State: StateError, Progress: func(m ManyResult) { steps = append(steps, m) }}
		done, err := e.client(t).RestartMany(testContext(t), filter)
		require.NoError(t, err)
		require.Equal(t, ManyResult{Looked: 300, Matched: 300, Done: 300}, done)
		require.ElementsMatch(t, ids, e.line(t))
		require.Equal(t, done, steps[len(steps)-1])
		require.EqualValues(t, len(steps)+2, reads.n.Load(), "one read a step, of an index that shrinks too")
		before := ManyResult{}
		for _, m := range steps {
			require.Greater(t, m.Looked, before.Looked)
			require.LessOrEqual(t, m.Looked-before.Looked, 64, "a step is bounded")
			require.GreaterOrEqual(t, m.Done, before.Done)
			require.Equal(t, m.Matched, m.Done+m.Moved+m.Refused)
			before = m
		}
		done, err = e.client(t).RestartMany(testContext(t), filter)
		require.NoError(t, err)
		require.Equal(t, ManyResult{}, done, "nothing is left")
	})
}

// readCounter counts ZRANGE.
type readCounter struct {
	lossy
	n atomic.Int64
}

func (r *readCounter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "zrange" {
			r.n.Add(1)
		}
		return next(ctx, cmd)
	}
}

func TestManyLimit(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		ids := e.failed(t, 200)
		e.do(t, "HSET", e.key("task:"+ids[0]), "task", "test/b")
		done, err := e.client(t).RetryMany(testContext(t), Filter{State: StateError, Task: "test/a", Limit: 70})
		require.NoError(t, err)
		require.Equal(t, ManyResult{Looked: done.Looked, Matched: 70, Done: 70}, done)
		require.Less(t, done.Looked, 200, "it looks no further")
		require.ElementsMatch(t, ids[1:71], e.line(t), "the oldest")
	})
}

var errEnough = errors.New("that is enough")

// A ctx that ends, or a key that breaks, between two steps: what was done is told, the rest is untouched, and a further call does it.
func TestManyCutShort(t *testing.T) {
	for name, c := range map[string]struct {
		cut    func(t *testing.T, e *env, cancel context.CancelCauseFunc) (mend func())
		reason error
	}{
		"ctx": {func(_ *testing.T, _ *env, cancel context.CancelCauseFunc) func() { cancel(errEnough); return func() {} }, errEnough},
		"key": {func(t *testing.T, e *env, _ context.CancelCauseFunc) func() {
			e.do(t, "RENAME", e.key("wait"), e.key("aside"))
			e.do(t, "SET", e.key("wait"), "spoilt")
			return func() { e.do(t, "RENAME", e.key("aside"), e.key("wait")) }
		}, ErrWrongType},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				ids := e.failed(t, 300)
				ctx, cancel := context.WithCancelCause(testContext(t))
				defer cancel(nil)
				steps, mend := 0, func() {}
				done, err := e.client(t).RestartMany(ctx, Filter{State: StateError, Progress: func(ManyResult) {
					if steps++; steps == 2 {
						mend = c.cut(t, e, cancel)
					}
				}})
				require.ErrorIs(t, err, c.reason)
				require.ErrorContains(t, err, "restart many tasks: 128 were done")
				require.Equal(t, 128, done.Done)
				mend()
				require.ElementsMatch(t, ids[:128], e.line(t))
				done, err = e.client(t).RestartMany(testContext(t), Filter{State: StateError})
				require.NoError(t, err)
				require.Equal(t, 172, done.Done)
				require.ElementsMatch(t, ids, e.line(t))
				canceled, cancel := context.WithCancelCause(t.Context())
				cancel(errEnough)
				_, err = e.client(t).RestartMany(canceled, Filter{State: StateError})
				require.ErrorIs(t, err, errEnough)
			})
		})
	}
}
