package redtask

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func startOnce(t *testing.T, client *Client, data any, once Once) (string, error) {
	t.Helper()
	return client.StartWith(testContext(t), "test/block", data, StartOptions{Once: once})
}

// A unique key is its task's until that is final, in line and while it runs; and whoever comes meanwhile gets the answer that it asked for.
func TestUnique(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		client, ctx := e.client(t), testContext(t)
		id, err := startOnce(t, client, 1, Unique("report", 0))
		require.NoError(t, err)
		other, err := startOnce(t, client, 2, Unique("other", 0))
		require.NoError(t, err)
		require.NotEqual(t, id, other)
		_, err = startOnce(t, client, 2, Unique("report", 0))
		require.ErrorIs(t, err, ErrNotUnique)
		conflict, ok := errors.AsType[*ConflictError](err)
		require.True(t, ok)
		require.Equal(t, id, conflict.ID)
		require.Equal(t, StateWait, conflict.State)
		existing, err := startOnce(t, client, 3, Unique("report", 0).OrExisting())
		require.NoError(t, err)
		require.Equal(t, id, existing)
		replaced, err := startOnce(t, client, 4, Unique("report", 0).OrReplace())
		require.NoError(t, err)
		require.Equal(t, id, replaced)
		record, err := client.Get(ctx, id)
		require.NoError(t, err)
		require.JSONEq(t, "4", string(record.Data))

		b := newBlocker()
		runner := e.runner(t, blockRegistry(b), nil)
		receive(t, "runs", b.running)
		receive(t, "runs", b.running)
		_, err = startOnce(t, client, 5, Unique("report", 0).OrReplace())
		require.ErrorIs(t, err, ErrNotUnique, "one that runs is not replaced")
		require.NoError(t, shutdown(t, runner))
		_, err = startOnce(t, client, 5, Unique("report", 0))
		require.ErrorIs(t, err, ErrNotUnique, "given back, it has its key still")
		e.runner(t, blockRegistry(b), nil)
		require.NoError(t, client.Stop(ctx, id))
		require.Equal(t, StateStopped, wait(t, client, id).State)
		next, err := startOnce(t, client, 6, Unique("report", 0))
		require.NoError(t, err)
		require.NotEqual(t, id, next)
		require.ErrorContains(t, client.Restart(ctx, id), "another task has its unique key")
	})
}

// A task that is stopped, or removed, in line gives its key up; and one that somebody deleted by hand does not have it for ever.
func TestUniqueIsGivenUp(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		client, ctx := e.client(t), testContext(t)
		for name, end := range map[string]func(id string) error{
			"stopped": func(id string) error { return client.Stop(ctx, id) },
			"removed": func(id string) error { return client.Remove(ctx, id) },
			"deleted": func(id string) error { return e.rdb.Del(ctx, e.key("task:"+id)).Err() },
			"ended by hand": func(id string) error {
				return e.rdb.HSet(ctx, e.key("task:"+id), "state", "ENDED").Err()
			},
		} {
			id, err := startOnce(t, client, nil, Unique("k", 0))
			require.NoError(t, err, name)
			require.NoError(t, end(id), name)
			id, err = startOnce(t, client, nil, Unique("k", time.Hour))
			require.NoError(t, err, name)
			require.Positive(t, e.rdb.PTTL(ctx, e.key("once:k")).Val(), name)
			require.NoError(t, client.Remove(ctx, id))
		}
		require.Zero(t, e.rdb.Exists(ctx, e.key("once:k")).Val(), "nothing stays")
	})
}

// Of many who start at once one wins; the others get its ID.
func TestUniqueRace(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		client := e.client(t)
		ids := make(chan string, 100)
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				id, err := client.StartWith(context.Background(), "test/block", nil, StartOptions{Once: Unique("k", 0).OrExisting()})
				if err == nil {
					ids <- id
				}
			})
		}
		all.Wait()
		require.Len(t, ids, 50)
		first := <-ids
		for range 49 {
			require.Equal(t, first, <-ids)
		}
		counts, err := client.Counts(testContext(t))
		require.NoError(t, err)
		require.EqualValues(t, 1, counts.Wait)
	})
}

func TestThrottle(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.Register("test/block", Func(func(context.Context, any) error { return nil }))
		e.runner(t, registry, nil)
		client := e.client(t)
		id, err := startOnce(t, client, nil, Throttle("k", time.Hour))
		require.NoError(t, err)
		require.Equal(t, StateEnded, wait(t, client, id).State)
		again, err := startOnce(t, client, nil, Throttle("k", time.Hour))
		require.NoError(t, err)
		require.Equal(t, id, again, "in the window, although it has ended")
		require.Positive(t, e.rdb.PTTL(testContext(t), e.key("once:k")).Val())
		e.do(t, "DEL", e.key("once:k")) // the window is over
		again, err = startOnce(t, client, nil, Throttle("k", time.Hour))
		require.NoError(t, err)
		require.NotEqual(t, id, again)
	})
}

// Starts that come before the task has begun put it off and replace its data; one that comes after that begins anew.
func TestDebounce(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		client, ctx := e.client(t), testContext(t)
		id, err := startOnce(t, client, 1, Debounce("k", time.Minute, 0))
		require.NoError(t, err)
		first, err := client.Get(ctx, id)
		require.NoError(t, err)
		e.do(t, "ZADD", e.key("scheduled"), time.Now().UnixMilli()+1000, id) // as if most of the minute were over
		again, err := startOnce(t, client, 2, Debounce("k", time.Minute, 0))
		require.NoError(t, err)
		require.Equal(t, id, again)
		record, err := client.Get(ctx, id)
		require.NoError(t, err)
		require.Equal(t, StateScheduled, record.State)
		require.False(t, record.DueAt.Before(first.DueAt), "put off")
		require.JSONEq(t, "2", string(record.Data))
		_, err = startOnce(t, client, 3, Debounce("k", time.Hour, time.Hour))
		require.NoError(t, err)
		record, err = client.Get(ctx, id)
		require.NoError(t, err)
		require.Equal(t, record.CreatedAt.Add(time.Hour), record.DueAt, "no longer than the longest")

		b := newBlocker()
		e.runner(t, blockRegistry(b), nil)
		require.NoError(t, client.RescheduleIn(ctx, id, 0))
		require.Equal(t, id, receive(t, "runs", b.running).ID())
		next, err := startOnce(t, client, 4, Debounce("k", time.Hour, 0))
		require.NoError(t, err)
		require.NotEqual(t, id, next, "the first has begun")
	})
}

// A start with an ID of its own that is refused, or that another task stands for, leaves the old record of that ID alone.
func TestUniqueKeepsWhatItDoesNotStart(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		client, ctx := e.client(t), testContext(t)
		own := func(data any, once Once) (string, error) {
			return client.StartWith(ctx, "test/block", data, StartOptions{ID: "own", Once: once})
		}
		_, err := own(1, Unique("k", 0))
		require.NoError(t, err)
		require.NoError(t, client.Stop(ctx, "own"))
		other, err := startOnce(t, client, 2, Unique("k", 0))
		require.NoError(t, err)
		_, err = own(3, Unique("k", 0))
		require.ErrorIs(t, err, ErrNotUnique)
		existing, err := own(3, Unique("k", 0).OrExisting())
		require.NoError(t, err)
		require.Equal(t, other, existing)
		record, err := client.Get(ctx, "own")
		require.NoError(t, err)
		require.Equal(t, StateStopped, record.State)
		require.JSONEq(t, "1", string(record.Data))
		require.NoError(t, client.Stop(ctx, other))
		_, err = own(4, Unique("k", 0))
		require.NoError(t, err)
		record, err = client.Get(ctx, "own")
		require.NoError(t, err)
		require.Equal(t, StateWait, record.State, "now it is started anew")
		require.JSONEq(t, "4", string(record.Data))
	})
}

// The window holds for a task's own ID too, and does not begin with a start that failed.
func TestThrottleWindow(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		client, ctx := e.client(t), testContext(t)
		start := func(o StartOptions) (string, error) {
			o.Once = Throttle("k", time.Hour)
			return client.StartWith(ctx, "test/block", nil, o)
		}
		e.do(t, "SET", e.key("wait:high"), "of another type")
		_, err := start(StartOptions{Priority: PriorityHigh})
		require.ErrorIs(t, err, ErrWrongType)
		require.Zero(t, e.rdb.Exists(ctx, e.key("once:k")).Val(), "nothing was started")
		id, err := start(StartOptions{ID: "own"})
		require.NoError(t, err)
		require.Equal(t, "own", id)
		require.NoError(t, client.Stop(ctx, id))
		again, err := start(StartOptions{ID: "own"})
		require.NoError(t, err)
		require.Equal(t, id, again)
		record, err := client.Get(ctx, id)
		require.NoError(t, err)
		require.Equal(t, StateStopped, record.State, "it is not run again in the window")
	})
}
