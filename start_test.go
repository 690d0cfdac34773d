package redtask

import (
	"slices"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// While one start is under way all others gather, and go out in one call.
func TestStartsShareACall(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		const n = 100
		var calls atomic.Int64
		under, release := make(chan struct{}), newGate(t)
		own := e.answered(t, func(next func() error, cmd *redis.Cmd) error {
			if slices.Contains(cmd.Args(), any("test/many")) && calls.Add(1) == 1 {
				close(under)
				release.wait()
			}
			return next()
		})
		client := own.client(t)
		results := make(chan error, n+1)
		begin := func() {
			_, err := client.Start(testContext(t), "test/many", nil)
			results <- err
		}
		go begin()
		receive(t, "a call under way", under)
		for range n {
			go begin()
		}
		eventually(t, "all wait for it", func() bool {
			client.starter.mu.Lock()
			defer client.starter.mu.Unlock()
			return len(client.starter.waiting) == n
		})
		release.open()
		for range n + 1 {
			require.NoError(t, receive(t, "started", results))
		}
		require.EqualValues(t, 2, calls.Load(), "calls for %d starts", n+1)
		require.EqualValues(t, n+1, e.rdb.LLen(t.Context(), e.key("wait")).Val())
	})
}
