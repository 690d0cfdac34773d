package store

import (
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

func TestEvictionPolicyInACluster(t *testing.T) {
	t.Parallel()
	addrs := redistest.Cluster(t)
	rdb := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs})
	t.Cleanup(func() { _ = rdb.Close() })
	s := New(rdb, "p")
	policy, node, err := s.EvictionPolicy(testContext(t))
	require.NoError(t, err)
	require.Equal(t, NoEviction, policy)
	require.Empty(t, node)

	last := redis.NewClient(&redis.Options{Addr: addrs[2]})
	t.Cleanup(func() { _ = last.Close() })
	require.NoError(t, last.ConfigSet(testContext(t), "maxmemory-policy", "volatile-ttl").Err())
	policy, node, err = s.EvictionPolicy(testContext(t))
	require.NoError(t, err)
	require.Equal(t, "volatile-ttl", policy)
	require.Equal(t, addrs[2], node)
}
