package builtin_test

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask"
	"github.com/redtask/redtask/builtin"
)

func fastCleanup(o builtin.CleanupOptions) redtask.Local {
	o.Interval, o.Logger = 20*time.Millisecond, quiet
	return builtin.Cleanup(o)
}

// atOnce removes records of these states a millisecond after their end.
func atOnce(states ...redtask.State) map[redtask.State]builtin.Retention {
	retention := map[redtask.State]builtin.Retention{}
	for _, state := range states {
		retention[state] = builtin.Retention{Age: time.Millisecond}
	}
	return retention
}

func ends() *redtask.Registry {
	registry := redtask.NewRegistry()
	registry.Register("test/end", redtask.FuncOut(func(context.Context, any) (string, error) { return "out", nil }))
	registry.Register("test/fail", redtask.Func(func(context.Context, any) error { return redtask.Failf("no") }))
	registry.RegisterWith("test/kept", redtask.Func(func(context.Context, any) error { return nil }), redtask.TaskOptions{Keep: true})
	return registry
}

func TestCleanupByAge(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		failed := e.start(t, "test/fail", redtask.StartOptions{})
		keptByStart := e.start(t, "test/end", redtask.StartOptions{Keep: true})
		keptByName := e.start(t, "test/kept", redtask.StartOptions{})
		e.runner(t, ends(), fastCleanup(builtin.CleanupOptions{Retention: atOnce(redtask.StateEnded)}))
		for range 3 {
			old := e.start(t, "test/end", redtask.StartOptions{})
			eventually(t, "it goes", func() bool { return !e.has(t, old) })
		}
		for _, id := range []string{failed, keptByStart, keptByName} {
			e.wait(t, id)
			require.True(t, e.has(t, id))
		}
		counts, err := e.client.Counts(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 0, counts.Ended)
		require.EqualValues(t, 1, counts.Error)
		require.EqualValues(t, 2, counts.Kept)
	})
}

func TestCleanupByCount(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		const tasks, stay = 450, 10
		first := e.runner(t, ends())
		for i := range tasks {
			e.start(t, "test/end", redtask.StartOptions{ID: strconv.Itoa(i)})
		}
		e.wait(t, strconv.Itoa(tasks-1))
		require.NoError(t, first.Shutdown(deadline(t)))
		newest, err := e.client.List(t.Context(), redtask.ListOptions{State: redtask.StateEnded, Limit: stay})
		require.NoError(t, err)
		e.runner(t, ends(), fastCleanup(builtin.CleanupOptions{Retention: map[redtask.State]builtin.Retention{
			redtask.StateEnded: {Age: builtin.Forever, Count: stay},
		}}))
		eventually(t, "the rest goes", func() bool {
			return e.rdb.ZCard(t.Context(), e.key("final:ENDED")).Val() == stay
		})
		for _, record := range newest.Tasks {
			require.True(t, e.has(t, record.ID), "the newest stay")
		}
		keys, err := e.rdb.Keys(t.Context(), e.key("task:*")).Result()
		require.NoError(t, err)
		require.Len(t, keys, stay+1, "and the cleanup's own")
	})
}

func TestCleanupHandler(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		var mu sync.Mutex
		calls := map[string]int{}
		handler := func(_ context.Context, record *redtask.Record) error {
			mu.Lock()
			defer mu.Unlock()
			calls[record.ID]++
			switch {
			case string(record.Output) != `"out"` || record.State != redtask.StateEnded:
				return errors.New("not the final record")
			case record.ID[0] != 'g' && calls[record.ID] == 1:
				panic("boom")
			case record.ID[0] != 'g' && calls[record.ID] == 2:
				return errors.New("not yet")
			}
			return nil
		}
		first := e.runner(t, ends())
		for i := range 25 { // more than are looked up at a time: those that fail must not hide the others
			e.start(t, "test/end", redtask.StartOptions{ID: "bad" + strconv.Itoa(i)})
		}
		for i := range 5 {
			e.start(t, "test/end", redtask.StartOptions{ID: "good" + strconv.Itoa(i)})
		}
		e.wait(t, "good4")
		require.NoError(t, first.Shutdown(deadline(t)))
		options := builtin.CleanupOptions{Retention: atOnce(redtask.StateEnded), Handler: handler}
		e.runner(t, ends(), fastCleanup(options))
		e.runner(t, ends(), fastCleanup(options))
		eventually(t, "all go", func() bool { return e.rdb.ZCard(t.Context(), e.key("final:ENDED")).Val() == 0 })
		mu.Lock()
		defer mu.Unlock()
		require.Len(t, calls, 30)
		for id, n := range calls {
			if id[0] == 'g' {
				require.Equal(t, 1, n, "one cleaner at a time")
			} else {
				require.Equal(t, 3, n, "tried again in each round")
			}
		}
	})
}

// A task that somebody starts again while its record is on its way out stays.
func TestCleanupOfATaskStartedAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		handling, goOn := make(chan string), make(chan struct{})
		e.runner(t, ends(), fastCleanup(builtin.CleanupOptions{
			Retention: atOnce(redtask.StateEnded),
			Handler: func(ctx context.Context, record *redtask.Record) error {
				select {
				case handling <- record.ID:
				case <-ctx.Done():
					return ctx.Err()
				}
				<-goOn
				return nil
			},
		}))
		id := e.start(t, "test/end", redtask.StartOptions{ID: "again"})
		require.Equal(t, id, <-handling)
		_, err := e.client.StartWith(t.Context(), "test/fail", nil, redtask.StartOptions{ID: id})
		require.NoError(t, err)
		require.Equal(t, redtask.StateError, e.wait(t, id).State)
		close(goOn)
		other := e.start(t, "test/end", redtask.StartOptions{})
		require.Equal(t, other, <-handling, "a later round")
		require.True(t, e.has(t, id))
	})
}

func TestCleanupOptionsRefused(t *testing.T) {
	t.Parallel()
	e := newMini(t)
	_, err := redtask.NewRunner(e.rdb, redtask.NewRegistry(), redtask.RunnerOptions{Locals: []redtask.Local{
		builtin.Monitor(builtin.MonitorOptions{}),
		builtin.Cleanup(builtin.CleanupOptions{Interval: -1, HandlerTimeout: -1, Retention: map[redtask.State]builtin.Retention{
			redtask.StateRunning: {}, redtask.StateEnded: {Count: -1},
		}}),
	}})
	require.ErrorIs(t, err, redtask.ErrInvalid)
	for _, part := range []string{"Interval -1ns", "HandlerTimeout", `state "RUNNING"`, "state ENDED", "redtask/cleanup"} {
		require.ErrorContains(t, err, part)
	}
}
