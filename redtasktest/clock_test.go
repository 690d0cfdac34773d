package redtasktest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask"
)

var morning = time.Date(2026, 11, 26, 9, 0, 0, 0, time.UTC)

// clocked is a harness with a clock of its own and a task that fails twice.
func clocked(t *testing.T) *Harness {
	t.Helper()
	runs := 0
	registry := redtask.NewRegistry()
	registry.RegisterWith("app/flaky", redtask.Func(func(context.Context, int) error {
		if runs++; runs < 3 {
			return errors.New("not yet")
		}
		return nil
	}), redtask.TaskOptions{Retry: &redtask.Retry{Attempts: 3, Backoff: redtask.Delays(time.Hour, 24*time.Hour)}})
	registry.Register("app/tick", redtask.Func(func(context.Context, int) error { return nil }))
	return NewWith(t, registry, Options{Clock: morning})
}

// Two days of delays and retries pass in no time.
func TestFinish(t *testing.T) {
	t.Parallel()
	h := clocked(t)
	id, err := h.Client.StartWith(t.Context(), "app/flaky", 1, redtask.StartOptions{In: 12 * time.Hour})
	require.NoError(t, err)
	result := h.Finish(id).RequireState(redtask.StateEnded).RequireRetries(2)
	require.Equal(t, morning.Add(37*time.Hour), result.Record.EndedAt.UTC())
	require.Equal(t, morning.Add(37*time.Hour), h.Now().UTC())
	require.Equal(t, morning.Add(12*time.Hour), result.Record.History[0].StartedAt.UTC().Truncate(time.Second))
}

// Nothing is due before its time.
func TestAdvance(t *testing.T) {
	t.Parallel()
	h := clocked(t)
	id, err := h.Client.StartWith(t.Context(), "app/tick", 1, redtask.StartOptions{At: morning.Add(time.Hour)})
	require.NoError(t, err)
	h.Advance(59 * time.Minute)
	other := h.Run("app/tick", 2) // the runner is there, and takes what is due
	other.RequireState(redtask.StateEnded).RequireRetries(0)
	record, err := h.Client.Get(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, redtask.StateScheduled, record.State)
	h.AdvanceTo(morning.Add(time.Hour))
	h.Collect(id).RequireState(redtask.StateEnded)
	h.AdvanceTo(morning)
	require.Equal(t, morning.Add(time.Hour), h.Now().UTC(), "never back")
}

// A nightly report on the night when the clocks are changed.
func TestAdvanceThroughASchedule(t *testing.T) {
	t.Parallel()
	registry := redtask.NewRegistry()
	registry.Register("app/tick", redtask.Func(func(context.Context, int) error { return nil }))
	h := NewWith(t, registry, Options{Clock: time.Date(2026, 3, 28, 12, 0, 0, 0, time.UTC)})
	cron := h.Client.Cron()
	require.NoError(t, cron.Add(t.Context(), redtask.CronEntry{Name: "nightly", Schedule: "30 2 * * *", Zone: "Europe/Berlin", Task: "app/tick", Data: 1}))
	for _, want := range []string{"nightly@2026-03-29T01:30:00.000Z", "nightly@2026-03-30T00:30:00.000Z"} {
		entry, err := cron.Get(t.Context(), "nightly")
		require.NoError(t, err)
		h.AdvanceTo(entry.NextAt)
		h.Collect(want).RequireState(redtask.StateEnded)
		require.Eventually(t, func() bool {
			after, err := cron.Get(t.Context(), "nightly")
			return err == nil && after.LastID == want
		}, 10*time.Second, time.Millisecond)
	}
}

// Windows end with the clock.
func TestAdvanceThroughAWindow(t *testing.T) {
	t.Parallel()
	h := clocked(t)
	throttled := func() string {
		id, err := h.Client.StartWith(t.Context(), "app/tick", 1, redtask.StartOptions{Once: redtask.Throttle("k", time.Minute)})
		require.NoError(t, err)
		return id
	}
	first := throttled()
	h.Collect(first)
	h.Advance(59 * time.Second)
	require.Equal(t, first, throttled())
	h.Advance(time.Second)
	require.NotEqual(t, first, throttled())
}
