package builtin

import (
	"log/slog"
	"time"

	"github.com/redtask/redtask"
	"github.com/redtask/redtask/internal/cron"
)

// CronOptions configure the cron. The zero value works.
type CronOptions struct {
	// Interval is the longest time between two looks at the schedule. It is a safety net: a cron sleeps until the next entry is due, and is
	// told of changes. At least 10 ms. Default 10 s.
	Interval time.Duration
	// Late is how long ago a time may be that is started all the same where [redtask.MissedSkip] holds. At least 1 ms. Default 1 min.
	Late time.Duration
	// Logger gets what was left out, and what is wrong with an entry. Default: that of the runner.
	Logger *slog.Logger
}

// Cron makes the task redtask/cron for [redtask.RunnerOptions.Locals]. It lets the entries of a queue's schedule fire; see
// [redtask.Client.Cron]. Any number of them may work in one queue, and none leads: each time of an entry is one atomic step in Redis, by the
// clock of Redis.
func Cron(o CronOptions) redtask.Local {
	f := faults{task: cron.Name}
	f.duration("Interval", o.Interval, 10*time.Millisecond)
	f.duration("Late", o.Late, time.Millisecond)
	return redtask.Local{Name: cron.Name, Err: f.err(), New: func() redtask.Task { return cron.New(cron.Options(o)) }}
}
