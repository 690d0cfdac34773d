package redtask

import (
	"slices"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// While as many calls are under way as may be, all others gather, and go out in one.
func TestStartsShareACall(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		const n = 100
		var calls atomic.Int64
		under, release := make(chan struct{}, maxFlights), newGate(t)
		own := e.answered(t, func(next func() error, cmd *redis.Cmd) error {
			if slices.Contains(cmd.Args(), any("test/many")) && calls.Add(1) <= maxFlights {
				under <- struct{}{}
				release.wait()
			}
			return next()
		})
		client := own.client(t)
		results := make(chan error, n+maxFlights)
		begin := func() {
			_, err := client.Start(testContext(t), "test/many", nil)
			results <- err
		}
		for range maxFlights {
			go begin()
			receive(t, "a call under way", under)
		}
		for range n {
			go begin()
		}
		eventually(t, "all wait for them", func() bool {
			client.starter.mu.Lock()
			defer client.starter.mu.Unlock()
			return len(client.starter.waiting) == n
		})
		release.open()
		for range n + maxFlights {
			require.NoError(t, receive(t, "started", results))
		}
		require.EqualValues(t, maxFlights+1, calls.Load(), "calls for %d starts", n+maxFlights)
		require.EqualValues(t, n+maxFlights, e.rdb.LLen(t.Context(), e.key("wait")).Val())
	})
}
