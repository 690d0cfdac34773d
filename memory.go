package redtask

import (
	"context"
	"strings"

	"github.com/redtask/redtask/internal/store"
)

// checkMemory warns, once in a runner's life, of a Redis that drops keys when it is full. It waits for the lease: then Redis is there. A
// server that does not tell is no fault.
func (r *Runner) checkMemory(ctx context.Context) {
	e := r.engines[r.client.Queue()]
	if e.lease.await(ctx) != nil {
		return
	}
	policy, node, err := e.store.EvictionPolicy(ctx)
	if err != nil {
		e.logger.Debug("not known whether redis keeps all tasks when its memory is full", "error", err)
	}
	if policy != "" && policy != store.NoEviction {
		attrs := []any{"maxmemory_policy", policy}
		if node != "" {
			attrs = append(attrs, "node", node)
		}
		e.logger.Warn(evicts(policy)+": set maxmemory-policy to noeviction, then it refuses new tasks instead", attrs...)
	}
	call(e.options.hooks.memoryChecked, e.queue.Name())
}

// evicts says what a policy costs. Only the lock of redtask/cleanup has a TTL.
func evicts(policy string) string {
	if strings.HasPrefix(policy, "volatile-") {
		return "redis drops keys with a TTL when its memory is full, also the lock by which one redtask/cleanup works at a time"
	}
	return "redis drops tasks when its memory is full"
}
