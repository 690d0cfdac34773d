package builtin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/redtask/redtask"
	"github.com/redtask/redtask/internal/cleanup"
)

const (
	// Forever as [Retention.Age] keeps records however old they are.
	Forever time.Duration = math.MaxInt64
	// Unlimited as [Retention.Count] keeps records however many they are.
	Unlimited = math.MaxInt
)

// Retention says which records of one final state stay. Zero fields have the state's default.
type Retention struct {
	// Age is how long after its end a record stays, exact to the [CleanupOptions.Interval]. Default 24 h for ENDED and STOPPED, 7 days for
	// ERROR and EXCEPTION.
	Age time.Duration
	// Count is how many records stay, the newest. Default 10,000.
	Count int
}

// CleanupOptions configure the cleanup. The zero value works.
type CleanupOptions struct {
	// Interval is the time between two rounds. At least 10 ms. Default 10 s.
	Interval time.Duration

	// Retention says what stays, by final state. A state that is not in it has the default.
	Retention map[redtask.State]Retention

	// Handler is called with each record before it is removed, to archive it, say. An error or a panic is logged, and keeps the record until
	// the next round, where Handler gets it again; so does a runner's death at the wrong moment. Records that are to be kept do not
	// come here. Its ctx ends with the runner, or after HandlerTimeout; [redtask.FromContext] gives the client. Default: none.
	Handler func(ctx context.Context, record *redtask.Record) error
	// HandlerTimeout bounds one call of Handler. Default 10 s.
	HandlerTimeout time.Duration

	// Logger gets what went wrong. Default: that of the runner.
	Logger *slog.Logger
}

// Cleanup makes the task redtask/cleanup for [redtask.RunnerOptions.Locals]. In each queue one runner's cleanup works at a time.
// It never touches a task that waits or runs, nor a record that a task or a registration keeps.
func Cleanup(o CleanupOptions) redtask.Local {
	options := cleanup.Options{
		Interval: o.Interval, Retention: cleanup.DefaultRetention(), HandlerTimeout: o.HandlerTimeout, Logger: o.Logger,
	}
	if o.Handler != nil {
		options.Handler = func(ctx context.Context, id string) error { return handle(ctx, id, o.Handler) }
	}
	for i := range options.Retention {
		kept := &options.Retention[i]
		wanted := o.Retention[redtask.State(kept.State)]
		if wanted.Age != 0 {
			kept.Age = wanted.Age
		}
		if wanted.Count != 0 {
			kept.Count = wanted.Count
		}
	}
	return redtask.Local{Name: cleanup.Name, Err: o.check(), New: func() redtask.Task { return cleanup.New(options) }}
}

func (o *CleanupOptions) check() error {
	f := faults{task: cleanup.Name}
	f.duration("Interval", o.Interval, 10*time.Millisecond)
	f.duration("HandlerTimeout", o.HandlerTimeout, time.Millisecond)
	for _, state := range slices.Sorted(maps.Keys(o.Retention)) {
		r := o.Retention[state]
		if !state.Final() {
			f.add("Retention of state %q: use one of the final states ENDED, ERROR, EXCEPTION, STOPPED", state)
		}
		if r.Age < 0 || r.Count < 0 {
			f.add("Retention of state %s: Age %s and Count %d must not be negative", state, r.Age, r.Count)
		}
	}
	return f.err()
}

// handle reads the record and calls the application. One that is gone, or no record at all, needs no handling.
func handle(ctx context.Context, id string, handler func(context.Context, *redtask.Record) error) (err error) {
	record, err := redtask.FromContext(ctx).Client().Get(ctx, id)
	if errors.Is(err, redtask.ErrNotFound) || errors.Is(err, redtask.ErrWrongType) {
		return nil
	}
	if err != nil {
		return err
	}
	if record.Keep || !record.State.Final() {
		return nil
	}
	defer func() {
		if value := recover(); value != nil {
			err = fmt.Errorf("panic: %v", value)
		}
	}()
	return handler(ctx, record)
}
