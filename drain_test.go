package redtask

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Local tasks have no grace: they are told while the others still have theirs.
func TestShutdownTellsLocalsFirst(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		hold := newGate(t)
		running, told := make(chan struct{}, 10), make(chan error, 10)
		local := newBlocker()
		registry := blockRegistry(local)
		registry.Register("test/work", Func(func(ctx context.Context, _ any) error {
			running <- struct{}{}
			hold.wait()
			told <- ctx.Err()
			return ctx.Err()
		}))
		runner := e.runner(t, registry, func(o *RunnerOptions) { longLease(o); o.Grace = time.Hour })
		_, err := runner.StartLocal(testContext(t), "default", "test/block", nil)
		require.NoError(t, err)
		receive(t, "the local task runs", local.running)
		id := start(t, e.client(t), "test/work", nil)
		receive(t, "the other one runs", running)
		result := make(chan error, 1)
		go func() { result <- runner.Shutdown(context.WithoutCancel(t.Context())) }() // without a deadline that shortens the grace
		require.ErrorIs(t, receive(t, "the local task is told", local.causes), ErrShutdown)
		hold.open()
		require.NoError(t, receive(t, "the other one", told), "it was told within its grace")
		require.NoError(t, receive(t, "shutdown", result))
		require.Equal(t, StateEnded, wait(t, e.client(t), id).State)
	})
}
