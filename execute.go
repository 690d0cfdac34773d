package redtask

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redtask/redtask/internal/store"
)

// ending is how a task's last run here ended.
type ending struct {
	run  *Run
	told error // nil if it ended by itself
	err  error
}

// execute lives a task's life from the claim on. A reload that worked goes on with the next run in the same goroutine and slot.
func (e *engine) execute(r *Run, reloadPending bool) ending {
	done := false
	defer func() {
		if !done { // runtime.Goexit in a task's method unwinds through here: the slot must not be lost
			e.endAborted(r)
		}
	}()
	r.activate("")
	if reloadPending {
		r.reload(false)
	}
	for {
		err := e.live(r)
		next, told := e.end(r, err)
		if next == nil {
			done = true
			return ending{r, told, err}
		}
		next.activate("reloaded")
		r = next
	}
}

// endAborted ends a run whose goroutine was ended by a method of the task, or by an exception handler.
func (e *engine) endAborted(r *Run) {
	select {
	case <-r.returned: // its end was under way
		e.committer.leave(r, r.final(StateException, errGoexit))
	default:
		_, _ = e.end(r, errGoexit)
	}
}

var errGoexit = errors.New("the task called runtime.Goexit")

// live runs the task's methods. A run that took over in a reload comes here prepared.
func (e *engine) live(r *Run) error {
	if r.after != nil {
		<-r.after // it may ignore its ctx, and no task runs twice under one lease
	}
	if r.timeout > 0 || r.deadline > 0 {
		defer r.limitTime()()
	}
	if r.task == nil {
		if err := r.prepare(); err != nil {
			return err
		}
	}
	if r.entry.handler != nil {
		return r.handle()
	}
	return r.work()
}

// work calls Init, unless a reload has done that, and Start.
func (r *Run) work() error {
	if !r.ready {
		if err := r.callInit(); err != nil {
			return err
		}
	}
	if told := r.begin(); told != nil {
		return told // its ctx may not have ended yet: middleware must not take a Start that was not called for one that worked
	}
	return guard(func() error { return r.task.Start(r.ctx) })
}

func (r *Run) callInit() error {
	err := guard(func() error { return r.task.Init(r.ctx, r.data) })
	r.ready = err == nil
	return err
}

// prepare makes the instance and its context.
func (r *Run) prepare() error {
	if r.entry == nil {
		return errUnknownName
	}
	if r.refused != nil {
		return NoRetry(r.refused)
	}
	if r.deadline > 0 && r.engine.now() >= r.deadline {
		return r.overtime(ErrDeadline, nil)
	}
	if r.entry.local && !r.local {
		return fmt.Errorf("%s belongs to its runners, which start it themselves", r.name)
	}
	// What came past a client is checked here.
	if err := errors.Join(checkID(r.id), checkSize("the task's data", len(r.data), r.engine.options.MaxData)); err != nil {
		return err
	}
	if !json.Valid(r.data) {
		return fmt.Errorf("the task's data is not JSON: %s", truncate(string(r.data), 200))
	}
	return guard(r.build)
}

var errUnknownName = errors.New("unknown task name")

func (r *Run) build() error {
	task := r.entry.factory()
	if task == nil {
		return fmt.Errorf("the factory of %s returned nil", r.name)
	}
	r.mu.Lock()
	r.task = task
	r.mu.Unlock()
	provider, ok := task.(ContextProvider)
	if !ok {
		return nil
	}
	ctx, release, err := provider.ProvideContext(r.base)
	r.release = release
	if err != nil {
		return fmt.Errorf("ProvideContext: %w", err)
	}
	if runOf(ctx) != r {
		return errors.New("ProvideContext: the context that it returned is not derived from the one it got, with its cancellation")
	}
	r.ctx = ctx
	return nil
}

// begin marks that Start is called, unless the task was told to stop before: then it returns what for.
func (r *Run) begin() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.started = r.told == nil
	return r.told
}

// guard turns a panic into an error that has the stack.
func guard(method func() error) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = &PanicError{Value: value, Stack: debug.Stack()}
		}
	}()
	return method()
}

// end closes a run in steps: no method runs any more, ProvideContext's release is called, the outcome is written. It returns the
// run that goes on after a reload, and what the task had been told.
func (e *engine) end(r *Run, err error) (*Run, error) {
	close(r.returned)
	told := r.close()
	next := r.successor(told, err)
	r.free()
	r.cancel(context.Canceled)
	if next != nil {
		return e.handOver(r, next)
	}
	e.committer.leave(r, e.outcome(r, told, err))
	return nil, told
}

// close takes what the task was told so far as final, and waits for Stop and for a reload that is under way.
func (r *Run) close() error {
	r.mu.Lock()
	r.over = true
	told, reload := r.told, r.reloading
	if reload != nil && reload.next == nil {
		reload.cancel(context.Canceled) // the end beats the reload
	}
	r.mu.Unlock()
	if reload != nil {
		r.await(reload.done, "Init")
	}
	r.telling.Wait()
	return told
}

func (r *Run) free() {
	if r.release == nil {
		return
	}
	release := r.release
	r.release = nil
	if err := guard(func() error { release(); return nil }); err != nil {
		r.Logger().Error("the release function of ProvideContext panicked", "error", err)
	}
}

// asTold reports whether an end means that the task did what it was told. A panic never does, whatever error it was made with.
func asTold(told, err error) bool {
	return told != nil && !panicked(err) && (err == nil || errors.Is(err, context.Canceled) || errors.Is(err, told) || isCause(err) ||
		isOvertime(told) && errors.Is(err, context.DeadlineExceeded))
}

func isOvertime(told error) bool { return told == ErrTimedOut || told == ErrDeadline }

func isCause(err error) bool { return strength(err) > 0 }

func panicked(err error) bool {
	_, ok := errors.AsType[*PanicError](err)
	return ok
}

// outcome decides what a run's end means, and makes the batch item that says so.
func (e *engine) outcome(r *Run, told, err error) *store.Leave {
	var failure *declared
	switch {
	case told == ErrRestarted:
		return r.back("restarted", []string{"attempt", "0"})
	case panicked(err):
		return e.exception(r, err)
	case errors.Is(err, ErrDone) && told != nil:
		return r.final(StateEnded, nil)
	case asTold(told, err):
		return e.obeyed(r, told, err)
	case err == nil || errors.Is(err, ErrDone):
		return e.conclude(r, StateEnded, nil)
	case err == errUnknownName:
		return e.unknownName(r)
	case errors.As(err, &failure):
		return e.conclude(r, StateError, err)
	case isOvertime(told):
		return e.exception(r, r.overtime(told, err))
	default:
		return e.exception(r, err)
	}
}

func (e *engine) obeyed(r *Run, told, err error) *store.Leave {
	switch told {
	case ErrStopped:
		return r.final(StateStopped, nil)
	case ErrTimedOut, ErrDeadline:
		if _, asked := errors.AsType[*askedRetry](err); !asked { // else it says whether it runs again
			err = nil
		}
		return e.exception(r, r.overtime(told, err))
	case ErrLeaseLost:
		return r.back("lease lost", r.uncountedAttempt())
	case ErrReloaded:
		return r.back("reloaded", r.uncountedAttempt())
	default:
		return r.back("shutdown", r.uncountedAttempt())
	}
}

// uncountedAttempt: the claim counted this run; one that was cut short does not count.
func (r *Run) uncountedAttempt() []string {
	return []string{"attempt", strconv.Itoa(max(0, r.attempt-1))}
}

func (r *Run) back(reason string, fields []string) *store.Leave {
	if r.local {
		return &store.Leave{State: "REMOVED", Event: r.lastEvent(reasonData(reason))}
	}
	return &store.Leave{State: string(StateWait), Event: r.lastEvent(reasonData(reason)), Keep: r.keep, Holds: r.holds, Fields: fields}
}

func (r *Run) final(state State, err error) *store.Leave {
	r.mu.Lock()
	output := r.output
	r.mu.Unlock()
	leave := &store.Leave{State: string(state), Keep: r.keep, Holds: r.holds && !r.local}
	var data []byte
	if output != nil {
		leave.Fields = append(leave.Fields, "output", string(output))
	}
	if state == StateEnded {
		data = output
	}
	if err != nil {
		text := truncate(err.Error(), maxErrorText)
		leave.Fields = append(leave.Fields, "error", text)
		data = errorData(text)
		if p, ok := errors.AsType[*PanicError](err); ok {
			leave.Fields = append(leave.Fields, "stack", truncate(string(p.Stack), maxErrorText))
		}
	}
	if r.local {
		leave.State = "REMOVED"
	}
	leave.Event = r.lastEvent(data)
	return leave
}

func (e *engine) exception(r *Run, err error) *store.Leave { return e.conclude(r, StateException, err) }

// conclude ends a run by its task's policy: it is the last one, or the task runs again later.
func (e *engine) conclude(r *Run, state State, err error) *store.Leave {
	following := r.next(state, err)
	r.mu.Lock()
	r.retryIn, r.retries = following.delay, following.again
	r.mu.Unlock()
	if following.state == StateException {
		e.report(r, &following)
	}
	if following.again {
		return r.later(&following)
	}
	return r.final(following.state, following.err)
}

// report logs the unexpected and lets the application's handlers see it.
func (e *engine) report(r *Run, following *next) {
	err := following.err
	attrs := []any{"error", truncate(err.Error(), maxErrorText)}
	if p, ok := errors.AsType[*PanicError](err); ok {
		attrs = append(attrs, "stack", string(p.Stack))
	}
	if following.again {
		r.Logger().Warn("task ended in EXCEPTION; it runs again", append(attrs, "in", following.delay.String())...)
	} else {
		r.Logger().Error("task ended in EXCEPTION", attrs...)
	}
	for _, handle := range e.options.OnException {
		fault := guard(func() error { handle(context.WithoutCancel(r.ctx), r, err); return nil })
		if fault != nil {
			r.Logger().Error("an exception handler panicked", "error", fault)
		}
	}
}

// unknownDelay is how long a task waits that this runner cannot run and another one can.
const unknownDelay = time.Second

// unknownName gives a task back while any live runner has its name; during a deploy that is the usual case. If nobody has it, it is a
// mistake that someone must see.
func (e *engine) unknownName(r *Run) *store.Leave {
	names := map[string]bool{}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.base), unknownDelay) // the run is over, its ctx cancelled
	defer cancel()
	runners, err := e.queue.Runners(ctx)
	for i := range runners {
		if runners[i].LeaseEnd != 0 { // whether it is past is for monitors to say: the clock of Redis may have jumped
			for _, name := range runners[i].Names {
				names[name] = true
			}
		}
	}
	if err != nil || names[r.name] {
		return &store.Leave{
			State: string(StateScheduled), Delay: unknownDelay.Milliseconds(), Keep: r.keep, Holds: r.holds, Fields: r.uncountedAttempt(),
			Event: r.lastEvent(reasonData("no such task on runner " + e.runnerID)),
		}
	}
	text := fmt.Sprintf("no runner of queue %q knows a task named %q", e.queue.Name(), truncate(r.name, 200))
	known := slices.DeleteFunc(slices.Sorted(maps.Keys(names)), func(name string) bool { return strings.HasPrefix(name, reservedApp) })
	switch near := nearest(r.name, known); {
	case near != "":
		text += fmt.Sprintf("; did you mean %q?", near)
	case len(known) == 0:
		text += ", nor any other: register tasks before the runner is made"
	default:
		text += "; they know " + truncate(strings.Join(known, ", "), 500)
	}
	return e.exception(r, NoRetry(errors.New(text)))
}
