package store

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// Log reads the lines of a task's log, the oldest first; ErrMissing if there is no such task.
func (q *Queue) Log(ctx context.Context, id string) ([]string, error) {
	var exists *redis.IntCmd
	var lines *redis.StringSliceCmd
	_, err := q.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		exists, lines = p.Exists(ctx, q.keys.task(id)), p.LRange(ctx, q.keys.log(id), 0, -1)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the log of task %q: %w", id, explain(err))
	}
	if exists.Val() == 0 {
		return nil, fmt.Errorf("read the log of %q in queue %q: %w", id, q.name, ErrMissing)
	}
	return lines.Val(), nil
}
