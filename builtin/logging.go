package builtin

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/redtask/redtask"
)

// LoggingOptions configure [Logging]. The zero value works. A level may be a *slog.LevelVar, to be changed while runners work; one that the
// logger's handler does not take leaves the line out.
type LoggingOptions struct {
	// Start is the level of `task starts`. Default slog.LevelInfo.
	Start slog.Leveler
	// End is the level of `task returned` where the run ended well, or as it was told to. Default slog.LevelInfo.
	End slog.Leveler
	// Failure is the level of `task returned` where the outcome is ERROR or EXCEPTION; the runner logs each EXCEPTION as well, with the
	// stack of a panic. Default slog.LevelWarn.
	Failure slog.Leveler
}

// Logging makes middleware that logs each run of a task, when it starts and when it returned, with [redtask.Run.Logger], so with the run's
// attributes. The second line has the `duration`, the `outcome` that [redtask.Run.Outcome] tells, and the `error` if there is one. Put
// it outermost to see what other middleware makes of an error.
func Logging(o LoggingOptions) redtask.Middleware {
	return func(next redtask.Handler) redtask.Handler {
		return func(ctx context.Context, task redtask.Task) error {
			run := redtask.FromContext(ctx)
			run.Logger().Log(ctx, level(o.Start, slog.LevelInfo), "task starts")
			began, err := time.Now(), errExited
			defer func() { o.returned(ctx, run, time.Since(began), err) }()
			err = next(ctx, task)
			return err
		}
	}
}

var errExited = errors.New("the task ended its goroutine")

func (o *LoggingOptions) returned(ctx context.Context, run *redtask.Run, duration time.Duration, err error) {
	outcome := run.Outcome(err)
	attributes := []slog.Attr{slog.Duration("duration", duration), slog.String("outcome", string(outcome))}
	if err != nil {
		attributes = append(attributes, slog.Any("error", err))
	}
	at := level(o.End, slog.LevelInfo)
	if outcome == redtask.StateError || outcome == redtask.StateException {
		at = level(o.Failure, slog.LevelWarn)
	}
	run.Logger().LogAttrs(ctx, at, "task returned", attributes...)
}

func level(chosen slog.Leveler, otherwise slog.Level) slog.Level {
	if chosen == nil {
		return otherwise
	}
	return chosen.Level()
}
