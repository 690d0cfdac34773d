package builtin

import (
	"log/slog"
	"time"

	"github.com/redtask/redtask"
	"github.com/redtask/redtask/internal/monitor"
)

// MonitorOptions configure the monitor. The zero value works.
type MonitorOptions struct {
	// Interval is the time between two looks at the leases of a queue when one of them is past. While all are good the next look comes when
	// the first of them may be past, or after five intervals. A dead runner's tasks are back in line within its lease plus this. At least
	// 10 ms. Default 1 s.
	Interval time.Duration

	// MaxRecoveries is how often in a row the runner of one task may die before the task is given up and ends in EXCEPTION: it may be what
	// kills them. At least 1. Default 10.
	MaxRecoveries int
	// FirstDelay is how long a task waits at its second recovery in a row; each further one doubles it. The first has no delay. The delays
	// are spread by half up and down. At least 1 ms. Default 1 s.
	FirstDelay time.Duration
	// LongestDelay bounds that delay. Default 1 min.
	LongestDelay time.Duration
	// StableAfter is how long a run must have lasted, up to its runner's last renewal, for its task's recoveries to be forgotten. At least
	// 1 ms. Default 1 min.
	StableAfter time.Duration

	// Logger gets what was taken over. Default: that of the runner.
	Logger *slog.Logger
}

// Monitor makes the task redtask/monitor for [redtask.RunnerOptions.Locals].
//
// It takes over from a runner only if its lease is past by Redis' clock, and was not renewed for lease minus safety margin on the
// monitor's own clock: a Redis clock that jumps, or a failover to an older replica, steals nothing from a runner that lives. Should Redis'
// clock have been set back, a lease is over when it has not changed for as long as it lasts.
func Monitor(o MonitorOptions) redtask.Local {
	f := faults{task: monitor.Name}
	f.duration("Interval", o.Interval, 10*time.Millisecond)
	f.duration("FirstDelay", o.FirstDelay, time.Millisecond)
	f.duration("LongestDelay", o.LongestDelay, time.Millisecond)
	f.duration("StableAfter", o.StableAfter, time.Millisecond)
	if o.MaxRecoveries < 0 {
		f.add("MaxRecoveries %d: use at least 1, or 0 for the default", o.MaxRecoveries)
	}
	return redtask.Local{Name: monitor.Name, Err: f.err(), New: func() redtask.Task { return monitor.New(monitor.Options(o)) }}
}
