package main

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// taskName is the name of the one kind of task that every peer works.
const taskName = "noop"

// poolSize is how many connections a system with this concurrency may open: one for each worker and some for the rest, up to a bound that
// keeps 10,000 workers below Redis' limit of clients. With as many as 1,100 no peer is faster.
func poolSize(concurrency int) int { return min(concurrency+8, 128) }

// newProbe connects to a server to count finished tasks with, so that the count does not wait for a connection of the workers.
func newProbe(addr string) *redis.Client {
	return redis.NewClient(&redis.Options{Addr: addr, PoolSize: 2})
}

// stopAfter calls stop once ctx ends, and returns what waits until it has returned.
func stopAfter(ctx context.Context, stop func()) (wait func()) {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		stop()
	}()
	return func() { <-stopped }
}
