package cron

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func newTestEntry(t *testing.T, fields map[string]string) *entry {
	t.Helper()
	hash := map[string]string{"schedule": "@every 1s", "task": "test/a"}
	for field, value := range fields {
		hash[field] = value
	}
	e, err := newEntry("n", hash)
	require.NoError(t, err)
	return e
}

// What is done at a time that some runner sees late.
func TestFiring(t *testing.T) {
	t.Parallel()
	due := time.UnixMilli(1_700_000_000_000)
	for name, c := range map[string]struct {
		missed string
		late   time.Duration // that somebody looks
		before int           // missed times that were made up for
		next   time.Duration // after the time that was due
		more   bool
		starts bool
	}{
		"in time":                         {"", 0, 0, time.Second, false, true},
		"once: one for all":               {"once", 5500 * time.Millisecond, 0, 6 * time.Second, false, true},
		"skip: a little late":             {"skip", time.Minute, 0, 61 * time.Second, false, true},
		"skip: too late":                  {"skip", time.Minute + time.Millisecond, 0, 61 * time.Second, false, false},
		"once: never too late":            {"once", time.Hour, 0, time.Hour + time.Second, false, true},
		"all: in time":                    {"all", 0, 0, time.Second, false, true},
		"all: the next one is due":        {"all", time.Second, 0, time.Second, true, true},
		"all: it will be":                 {"all", time.Second - time.Millisecond, 0, time.Second, false, true},
		"all: the last one of a hundred":  {"all", time.Hour, maxMissed - 1, time.Second, true, true},
		"all: and then those that follow": {"all", time.Hour, maxMissed, time.Hour + time.Second, false, true},
	} {
		e := newTestEntry(t, map[string]string{"missed": c.missed, "overlap": "allow"})
		f, more := e.firing(due, due.Add(c.late), c.before, time.Minute)
		require.Equal(t, c.more, more, name)
		require.Equal(t, due.Add(c.next).UnixMilli(), f.Next, name)
		require.Equal(t, due.UnixMilli(), f.Due, name)
		require.Equal(t, c.starts, f.Task != nil, name)
		if c.starts {
			require.Equal(t, "n@2023-11-14T22:13:20.000Z", f.Task.ID, name)
		}
	}
}

// An entry's task has all that its hash says; what may expire is looked at by its claim.
func TestTaskOfAnEntry(t *testing.T) {
	t.Parallel()
	require.Equal(t, "{}", newTestEntry(t, nil).newTask().Spec)
	require.Empty(t, newTestEntry(t, nil).newTask().Options)
	task := newTestEntry(t, map[string]string{"expires_ms": "5000", "keep": "1", "data": "7"}).newTask()
	require.JSONEq(t, `{"expires_ms":5000}`, task.Spec)
	require.Equal(t, "{}", task.Options)
	require.True(t, task.Keep)
	require.Equal(t, "7", task.Data)
	task = newTestEntry(t, map[string]string{"options": `{"key":"k"}`}).newTask()
	require.JSONEq(t, `{"options":{"key":"k"}}`, task.Spec)
	require.JSONEq(t, `{"key":"k"}`, task.Options)
}

// What is due in years does not overflow, and what is paused is looked at no more often than all else.
func TestUntil(t *testing.T) {
	t.Parallel()
	task := New(Options{})
	for ms, want := range map[int64]time.Duration{
		-5: time.Millisecond, 0: time.Millisecond, 1: time.Millisecond, 9999: 9999 * time.Millisecond, 10_001: 10 * time.Second, 253_402_300_799_000: 10 * time.Second,
	} {
		require.Equal(t, want, task.until(ms), ms)
	}
}
