package redtask

import (
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// What a runner or a client decides by must be what the master has.
func TestClientsThatReadFromReplicasAreRefused(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}, RouteByLatency: true})
	t.Cleanup(func() { _ = rdb.Close() })
	_, err := NewClient(rdb, ClientOptions{})
	require.ErrorIs(t, err, ErrInvalid)
	require.ErrorContains(t, err, "NewClient: this *redis.ClusterClient reads from replicas")
	_, err = NewRunner(rdb, NewRegistry(), RunnerOptions{})
	require.ErrorIs(t, err, ErrInvalid)
	require.ErrorContains(t, err, "NewRunner: this *redis.ClusterClient reads from replicas")
}
