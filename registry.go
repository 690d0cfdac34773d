package redtask

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// Factory makes a fresh instance for one run.
type Factory func() Task

// TaskOptions are what a registration says of all tasks of a name. The zero value works.
type TaskOptions struct {
	// Timeout bounds one run, Init and Start with the middleware around them; the task is then told to stop with cause [ErrTimedOut] and ends
	// in EXCEPTION, which a policy may retry. Its ctx has the deadline, for those who ask. At least 1 ms. Default 0: none.
	Timeout time.Duration

	// StopTimeout is what a [Stopper] has from the call of Stop to the return of Start, before Start's ctx is cancelled. At least 1 ms.
	// Default 10 s.
	StopTimeout time.Duration

	// Strict makes typed functions, those of [Func] and [FuncOut], refuse data with fields that their input type lacks. Default false: old
	// runners meet new producers in every deploy.
	Strict bool

	// Keep keeps the records of final tasks from cleanup, once they have run. Default false.
	Keep bool

	// Retry says which ends are no end yet, and when the task runs again; a start may say otherwise. Default nil: no retries.
	Retry *Retry

	// Supervise is for tasks that should always run; a start may say otherwise. It cannot be combined with Retry. Default nil: none.
	Supervise *Supervise

	// LogLines is how many of the last lines of [Run.Logger] are kept in Redis, for [Client.Log]: up to [MaxLogLines]. Default 0: none.
	LogLines int
	// LogLevel is the least level of those lines; a *slog.LevelVar may change while tasks run. Default slog.LevelInfo.
	LogLevel slog.Leveler

	// Limits bound how many tasks of the name run, and begin, across all runners. Default: none.
	Limits Limits

	// Middleware is around each run of the name's tasks, inside that of [RunnerOptions.Middleware]; the first is the outermost. Default: none.
	Middleware []Middleware
}

func (o *TaskOptions) faults(name string) []error {
	where := fmt.Sprintf("task %q", name)
	var faults []error
	for name, d := range map[string]time.Duration{"Timeout": o.Timeout, "StopTimeout": o.StopTimeout} {
		if d != 0 && d < time.Millisecond {
			faults = append(faults, fmt.Errorf("%w: %s: %s %s: use at least 1ms; is its unit missing?", ErrInvalid, where, name, d))
		}
	}
	if o.LogLines < 0 || o.LogLines > MaxLogLines {
		faults = append(faults, fmt.Errorf("%w: %s: LogLines %d: use 1 to %d, or 0 for none", ErrInvalid, where, o.LogLines, MaxLogLines))
	}
	if o.Retry != nil && o.Supervise != nil {
		faults = append(faults, fmt.Errorf("%w: %s: both Retry and Supervise: a supervised task has no attempts that could be used up; use one of them",
			ErrInvalid, where))
	}
	faults = append(faults, o.Retry.faults(where)...)
	faults = append(faults, o.Supervise.faults(where)...)
	faults = append(faults, middlewareFaults(where, o.Middleware)...)
	return append(faults, o.Limits.faults(where)...)
}

func (o TaskOptions) withDefaults() TaskOptions {
	setDefault(&o.StopTimeout, defaultStopTimeout)
	o.Retry, o.Supervise = o.Retry.withDefaults(), o.Supervise.withDefaults()
	o.Middleware = slices.Clone(o.Middleware)
	return o
}

const defaultStopTimeout = 10 * time.Second

type entry struct {
	name    string
	factory Factory
	options TaskOptions
	terms   terms   // of the runs of plain starts
	local   bool    // one of RunnerOptions.Locals
	handler Handler // with the middleware that is around its runs; nil without any
}

func newEntry(name string, factory Factory, options TaskOptions) *entry {
	return &entry{
		name: name, factory: factory, options: options,
		terms: terms{retry: options.Retry, supervise: options.Supervise, timeout: options.Timeout},
	}
}

// Registry holds the names of tasks that a runner can run. The zero value is an empty one. Its methods may be
// called from any goroutine, but a runner reads it once, when it is made.
type Registry struct {
	mu      sync.RWMutex
	entries map[string]*entry
}

// NewRegistry makes an empty registry.
func NewRegistry() *Registry { return &Registry{entries: map[string]*entry{}} }

// Register adds a task with default options. Its name is `app/name`: letters, digits, `_`, `-` and `.` in two or more parts that are joined by
// `/`, at most 128 bytes; `redtask/` is the library's. Like http.Handle it panics on what can only be a programming mistake: a bad name, a
// name taken, no factory.
func (r *Registry) Register(name string, factory Factory) {
	r.RegisterWith(name, factory, TaskOptions{})
}

// RegisterWith is [Registry.Register] with options; it panics on bad ones, all faults at once.
func (r *Registry) RegisterWith(name string, factory Factory, options TaskOptions) {
	if err := r.register(name, factory, options); err != nil {
		panic(err)
	}
}

func (r *Registry) register(name string, factory Factory, options TaskOptions) error {
	faults := options.faults(name)
	if err := checkName(name); err != nil {
		faults = append(faults, err)
	}
	if strings.HasPrefix(name, reservedApp) {
		faults = append(faults, fmt.Errorf("%w: task name %q: redtask/ is reserved for the tasks of the library; use your application's name", ErrInvalid, name))
	}
	if factory == nil {
		faults = append(faults, fmt.Errorf("%w: task %q: the factory is nil", ErrInvalid, name))
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.entries == nil {
		r.entries = map[string]*entry{}
	}
	if r.entries[name] != nil {
		return fmt.Errorf("%w: task %q is registered already", ErrInvalid, name)
	}
	r.entries[name] = newEntry(name, factory, options.withDefaults())
	return nil
}

// Names lists the registered names, sorted.
func (r *Registry) Names() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Sorted(maps.Keys(r.entries))
}

func (r *Registry) snapshot() map[string]*entry {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return maps.Clone(r.entries)
}

const (
	maxName     = 128
	reservedApp = "redtask/"
)

var namePattern = regexp.MustCompile(`^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)+$`)

func checkName(name string) error {
	if len(name) > maxName || !namePattern.MatchString(name) {
		return fmt.Errorf("%w: task name %.160q: use `app/name`: letters, digits, `_`, `-`, `.` in parts joined by `/`, at most %d bytes",
			ErrInvalid, name, maxName)
	}
	return nil
}

// nearest finds the name that someone who wrote name may have meant, or "". What stands before the last part is often the same in all
// names, so only the last part says how many slips are likely.
func nearest(name string, names []string) string {
	last := name[strings.LastIndexByte(name, '/')+1:]
	best, least := "", len(last)/3+1
	for _, candidate := range names {
		if d := distance(name, candidate); d <= least {
			best, least = candidate, d-1
		}
	}
	for i := 0; best == "" && i < len(names); i++ {
		if strings.HasSuffix(names[i], "/"+last) {
			best = names[i] // the application's part is missing, or another one
		}
	}
	return best
}

// distance counts the single-character edits between two names (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
