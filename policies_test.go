package redtask

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// policies are tasks that count their runs, one of each policy.
type policies struct {
	mu   sync.Mutex
	runs map[string]int
}

func (p *policies) count(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.runs[FromContext(ctx).ID()]++
}

func (p *policies) ran(id string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.runs[id]
}

func (p *policies) registry() *Registry {
	registry := NewRegistry()
	add := func(name string, options TaskOptions, work func(ctx context.Context) error) {
		registry.RegisterWith("test/"+name, Func(func(ctx context.Context, _ any) error {
			p.count(ctx)
			return work(ctx)
		}), options)
	}
	soon := Constant(time.Millisecond)
	add("flaky", TaskOptions{Retry: &Retry{Attempts: 4, Backoff: soon}}, func(ctx context.Context) error {
		if n := FromContext(ctx).Attempt(); n < 4 {
			return fmt.Errorf("attempt %d", n)
		}
		return nil
	})
	add("crash", TaskOptions{Supervise: &Supervise{Backoff: soon, MaxRestarts: 3}}, func(ctx context.Context) error {
		return fmt.Errorf("attempt %d", FromContext(ctx).Attempt())
	})
	add("slow", TaskOptions{Timeout: 20 * time.Millisecond, Retry: &Retry{Attempts: 2, Backoff: soon}}, func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	add("quick", TaskOptions{}, func(context.Context) error { return nil })
	return registry
}

// requireEnd: the record is that of a task whose runs all came to their end, each once.
func (p *policies) requireEnd(t *testing.T, record *Record) {
	t.Helper()
	want := map[string]struct {
		state   State
		attempt int
		err     string
	}{
		"test/flaky": {StateEnded, 4, ""},
		"test/crash": {StateException, 4, "restarted 3 times within 1h0m0s, which is the limit: given up; the last error: attempt 4"},
		"test/slow":  {StateException, 2, ErrTimedOut.Error() + " of 20ms"},
		"test/quick": {StateEnded, 1, ""},
	}[record.Task]
	require.Equal(t, want.state, record.State, record)
	require.Equal(t, want.attempt, record.Attempt, record)
	require.Equal(t, want.err, record.Error, record)
	require.Len(t, record.History, want.attempt-1, record)
	for i, a := range record.History {
		require.Equal(t, i+1, a.Number, record)
		require.Equal(t, StateException, a.State)
		require.NotEmpty(t, a.Error)
	}
}

// Two runners lose answers all the while: no attempt, restart or delay comes twice, and none is forgotten.
func TestPoliciesWithLostReplies(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		p := &policies{runs: map[string]int{}}
		for range 2 {
			rdb := redis.NewClient(&redis.Options{Addr: e.rdb.Options().Addr})
			t.Cleanup(func() { _ = rdb.Close() })
			rdb.AddHook(&lossy{every: 5})
			lossyEnv := &env{rdb: rdb, prefix: e.prefix, mini: e.mini, log: e.log}
			lossyEnv.runner(t, p.registry(), nil)
		}
		client := e.client(t)
		var ids []string
		for _, name := range []string{"flaky", "crash", "slow", "quick"} {
			ids = append(ids, startAll(t, client, many(10, "test/"+name, func(i int, o *StartOptions) {
				if name == "quick" {
					o.In = time.Duration(i+1) * 5 * time.Millisecond
				}
			}))...)
		}
		for _, id := range ids {
			record := wait(t, client, id)
			p.requireEnd(t, record)
			require.Equal(t, record.Attempt, p.ran(id), "each run counts")
			if record.Task == "test/quick" {
				require.False(t, record.StartedAt.Before(record.CreatedAt.Add(5*time.Millisecond)), "not before it is due")
			}
		}
	})
}

// A runner died in the middle of what a policy began: who takes over goes on from there, with the run that was cut short not counted.
func TestPoliciesAfterADeadRunner(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		p := &policies{runs: map[string]int{}}
		past := time.Now().Add(-2 * time.Minute).UnixMilli()
		attempt := func(n int) string {
			return fmt.Sprintf(`{"attempt":%d,"state":"EXCEPTION","error":"attempt %d","runner":"dead","started_at":%d,"ended_at":%d}`, n, n, past, past)
		}
		restarts := fmt.Sprint(past, past+1)
		for id, fields := range map[string][]any{
			"flaky": {"task", "test/flaky", "attempt", 3, "history1", attempt(1), "history2", attempt(2)},
			"crash": {"task", "test/crash", "attempt", 3, "history1", attempt(1), "history2", attempt(2), "restarts", restarts},
			"slow":  {"task", "test/slow", "attempt", 2, "history1", attempt(1)},
			"late":  {"task", "test/quick", "attempt", 1, "options", fmt.Sprintf(`{"deadline_at":%d}`, past)},
		} {
			e.do(t, append([]any{"HSET", e.key("task:" + id), "state", "RUNNING", "epoch", 1, "runner", "dead", "started_at", past}, fields...)...)
			e.do(t, "SADD", e.key("running:dead"), "1:"+id)
		}
		e.do(t, "HSET", e.key("task:quick"), "task", "test/quick", "state", "SCHEDULED", "due_at", past) // it alone knew of that
		e.do(t, "ZADD", e.key("scheduled"), past, "quick")
		e.do(t, "HSET", e.key("runner:dead"), "batch", 1, "silence_ms", 1)
		e.do(t, "ZADD", e.key("runners"), past, "dead")
		e.runner(t, p.registry(), fastLease)
		client := e.client(t)
		for id, runs := range map[string]int{"flaky": 2, "crash": 2, "slow": 1, "quick": 1} {
			p.requireEnd(t, wait(t, client, id))
			require.Equal(t, runs, p.ran(id), id)
		}
		late := wait(t, client, "late")
		require.Equal(t, StateException, late.State)
		require.Contains(t, late.Error, ErrDeadline.Error())
		require.Zero(t, p.ran("late"), "its deadline is that of all its runs")
	})
}
