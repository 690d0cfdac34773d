// Package cleanup is the task redtask/cleanup: it removes the records of final tasks that are too old or too many. One cleaner works
// in a queue at a time, so any number may stand by.
package cleanup

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/redtask/redtask/internal/store"
)

const Name = "redtask/cleanup"

const batch = 500

// Options of a cleanup; builtin.CleanupOptions documents them.
type Options struct {
	Interval  time.Duration
	Retention []store.Retention
	// Handler is called with each ID before its record goes; an error keeps the record until the next round.
	Handler func(ctx context.Context, id string) error
	Logger  *slog.Logger
}

// Task cleans one queue.
type Task struct {
	options Options
	queue   *store.Queue
	runner  string
}

func New(options Options) *Task {
	if options.Interval == 0 {
		options.Interval = 10 * time.Second
	}
	if options.Retention == nil {
		options.Retention = DefaultRetention()
	}
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	return &Task{options: options}
}

// DefaultRetention keeps what worked for a day, and what failed for a week, and of each at most 10,000.
func DefaultRetention() []store.Retention {
	const day = 24 * time.Hour
	return []store.Retention{
		{State: "ENDED", Age: day, Count: 10_000},
		{State: "STOPPED", Age: day, Count: 10_000},
		{State: "ERROR", Age: 7 * day, Count: 10_000},
		{State: "EXCEPTION", Age: 7 * day, Count: 10_000},
	}
}

func (t *Task) Init(ctx context.Context, _ json.RawMessage) error {
	t.queue, t.runner = store.FromContext(ctx)
	return nil
}

func (t *Task) Start(ctx context.Context) error {
	timer := time.NewTimer(t.options.Interval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		if err := t.clean(ctx); err != nil && ctx.Err() == nil {
			t.options.Logger.WarnContext(ctx, "cleanup failed; it goes on trying", "queue", t.queue.Name(), "error", err)
		}
		timer.Reset(t.options.Interval)
	}
}

// clean removes batches until nothing is due that it can remove.
func (t *Task) clean(ctx context.Context) error {
	for ctx.Err() == nil {
		due, err := t.queue.Expired(ctx, t.runner, 2*t.options.Interval, batch, t.options.Retention)
		if err != nil {
			return err
		}
		full, swept := false, 0
		for state, ids := range due {
			full = full || len(ids) == batch
			ids = t.handle(ctx, ids)
			if len(ids) == 0 {
				continue
			}
			if _, err := t.queue.Sweep(ctx, state, ids); err != nil {
				return err
			}
			swept += len(ids)
		}
		if !full || swept == 0 {
			return nil
		}
	}
	return nil
}

// handle returns the IDs that may go.
func (t *Task) handle(ctx context.Context, ids []string) []string {
	if t.options.Handler == nil {
		return ids
	}
	handled := make([]string, 0, len(ids))
	for _, id := range ids {
		if ctx.Err() != nil {
			break
		}
		if err := t.options.Handler(ctx, id); err != nil {
			t.options.Logger.WarnContext(ctx, "cleanup handler failed; the record stays until the next round", "id", id, "error", err)
			continue
		}
		handled = append(handled, id)
	}
	return handled
}
