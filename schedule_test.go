package redtask

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A runner that knows of a later due time, or of none, is told of an earlier one: it wakes for that, long before it would look by itself.
func TestDelayWakesARunner(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.Register("test/quick", Func(func(context.Context, any) error { return nil }))
		noLook := func(o *RunnerOptions) { // neither a renewal nor a monitor tells of a due time in this test
			longLease(o)
			o.Locals = []Local{}
		}
		e.runner(t, registry, noLook)
		e.runner(t, registry, noLook)
		client := e.client(t)
		later, err := client.StartWith(testContext(t), "test/quick", nil, StartOptions{In: time.Hour})
		require.NoError(t, err)
		record, err := client.Get(testContext(t), later)
		require.NoError(t, err)
		require.Equal(t, StateScheduled, record.State)
		require.WithinRange(t, record.DueAt, record.CreatedAt.Add(time.Hour), record.CreatedAt.Add(time.Hour))
		soon, err := client.StartWith(testContext(t), "test/quick", nil, StartOptions{In: 20 * time.Millisecond})
		require.NoError(t, err)
		record = wait(t, client, soon)
		require.Equal(t, StateEnded, record.State)
		require.False(t, record.StartedAt.Before(record.CreatedAt.Add(20*time.Millisecond)), "not before it is due")
		at, err := client.StartWith(testContext(t), "test/quick", nil, StartOptions{At: time.Now().Add(20 * time.Millisecond)})
		require.NoError(t, err)
		require.Equal(t, StateEnded, wait(t, client, at).State)
		past, err := client.StartWith(testContext(t), "test/quick", nil, StartOptions{At: time.Unix(1, 0)})
		require.NoError(t, err)
		require.Equal(t, StateEnded, wait(t, client, past).State, "a time that is past is now")
		require.NoError(t, client.RescheduleIn(testContext(t), later, 10*time.Millisecond))
		require.Equal(t, StateEnded, wait(t, client, later).State, "brought forward")
	})
}

// A runner wakes for what it has put off itself, long before it would look by itself.
func TestRetryWakesItsRunner(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.RegisterWith("test/flaky", failing(errSurprise), TaskOptions{Retry: &Retry{Attempts: 2, Backoff: Constant(20 * time.Millisecond)}})
		e.runner(t, registry, longLease)
		client := e.client(t)
		record := wait(t, client, start(t, client, "test/flaky", nil))
		require.Equal(t, StateEnded, record.State)
		require.False(t, record.StartedAt.Before(record.History[0].EndedAt.Add(20*time.Millisecond)), "not before it is due")
	})
}

func TestReschedule(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		client := e.client(t)
		id, err := client.StartWith(testContext(t), "test/block", nil, StartOptions{In: time.Hour})
		require.NoError(t, err)
		at := time.Now().Add(2 * time.Hour).Truncate(time.Millisecond)
		require.NoError(t, client.Reschedule(testContext(t), id, at))
		record, err := client.Get(testContext(t), id)
		require.NoError(t, err)
		require.True(t, record.DueAt.Equal(at))
		inLine := start(t, client, "test/block", nil)
		require.NoError(t, client.Reschedule(testContext(t), inLine, at))
		record, err = client.Get(testContext(t), inLine)
		require.NoError(t, err)
		require.Equal(t, StateScheduled, record.State, "out of the line")
		require.NoError(t, client.Stop(testContext(t), id), "that is how to cancel")
		require.ErrorIs(t, client.Reschedule(testContext(t), id, at), ErrFinal)
		require.ErrorIs(t, client.Reschedule(testContext(t), "nobody", at), ErrNotFound)
		require.ErrorIs(t, client.RescheduleIn(testContext(t), id, -1), ErrInvalid)
		b := newBlocker()
		e.runner(t, blockRegistry(b), nil)
		require.NoError(t, client.RescheduleIn(testContext(t), inLine, 0))
		require.Equal(t, inLine, receive(t, "runs", b.running).ID())
		require.ErrorIs(t, client.Reschedule(testContext(t), inLine, at), ErrRunning)
		require.Equal(t, StateStopped, func() State { r, _ := client.Get(testContext(t), id); return r.State }(), "what was cancelled stays so")
	})
}

// With redis-cli alone: a delayed task, one that is brought forward, one with options.
func TestWireDelay(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		b := newBlocker()
		e.runner(t, blockRegistry(b), func(o *RunnerOptions) {
			longLease(o)
			o.Locals = []Local{}
		})
		due := time.Now().Add(20 * time.Millisecond).UnixMilli()
		e.do(t, "HSET", e.key("task:42"), "task", "test/block", "state", "SCHEDULED", "options", `{"priority":"low","key":"k","headers":{"tenant":"a"}}`)
		e.do(t, "ZADD", e.key("scheduled"), due, "42")
		e.do(t, "PUBLISH", e.key("control:"), "due "+strconv.FormatInt(due, 10))
		run := receive(t, "runs", b.running)
		require.Equal(t, "42", run.ID())
		require.Equal(t, "k", run.Key())
		require.Equal(t, map[string]string{"tenant": "a"}, run.Headers())
	})
}
