package redtask

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Handler runs a task: Init, then Start. What it returns means what a return of Start means.
type Handler func(ctx context.Context, task Task) error

// Middleware makes a handler that does something around another one, as is usual for HTTP: trace, measure, log, give values to all tasks.
//
//	func traced(next redtask.Handler) redtask.Handler {
//		return func(ctx context.Context, task redtask.Task) error {
//			ctx, span := tracer.Start(ctx, redtask.FromContext(ctx).Task())
//			defer span.End()
//			return next(ctx, task)
//		}
//	}
//
// It is called once for each task name, when a runner is made. The handler that it returns is called in each run, from many goroutines at
// once: with the fresh instance, before its Init, and with the ctx that ProvideContext made. [FromContext] gives the run. What cannot be run,
// data that is not JSON, say, does not come here.
//
//   - Init and Start get the ctx that reaches them; Stop and exception handlers get its values. The ctx for next must be derived from the
//     one that came: next refuses any other with an error.
//   - What the outermost handler returns is how the run ends. It may wrap an error, make it one of [Fail] or [RetryAfter], or return nil
//     instead. If it does not call next, neither Init nor Start run. [Run.Outcome] says what an error will mean.
//   - next does not panic: it returns a panic of the task, or of a handler further inside, as a [*PanicError]. An error that wraps one
//     stays an EXCEPTION, also in [Fail]. A panic of the outermost handler is one, too.
//   - next is called once. A second call gets an error, and so does one that comes when the handler has returned: to run a task again is for
//     [Retry]. If the handler returns while next is at work in another goroutine, the task's ctx is cancelled; the run ends with what the
//     handler returned, when the task has returned, too.
//   - next runs the task that it is given. If that is not the one that came, its Init, Start and Stop are the ones that count; after a reload
//     only Start and Stop, since the one that came has had its Init: so wrap that one.
//   - Whoever is told to stop after Start has returned and before the handler has, is not told by Stop, but by the end of its ctx.
//
// In a reload the Init of the new instance runs beside the old one, and there may be no Start; no middleware is around that Init. It is
// around the Start, which comes when the old instance has returned through its own: so a handler may take what only one can have, a lock, say.
// What Init needs of its ctx belongs in [ContextProvider].
type Middleware func(next Handler) Handler

func middlewareFaults(where string, middleware []Middleware) []error {
	var faults []error
	for i, m := range middleware {
		if m == nil {
			faults = append(faults, fmt.Errorf("%w: %s: Middleware[%d] is nil", ErrInvalid, where, i))
		}
	}
	return faults
}

// entries are the tasks that a runner can run, with the middleware that is around them.
func (o *RunnerOptions) entries(registry *Registry) (map[string]*entry, error) {
	entries := registry.snapshot()
	for _, local := range o.Locals {
		entries[local.Name] = newEntry(local.Name, local.New, TaskOptions{StopTimeout: defaultStopTimeout})
		entries[local.Name].local = true
	}
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		inside, err := entries[name].within(o.Middleware)
		if err != nil {
			faults = append(faults, err)
		}
		entries[name] = inside
	}
	return entries, errors.Join(faults...)
}

// within puts a runner's middleware, and its own, around an entry: around a copy, since a registry may be that of several runners.
func (e *entry) within(outer []Middleware) (*entry, error) {
	all := slices.Concat(outer, e.options.Middleware)
	if len(all) == 0 || strings.HasPrefix(e.name, reservedApp) {
		return e, nil
	}
	handler := Handler(enter)
	for i, m := range slices.Backward(all) {
		if handler = m(guarded(handler)); handler == nil {
			return nil, fmt.Errorf("%w: task %q: middleware %d of %d, from the outermost, made a nil handler", ErrInvalid, e.name, i+1, len(all))
		}
	}
	inside := *e
	inside.handler = handler
	return &inside, nil
}

func guarded(next Handler) Handler {
	return func(ctx context.Context, task Task) error {
		return guard(func() error { return next(ctx, task) })
	}
}

// passage leads from a run's middleware to its task, once. The run's mu guards it.
type passage struct {
	used     bool
	returned chan struct{} // closed when the task's methods have
}

// handle runs the task within its middleware.
func (r *Run) handle() error {
	p := &passage{returned: make(chan struct{})}
	r.mu.Lock()
	r.passage = p
	r.mu.Unlock()
	defer r.shut(p) // runtime.Goexit in a handler unwinds through here
	return guard(func() error { return r.entry.handler(r.ctx, r.task) })
}

var errLeft = errors.New("redtask: a middleware returned while the task was at work")

// shut lets no next through any more. A task that is still at work, in a goroutine of a middleware, keeps its slot until it returns.
func (r *Run) shut(p *passage) {
	r.mu.Lock()
	r.passage = nil
	r.mu.Unlock()
	if !p.used {
		return
	}
	select {
	case <-p.returned:
	default:
		r.cancel(errLeft)
		r.await(p.returned, "Start")
	}
}

// enter is the innermost handler.
func enter(ctx context.Context, task Task) error {
	r := runOf(ctx)
	if r == nil {
		return errors.New("middleware: the context that it gave to next is not derived from the one it got, with its cancellation")
	}
	p, err := r.pass(ctx, task)
	if err != nil {
		return fmt.Errorf("middleware: %w", err)
	}
	defer r.leave(p)
	return r.work()
}

// pass lets the first next through: until the task returns, its goroutine is the run's.
func (r *Run) pass(ctx context.Context, task Task) (*passage, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case task == nil:
		return nil, errors.New("it gave a nil task to next")
	case r.passage == nil:
		return nil, fmt.Errorf("it called next when the handler of this run of task %q had returned", r.id)
	case r.passage.used:
		return nil, errors.New("it called next a second time: a run is one call of Init and one of Start")
	}
	r.passage.used = true
	r.ctx, r.task = ctx, task
	return r.passage, nil
}

func (r *Run) leave(p *passage) {
	r.mu.Lock()
	r.started = false // Stop is for a task whose Start is at work
	r.mu.Unlock()
	close(p.returned)
}

// runOf returns the run that a context belongs to, with its cancellation; nil if there is none.
func runOf(ctx context.Context) *Run {
	if ctx == nil || ctx.Done() == nil {
		return nil
	}
	run, _ := ctx.Value(runKey{}).(*Run)
	return run
}
