package store

import (
	"context"
	"fmt"
	"regexp"
	"sync"

	"github.com/redis/go-redis/v9"
)

// NoEviction is the maxmemory-policy with which a full Redis refuses writes and keeps what it has.
const NoEviction = "noeviction"

// EvictionPolicy tells the maxmemory-policy; in a Cluster that of a master which evicts, and its address, if there is one. It reads INFO,
// which more users may do than CONFIG GET.
func (s *Store) EvictionPolicy(ctx context.Context) (policy, node string, err error) {
	cluster, ok := s.rdb.(*redis.ClusterClient)
	if !ok {
		policy, err = evictionPolicy(ctx, s.rdb)
		return policy, "", err
	}
	var mu sync.Mutex
	policy = NoEviction
	err = cluster.ForEachMaster(ctx, func(ctx context.Context, master *redis.Client) error {
		found, err := evictionPolicy(ctx, master)
		mu.Lock()
		defer mu.Unlock()
		if err == nil && found != NoEviction {
			policy, node = found, master.Options().Addr
		}
		return err
	})
	return policy, node, err
}

var policyLine = regexp.MustCompile(`(?m)^maxmemory_policy:(\S+)`)

func evictionPolicy(ctx context.Context, rdb redis.Cmdable) (string, error) {
	info, err := rdb.Info(ctx, "memory").Result()
	if err != nil {
		return "", fmt.Errorf("read the maxmemory-policy: %w", explain(err))
	}
	found := policyLine.FindStringSubmatch(info)
	if found == nil {
		return "", fmt.Errorf("read the maxmemory-policy: INFO memory does not tell it")
	}
	return found[1], nil
}
