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
			requests[i] = StartRequest{Task: "test/hang", StartOptions: StartOptions{ID: fmt.Sprintf("%d \"\\", i)}}
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
