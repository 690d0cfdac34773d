package redtasktest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask"
)

func TestRun(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		h := on(t, url, registryOf(map[string]redtask.Factory{
			"test/greet": redtask.FuncOut(greet),
			"test/fail":  redtask.Func(func(context.Context, any) error { return redtask.Failf("no such %s", "city") }),
			"test/break": redtask.Func(func(context.Context, any) error { return errors.New("surprise") }),
			"test/panic": redtask.Func(func(context.Context, any) error { panic("at the disco") }),
			"test/count": redtask.Func(func(ctx context.Context, n int) error {
				for i := range n {
					if err := redtask.FromContext(ctx).Emit("tick", i); err != nil {
						return err
					}
				}
				return redtask.FromContext(ctx).Progress(n)
			}),
		}), redtask.RunnerOptions{})

		result := h.Run("test/greet", person{Name: "Ann"}).RequireState(redtask.StateEnded)
		require.Equal(t, "hello Ann", Output[string](result))
		require.Equal(t, []string{"running", "greeting", "ended"}, result.Events.Names())
		require.Equal(t, []string{"Ann"}, Decode[string](t, result.Events.Named("greeting")))
		require.Equal(t, 1, result.Record.Attempt)
		require.JSONEq(t, `{"Name":"Ann"}`, string(result.Record.Data))

		require.Equal(t, "no such city", h.Run("test/fail", nil).RequireState(redtask.StateError).Record.Error)
		require.Equal(t, "surprise", h.Run("test/break", nil).RequireState(redtask.StateException).Record.Error)
		require.Contains(t, h.Run("test/panic", nil).RequireState(redtask.StateException).Record.Stack, "run_test.go")
		unknown := h.Run("test/gret", nil).RequireState(redtask.StateException)
		require.Contains(t, unknown.Record.Error, `did you mean "test/greet"`)

		counted := h.Run("test/count", 500)
		require.Len(t, counted.Events, 503, "every event, from the first to the last")
		for i, n := range Decode[int](t, counted.Events.Named("tick")) {
			require.Equal(t, i, n)
		}
		require.Equal(t, "500", string(counted.Record.Progress))
	})
}

// A task that runs until it is stopped is followed from its first event on, however late one looks.
func TestWatchAndCollect(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		h := on(t, url, registryOf(map[string]redtask.Factory{"test/block": redtask.Func(block)}), redtask.RunnerOptions{})
		id := start(t, h.Client, "test/block", 1)
		watch := h.Watch(id)
		tick := watch.Next("tick")
		require.Equal(t, "1", string(tick.Data))
		require.Equal(t, id, tick.ID)
		require.NoError(t, h.Client.ReloadWith(t.Context(), id, 2))
		second := watch.Next("tick")
		require.Equal(t, "2", string(second.Data))
		require.NoError(t, h.Client.Stop(t.Context(), id))
		result := h.Collect(id).RequireState(redtask.StateStopped)
		require.Equal(t, []int{1, 2}, Decode[int](t, result.Events.Named("tick")))
		require.Equal(t, "stopped", result.Events[len(result.Events)-1].Name)
		require.Equal(t, result, h.Collect(id), "the end may be looked at again")

		// The end of the run before a restart is not taken for that of the next.
		require.NoError(t, h.Client.Restart(t.Context(), id))
		watch.Next("tick")
		require.NoError(t, h.Client.Stop(t.Context(), id))
		require.Len(t, h.Collect(id).Events.Named("stopped"), 2)

		require.NoError(t, h.Client.Remove(t.Context(), id))
		gone := h.Collect(id)
		require.Nil(t, gone.Record)
		require.Equal(t, "removed", gone.Events[len(gone.Events)-1].Name)
		fails(t, func(t testing.TB) { gone.t = t; gone.RequireState(redtask.StateEnded) }, "the task was removed, not ENDED", "tick 2")
		fails(t, func(t testing.TB) { gone.t = t; gone.RequireRetries(2) }, "the task was removed, not retried 2 times", "tick 2")
		fails(t, func(t testing.TB) { gone.t = t; Output[string](gone) }, "the task has no output")
	})
}

func TestQueues(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		where := redtask.FuncOut(func(ctx context.Context, _ any) (string, error) { return redtask.FromContext(ctx).Queue(), nil })
		h := on(t, url, registryOf(map[string]redtask.Factory{"test/where": where}), redtask.RunnerOptions{Queues: map[string]int{"b": 1, "a": 2}})
		require.Equal(t, "a", h.Client.Queue())
		require.Equal(t, "a", Output[string](h.Run("test/where", nil)))
		require.Equal(t, "b", Output[string](h.ForQueue("b").Run("test/where", nil)))
		require.Len(t, h.Started("test/where"), 2)

		other := h.ForQueue("c") // nobody serves it
		id := start(t, other.Client, "test/where", nil)
		require.NoError(t, other.Client.Stop(t.Context(), id))
		require.Equal(t, []string{"stopped"}, other.Collect(id).Events.Names())
	})
}

// Where the last events are lost, the record tells the end, and a gap says what is missing.
func TestLostEvents(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		h := on(t, url, registryOf(map[string]redtask.Factory{"test/greet": redtask.FuncOut(greet)}), redtask.RunnerOptions{})
		deaf := *h
		deaf.recorder = newRecorder()
		t.Cleanup(deaf.recorder.close)
		result := deaf.Run("test/greet", person{Name: "Ann"})
		require.Equal(t, "hello Ann", Output[string](result))
		require.Equal(t, []string{redtask.EventGap}, result.Events.Names())
	})
}

func TestRecorderIsBounded(t *testing.T) {
	t.Parallel()
	r := newRecorder()
	defer r.close()
	r.queues["q"] = map[string]Events{}
	r.put("q", redtask.Event{Name: "ended", ID: "old"})
	for range maxEvents {
		r.put("q", redtask.Event{Name: "tick", ID: "new"})
	}
	kept, _ := r.of("q", "new")
	require.Len(t, kept, maxEvents)
	require.Equal(t, redtask.EventGap, kept[maxEvents-1].Name)
	old, _ := r.of("q", "old")
	require.Equal(t, []string{"ended"}, old.Names(), "nothing can be missing after an end")
}

func TestWaitsFail(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		options := Options{RedisURL: url, Timeout: 300 * time.Millisecond, Runner: redtask.RunnerOptions{Queues: map[string]int{"default": 1}}}
		registry := registryOf(map[string]redtask.Factory{"test/block": redtask.Func(block), "test/greet": redtask.FuncOut(greet)})
		text := fails(t, func(t testing.TB) { NewWith(t, registry, options).Run("test/block", 7) },
			"is not final after 300ms: task test/block, ID ", "is in state RUNNING, attempt 1", "test/block tick 7", "the runner's log:", "msg=blocking")
		require.NotContains(t, text, "shut down the runner", "the task that was waited for is stopped, and in order")

		// In line behind another one: the message says what runs.
		fails(t, func(t testing.TB) {
			h := NewWith(t, registry, options)
			h.Watch(start(t, h.Client, "test/block", 7)).Next("tick")
			h.Run("test/greet", nil)
		}, "task test/greet, ID ", "is in state WAIT", "running:\n    task test/block, ID ", "events: none")

		fails(t, func(t testing.TB) { NewWith(t, registry, options).Collect("nobody") },
			`task "nobody" is not final after 300ms: there is no such task in queue "default"`, "running: nothing")
		fails(t, func(t testing.TB) {
			h := NewWith(t, registry, options)
			h.Watch(start(t, h.Client, "test/block", 7)).Next("tock")
		}, `has not emitted "tock" after 300ms: task test/block`)
		fails(t, func(t testing.TB) { NewWith(t, registry, options).Run("", nil) }, "redtasktest: redtask: invalid input")
		fails(t, func(t testing.TB) { NewWith(t, nil, Options{RedisURL: url, Idle: true}).Run("test/greet", nil) }, "this harness is idle")
		fails(t, func(t testing.TB) {
			h := NewWith(t, nil, Options{RedisURL: url, Idle: true, Timeout: time.Millisecond})
			h.Collect(start(t, h.Client, "test/greet", nil))
		}, "is in state WAIT; this harness is idle: nothing runs")
	})
}

// A wait for what cannot come any more ends at once.
func TestNextFailsAtTheEnd(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		registry := registryOf(map[string]redtask.Factory{"test/greet": redtask.FuncOut(greet)})
		fails(t, func(t testing.TB) {
			h := on(t, url, registry, redtask.RunnerOptions{})
			watch := h.Watch(start(t, h.Client, "test/greet", person{Name: "Ann"}))
			watch.Next("greeting")
			watch.Next("greeting")
		}, "is in state ENDED, attempt 1, without a further event \"greeting\"\nevents:", `test/greet greeting "Ann"`)
	})
}

func TestWaitsEndBeforeTheTestBinaryDoes(t *testing.T) {
	t.Parallel()
	fake := attempt(t, time.Now().Add(4*time.Second), func(t testing.TB) {
		h := on(t, Miniredis, registryOf(map[string]redtask.Factory{"test/block": redtask.Func(block)}), redtask.RunnerOptions{})
		require.Less(t, h.patience(), 3*time.Second)
		h.Run("test/block", 0)
	})
	require.True(t, fake.stopped)
	require.Less(t, time.Now(), fake.deadline, "there was time to say why")
	require.Contains(t, fake.text.String(), "is in state RUNNING")
}

func TestRequireState(t *testing.T) {
	t.Parallel()
	registry := registryOf(map[string]redtask.Factory{
		"test/panic": redtask.Func(func(context.Context, any) error { panic("at the disco") }),
		"test/greet": redtask.FuncOut(greet),
	})
	fails(t, func(t testing.TB) {
		on(t, Miniredis, registry, redtask.RunnerOptions{}).Run("test/panic", nil).RequireState(redtask.StateEnded)
	},
		"is in state EXCEPTION, attempt 1: panic: at the disco, not ENDED", "stack:\n", "run_test.go", "events:\n", "exception {")
	fails(t, func(t testing.TB) {
		Output[int](on(t, Miniredis, registry, redtask.RunnerOptions{}).Run("test/greet", nil))
	},
		`output "hello ": `)
	fails(t, func(t testing.TB) {
		Output[int](on(t, Miniredis, registry, redtask.RunnerOptions{}).Run("test/panic", nil))
	}, "no output")
	fails(t, func(t testing.TB) {
		Decode[int](t, on(t, Miniredis, registry, redtask.RunnerOptions{}).Run("test/greet", nil).Events)
	},
		"test/greet running", "cannot unmarshal object")
}

func TestLongListingsAreCut(t *testing.T) {
	t.Parallel()
	events := make(Events, 70)
	for i := range events {
		events[i] = redtask.Event{Name: fmt.Sprintf("tick-%02d", i), Data: []byte(`"` + string(make([]byte, 1000)) + `"`)}
	}
	text := events.listing()
	require.Contains(t, text, "… 20 earlier")
	require.NotContains(t, text, "tick-19")
	require.Contains(t, text, "tick-69")
	require.Contains(t, text, "(cut)")
	require.Less(t, len(text), 51*600)
}
