package redtask

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Once it has begun, a task's expiry is over: a retry that comes later runs.
func TestExpiryIsForTheFirstRun(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.RegisterWith("test/flaky", failing(errSurprise), TaskOptions{Retry: &Retry{Attempts: 2, Backoff: Constant(time.Hour)}})
		e.runner(t, registry, nil)
		client := e.client(t)
		next := kinds(t, client, "id")
		_, err := client.StartWith(testContext(t), "test/flaky", nil, StartOptions{ID: "id", Expiry: time.Hour})
		require.NoError(t, err)
		next(EventScheduled)
		e.do(t, "HSET", e.key("task:id"), "expires_at", 1) // the hour is over
		require.NoError(t, client.RescheduleIn(testContext(t), "id", 0))
		require.Equal(t, StateEnded, wait(t, client, "id").State)
	})
}
