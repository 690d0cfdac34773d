// Package builtin configures the tasks that ship with redtask and run in every queue of every runner unless the application says
// otherwise: the monitor, which puts the tasks of dead runners back in line, the cleanup, which removes old records of final tasks, and the
// cron, which starts tasks by the schedule in Redis.
//
// Without any configuration all run with their defaults. To change one, list all; what is left out does not run:
//
//	redtask.RunnerOptions{Locals: []redtask.Local{
//		builtin.Monitor(builtin.MonitorOptions{MaxRecoveries: 3}),
//		builtin.Cleanup(builtin.CleanupOptions{Handler: archive}),
//		builtin.Cron(builtin.CronOptions{}),
//	}}
//
// They run as part of their runner: they take no slot, hold nothing that others wait for, and any number of them may work in a queue
// at the same time. What configures them wrongly is reported by [redtask.NewRunner].
//
// The package also has ready middleware, see [redtask.Middleware]: [Logging] and [Timeout].
package builtin

import (
	"errors"
	"fmt"
	"time"

	"github.com/redtask/redtask"
)

// faults collects what is wrong with the options of one task.
type faults struct {
	task string
	all  []error
}

func (f *faults) add(format string, args ...any) {
	f.all = append(f.all, fmt.Errorf("%w: %s: "+format, append([]any{redtask.ErrInvalid, f.task}, args...)...))
}

func (f *faults) duration(name string, value, least time.Duration) {
	if value != 0 && value < least {
		f.add("%s %s: use at least %s, or 0 for the default", name, value, least)
	}
}

func (f *faults) err() error { return errors.Join(f.all...) }
