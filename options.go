package redtask

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/redtask/redtask/internal/cleanup"
	"github.com/redtask/redtask/internal/cron"
	"github.com/redtask/redtask/internal/monitor"
)

const (
	// DefaultPrefix begins the names of all keys.
	DefaultPrefix = "redtask"
	// DefaultQueue is where tasks go that name no other.
	DefaultQueue = "default"
)

// RunnerOptions configure a [Runner]. The zero value works: one queue, `default`, 100 tasks at a time.
type RunnerOptions struct {
	// Prefix begins the names of all keys in Redis. Runners and clients that should meet have the same; applications that share a server have
	// different ones, also in different databases of it, since channels know no database. At most [MaxQueue] bytes without braces, spaces and
	// control characters. Default "redtask".
	Prefix string

	// Queues maps each queue that this runner serves to how many of its tasks may run at once: at least 1, and as many as memory allows,
	// since a running task costs Redis nothing. Names are as Prefix is. Default {"default": 100}.
	Queues map[string]int

	// Lease is how long this runner's tasks stay its own without a sign of life from it; then others take them over. At least 1.5 s.
	// Default 15 s.
	Lease time.Duration
	// RenewInterval is the time between two signs of life. At least 10 ms. Default a third of Lease.
	RenewInterval time.Duration
	// SafetyMargin is how long before the end of its lease a runner that cannot renew it cancels its tasks, so that they end before others
	// begin. RenewInterval + SafetyMargin must be less than Lease. Default a third of Lease.
	SafetyMargin time.Duration

	// Grace is what tasks without [Stopper] have at shutdown to end by themselves, before their ctx is cancelled. Default 5 s; NoGrace for
	// none.
	Grace time.Duration
	// StuckAfter is how long a task may ignore its cancelled ctx before it is reported, and how long beyond Grace and the tasks' StopTimeout
	// [Runner.Run] waits for such tasks at shutdown. Default 10 s.
	StuckAfter time.Duration

	// EventBuffer is how many events of a queue's tasks may be unsent; 64 MiB of them are a bound as well. What the Init of a reload emits,
	// and goes out when the new instance takes over, has the same bounds. [Run.Emit] says what a full buffer does. Default 10,000.
	EventBuffer int

	// MaxData bounds a task's data, its output, a checkpoint, a progress report, and one event's data, each, in bytes. A task with more data
	// ends in EXCEPTION, a call with more is refused. Default 1 MiB.
	MaxData int

	// Locals are the tasks that run in each queue of this runner as part of it. Default: monitor, cleanup and cron as [builtin] configures them by
	// default; an empty list that is not nil leaves them out: then another runner of the queue must have them.
	//
	// [builtin]: https://pkg.go.dev/github.com/redtask/redtask/builtin
	Locals []Local

	// Cron are entries of the schedule that this runner declares, in the queue of its [Runner.Client]: it writes them to Redis when it
	// starts, as [Cron.Add] does. An entry that is not declared any more stays, since other runners may declare it still, as in every deploy:
	// [Cron.Remove] removes it. Default: none.
	Cron []CronEntry

	// OnException is called in the task's goroutine when a run ends in EXCEPTION, also where the task is retried (see [Run.RetryIn]), before
	// its state is written, with the run's context but without its cancellation. A panic in it is logged. Default: none; exceptions are
	// logged anyway.
	OnException []ExceptionHandler

	// Middleware is around each run of all tasks but those of the library, `redtask/…`; the first is the outermost. Default: none.
	Middleware []Middleware

	// Headers is what [ClientOptions.Headers] is, for tasks that are started by this runner's client and by its tasks. Default nil.
	Headers func(ctx context.Context) map[string]string

	// Logger gets what operators should know. Default slog.Default().
	Logger *slog.Logger

	hooks hooks
}

// minLease is more than the shortest time that a call can block in Redis; see blocksFor.
const minLease = 1500 * time.Millisecond

// minRenewInterval is far more often than any use needs, and no load for Redis.
const minRenewInterval = 10 * time.Millisecond

// NoGrace as [RunnerOptions.Grace] cancels tasks at once at shutdown.
const NoGrace time.Duration = -1

// ExceptionHandler gets the error of a run that ended in EXCEPTION; a panic is a [*PanicError].
type ExceptionHandler func(ctx context.Context, run *Run, err error)

// Local is a task that belongs to a runner; see [RunnerOptions.Locals].
type Local struct {
	Name string // `redtask/…` is allowed here
	New  Factory
	Err  error // what is wrong with its options; [NewRunner] returns it
}

// hooks let this package's tests see, and stop at, what happens between two lines. Nil ones do nothing.
type hooks struct {
	registered func(queue string)
	renewed    func(queue string)
	fenced     func(queue string)
	reconciled func(queue string)
	idle       func(queue string) // about to wait in Redis, whatever a claim says meanwhile
	listening  func(queue string)

	memoryChecked func(queue string)
}

func call(hook func(string), queue string) {
	if hook != nil {
		hook(queue)
	}
}

func defaultLocals() []Local {
	return []Local{
		{Name: monitor.Name, New: func() Task { return monitor.New(monitor.Options{}) }},
		{Name: cleanup.Name, New: func() Task { return cleanup.New(cleanup.Options{}) }},
		{Name: cron.Name, New: func() Task { return cron.New(cron.Options{}) }},
	}
}

func (o RunnerOptions) withDefaults() RunnerOptions {
	o.Queues = maps.Clone(o.Queues)
	o.Locals = slices.Clone(o.Locals)
	o.Middleware = slices.Clone(o.Middleware)
	setDefault(&o.Prefix, DefaultPrefix)
	if o.Queues == nil {
		o.Queues = map[string]int{DefaultQueue: 100}
	}
	setDefault(&o.Lease, 15*time.Second)
	setDefault(&o.RenewInterval, o.Lease/3)
	setDefault(&o.SafetyMargin, o.Lease/3)
	setDefault(&o.Grace, 5*time.Second)
	setDefault(&o.StuckAfter, 10*time.Second)
	setDefault(&o.EventBuffer, 10_000)
	setDefault(&o.MaxData, DefaultMaxData)
	setDefault(&o.Logger, slog.Default())
	if o.Locals == nil {
		o.Locals = defaultLocals()
	}
	return o
}

// claimsFor is how long after a renewal a runner still takes tasks: halfway between the next renewal and the fence.
func (o *RunnerOptions) claimsFor() time.Duration {
	return (o.RenewInterval + o.Lease - o.SafetyMargin) / 2
}

// blocksFor is how long a call that waits for tasks blocks in Redis: a slow poll behind the push. A server that has not noticed that the
// runner is gone moves an ID into its inbox until then. So the call should end before the lease does; see silence.
func (o *RunnerOptions) blocksFor() time.Duration {
	longest := min(5*time.Second, o.Lease-o.claimsFor())
	return max(time.Second, longest.Truncate(time.Second)) // whole seconds are what go-redis can send
}

// silence is after how long without a renewal nothing of this runner is left: its tasks are cancelled, no blocked call fills its inbox.
func (o *RunnerOptions) silence() time.Duration {
	return max(o.Lease-o.SafetyMargin, o.claimsFor()+o.blocksFor())
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// validate reports all faults at once.
func (o *RunnerOptions) validate() error {
	var faults []error
	add := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...)))
	}
	if err := checkPart("prefix", o.Prefix); err != nil {
		faults = append(faults, err)
	}
	if len(o.Queues) == 0 {
		add("RunnerOptions.Queues is empty: name at least one queue")
	}
	for _, queue := range slices.Sorted(maps.Keys(o.Queues)) {
		if err := checkPart("queue", queue); err != nil {
			faults = append(faults, err)
		}
		if n := o.Queues[queue]; n < 1 {
			add("queue %q: %d tasks at once: use at least 1", queue, n)
		}
	}
	switch { // by default the others follow from Lease: of what follows from a bad one nobody needs to hear
	case o.Lease < minLease:
		add("Lease %s: use at least %s; is its unit missing?", o.Lease, minLease)
	case o.RenewInterval < minRenewInterval:
		add("RenewInterval %s: use at least %s; is its unit missing?", o.RenewInterval, minRenewInterval)
	case o.SafetyMargin < 0:
		add("SafetyMargin %s is negative", o.SafetyMargin)
	case o.RenewInterval+o.SafetyMargin >= o.Lease:
		add("RenewInterval %s and SafetyMargin %s together must be less than Lease %s", o.RenewInterval, o.SafetyMargin, o.Lease)
	}
	if o.Grace < 0 && o.Grace != NoGrace {
		add("Grace %s is negative: use NoGrace for none", o.Grace)
	}
	if o.StuckAfter < 0 {
		add("StuckAfter %s is negative", o.StuckAfter)
	}
	if o.EventBuffer < 1 {
		add("EventBuffer %d: use at least 1", o.EventBuffer)
	}
	if err := checkMaxData(o.MaxData); err != nil {
		faults = append(faults, err)
	}
	if slices.ContainsFunc(o.OnException, func(handle ExceptionHandler) bool { return handle == nil }) {
		add("OnException holds a nil handler")
	}
	faults = append(faults, middlewareFaults("RunnerOptions", o.Middleware)...)
	faults = append(faults, checkLocals(o.Locals)...)
	faults = append(faults, o.checkCron()...)
	return errors.Join(faults...)
}

func (o *RunnerOptions) checkCron() []error {
	var faults []error
	if len(o.Cron) > 0 && !slices.ContainsFunc(o.Locals, func(local Local) bool { return local.Name == cron.Name }) {
		faults = append(faults, fmt.Errorf("%w: Cron declares entries, and Locals leave %s out, which lets them fire", ErrInvalid, cron.Name))
	}
	seen := map[string]bool{}
	for i := range o.Cron {
		if _, err := o.Cron[i].encode(o.MaxData, true); err != nil {
			faults = append(faults, err)
		}
		if seen[o.Cron[i].Name] {
			faults = append(faults, fmt.Errorf("%w: cron entry %q is declared twice", ErrInvalid, o.Cron[i].Name))
		}
		seen[o.Cron[i].Name] = true
	}
	return faults
}

func checkLocals(locals []Local) []error {
	var faults []error
	seen := map[string]bool{}
	for _, local := range locals {
		if err := checkName(local.Name); err != nil {
			faults = append(faults, err)
		}
		if local.Err != nil {
			faults = append(faults, local.Err)
		}
		if local.New == nil {
			faults = append(faults, fmt.Errorf("%w: local task %q: New is nil", ErrInvalid, local.Name))
		}
		if seen[local.Name] {
			faults = append(faults, fmt.Errorf("%w: local task %q is listed twice", ErrInvalid, local.Name))
		}
		seen[local.Name] = true
	}
	return faults
}
