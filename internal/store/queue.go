package store

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// Pause keeps runners from claiming.
func (q *Queue) Pause(ctx context.Context) error {
	if err := q.rdb.SetNX(ctx, q.keys.paused, time.Now().UnixMilli(), 0).Err(); err != nil {
		return fmt.Errorf("pause queue %q: %w", q.name, explain(err))
	}
	return nil
}

// Resume lets runners claim again, and tells them.
func (q *Queue) Resume(ctx context.Context) error {
	_, err := q.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.Del(ctx, q.keys.paused)
		p.Publish(ctx, q.keys.control(""), Resume)
		return nil
	})
	if err != nil {
		return fmt.Errorf("resume queue %q: %w", q.name, explain(err))
	}
	return nil
}

// Reschedule makes a task that waits due at another time, Unix ms, or after a delay if that is not 0.
func (q *Queue) Reschedule(ctx context.Context, id string, at int64, delay time.Duration) error {
	_, err := q.control(ctx, scriptReschedule, id, []string{q.keys.wait, q.keys.scheduled}, at, delay.Milliseconds())
	return err
}
