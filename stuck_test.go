package redtask

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// When a lease is lost all tasks that hang are reported at once: each with its own stack, in a time that is not quadratic in their number.
func TestManyStuckTasks(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		const n = 2000
		gate := newGate(t)
		running := make(chan struct{}, n)
		registry := NewRegistry()
		registry.Register("test/hang", Func(func(context.Context, any) error { running <- struct{}{}; gate.wait(); return nil }))
		runner := e.runner(t, registry, func(o *RunnerOptions) {
			o.Queues, o.StuckAfter, o.Locals = map[string]int{"default": n}, 100*time.Millisecond, []Local{}
		})
		requests := make([]StartRequest, n)
		for i := range requests {
			requests[i] = StartRequest{Task: "test/hang", Options: StartOptions{ID: fmt.Sprintf("%d \"\\", i)}}
		}
		_, err := e.client(t).StartMany(testContext(t), requests)
		require.NoError(t, err)
		for range n {
			receive(t, "runs", running)
		}
		runner.engines["default"].loseAll()
		eventually(t, "all are reported", func() bool { return strings.Count(e.log.String(), "ignores that it was told") == n })
		require.Equal(t, n, strings.Count(e.log.String(), "TestManyStuckTasks"), "each with the place where it hangs")
		require.NotContains(t, e.log.String(), "the goroutine is gone")
		gate.open()
	})
}

// A task that ignores its ctx keeps its slot until its goroutine has returned, and is reported once.
func TestStuckTaskKeepsItsSlot(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		hold := newGate(t)
		running := make(chan string, 10)
		registry := NewRegistry()
		registry.Register("test/hang", Func(func(ctx context.Context, _ any) error {
			running <- FromContext(ctx).ID()
			hold.wait()
			return nil
		}))
		registry.Register("test/next", Func(func(ctx context.Context, _ any) error { running <- FromContext(ctx).ID(); return nil }))
		runner := e.runner(t, registry, func(o *RunnerOptions) {
			longLease(o)
			o.Queues, o.StuckAfter = map[string]int{"default": 1, "clock": 1}, 30*time.Millisecond
		})
		client := e.client(t)
		watched, err := client.Watch(testContext(t), "stuck")
		require.NoError(t, err)
		_, err = client.StartWith(testContext(t), "test/hang", nil, StartOptions{ID: "stuck"})
		require.NoError(t, err)
		require.Equal(t, "stuck", receive(t, "runs", running))
		next := start(t, client, "test/next", nil)
		require.NoError(t, client.Stop(testContext(t), "stuck"))
		counted := func(client *Client) int64 {
			counts, err := client.Counts(testContext(t))
			require.NoError(t, err)
			return counts.Stuck
		}
		eventually(t, "it is reported", func() bool { return counted(client) == 1 })
		lookOnce(t, runner.engines["default"])
		require.Empty(t, running, "nothing runs in its slot")
		require.Zero(t, runner.engines["default"].free.Load())

		// Another one that is told now is reported after as much time: enough for a second report of the first.
		clock := client.ForQueue("clock")
		other := start(t, clock, "test/hang", nil)
		require.Equal(t, other, receive(t, "runs", running))
		require.NoError(t, clock.Stop(testContext(t), other))
		eventually(t, "it is reported", func() bool { return counted(clock) == 1 })
		hold.open()
		var kinds []string
		for event := range watched {
			kinds = append(kinds, event.Name)
		}
		require.Equal(t, []string{"running", "stuck", "stopped"}, kinds)
		require.Equal(t, next, receive(t, "the next one has the slot", running))
		require.Equal(t, StateEnded, wait(t, client, next).State)
		require.EqualValues(t, 1, counted(client))
	})
}

// What ProvideContext gave is released after the last method returned: Stop may return long after Start. It is reported like any method
// that does not return.
func TestReleaseWaitsForStop(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		hold := newGate(t)
		running, order := make(chan struct{}), make(chan string, 10)
		registry := NewRegistry()
		registry.Register("test/slow", func() Task {
			quit := make(chan struct{})
			return (&script{
				provide: func(ctx context.Context) (context.Context, func(), error) {
					return ctx, func() { order <- "release" }, nil
				},
				start: func(context.Context) error {
					close(running)
					<-quit
					order <- "Start"
					return nil
				},
				stop: func(context.Context) error {
					close(quit)
					hold.wait()
					order <- "Stop"
					return nil
				},
			}).task()
		})
		e.runner(t, registry, func(o *RunnerOptions) { longLease(o); o.StuckAfter = 30 * time.Millisecond })
		client := e.client(t)
		id := start(t, client, "test/slow", nil)
		receive(t, "runs", running)
		require.NoError(t, client.Stop(testContext(t), id))
		eventually(t, "Stop is reported, long after Start has returned", func() bool { return e.log.has("method=Stop") })
		hold.open()
		require.Equal(t, StateStopped, wait(t, client, id).State)
		for _, want := range []string{"Start", "Stop", "release"} {
			require.Equal(t, want, receive(t, want, order))
		}
	})
}
