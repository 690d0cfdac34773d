// Package cleanup is the task redtask/cleanup: it removes the records of final tasks that are too old or too many. One cleaner works
// in a queue at a time, so any number may stand by.
package cleanup

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"time"

	"github.com/redtask/redtask/internal/store"
)

const Name = "redtask/cleanup"

// A call that removes this many records holds Redis for about a millisecond. With a handler fewer are looked up at a time, so that one
// lock covers all their handlers' timeouts.
const (
	batch        = 200
	handledBatch = 10
)

// Options of a cleanup; builtin.CleanupOptions documents them.
type Options struct {
	Interval  time.Duration
	Retention []store.Retention
	// Handler is called with each ID before its record goes; an error keeps the record until the next round.
	Handler        func(ctx context.Context, id string) error
	HandlerTimeout time.Duration
	Logger         *slog.Logger
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
	if options.HandlerTimeout == 0 {
		options.HandlerTimeout = 10 * time.Second
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
	bound := store.FromContext(ctx)
	t.queue, t.runner = bound.Queue, bound.Runner
	if t.options.Logger == nil {
		t.options.Logger = bound.Logger
	}
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

// clean goes once through what is due: records whose handler failed stay, and do not hide those behind them.
func (t *Task) clean(ctx context.Context) error {
	limit, lock := batch, 2*t.options.Interval
	if t.options.Handler != nil {
		limit, lock = handledBatch, lock+handledBatch*time.Duration(len(t.options.Retention))*t.options.HandlerTimeout
	}
	keep := slices.Clone(t.options.Retention)
	for full := true; full && ctx.Err() == nil; {
		due, err := t.queue.Expired(ctx, t.runner, lock, limit, keep)
		if err != nil {
			return err
		}
		full = false
		for i := range keep {
			tasks := due[keep[i].State]
			full = full || len(tasks) == limit
			failed, err := t.sweep(ctx, keep[i].State, tasks)
			if err != nil {
				return err
			}
			keep[i].Skip += failed
		}
	}
	return nil
}

// sweep returns how many records stay because of their handler.
func (t *Task) sweep(ctx context.Context, state string, tasks []store.Final) (int, error) {
	handled := t.handle(ctx, tasks)
	if len(handled) == 0 {
		return len(tasks), nil
	}
	_, err := t.queue.Sweep(ctx, state, handled)
	return len(tasks) - len(handled), err
}

// handle returns those that may go.
func (t *Task) handle(ctx context.Context, tasks []store.Final) []store.Final {
	if t.options.Handler == nil {
		return tasks
	}
	handled := make([]store.Final, 0, len(tasks))
	for _, task := range tasks {
		if ctx.Err() != nil {
			break
		}
		if err := t.call(ctx, task.ID); err != nil {
			t.options.Logger.WarnContext(ctx, "cleanup handler failed; the record stays until the next round",
				"queue", t.queue.Name(), "id", task.ID, "error", err)
			continue
		}
		handled = append(handled, task)
	}
	return handled
}

func (t *Task) call(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, t.options.HandlerTimeout)
	defer cancel()
	return t.options.Handler(ctx, id)
}
