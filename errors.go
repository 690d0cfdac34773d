package redtask

import (
	"context"
	"errors"
	"fmt"

	"github.com/redtask/redtask/internal/store"
)

// Why a running task's ctx was cancelled, as [context.Cause] tells.
var (
	ErrStopped   = errors.New("redtask: the task was told to stop")
	ErrRestarted = errors.New("redtask: the task is to run again from the start")
	ErrReloaded  = errors.New("redtask: a new instance takes over with reloaded data")
	ErrShutdown  = errors.New("redtask: the runner shuts down; the task goes on elsewhere")
	ErrLeaseLost = errors.New("redtask: the runner lost its lease; the task goes on elsewhere")
	// ErrTimedOut and ErrDeadline match context.DeadlineExceeded.
	ErrTimedOut error = timedOut{"redtask: the task ran longer than its timeout"}
	ErrDeadline error = timedOut{"redtask: the task's deadline is past"}
)

// ErrExpired is why a task ended in EXCEPTION without having run: it waited longer than its [StartOptions.Expiry].
var ErrExpired = errors.New("redtask: the task waited longer than its expiry, and was not run")

type timedOut struct{ text string }

func (t timedOut) Error() string      { return t.text }
func (timedOut) Is(target error) bool { return target == context.DeadlineExceeded }
func (timedOut) Timeout() bool        { return true }

// ErrDone is what Start returns when it was told to stop and had finished its work all the same: the task is ENDED.
var ErrDone = errors.New("redtask: the work was done all the same")

// What a call was refused for. Use errors.Is.
var (
	ErrNotFound  = store.ErrMissing                     // no task with this ID, or no entry of the schedule with this name
	ErrExists    = store.ErrExists                      // the ID is waiting or running; the error is a *ConflictError
	ErrFinal     = store.ErrFinal                       // the task is final: nothing is left to stop, reload or put off; the error is a *ConflictError
	ErrRunning   = store.ErrRunning                     // the task runs: stop it first; the error is a *ConflictError
	ErrNotUnique = store.ErrNotUnique                   // another task has the unique key; the error is a *ConflictError with that one's ID
	ErrWrongType = store.ErrWrongType                   // a key of ours holds another Redis type
	ErrFull      = store.ErrFull                        // Redis refuses writes for want of memory
	ErrDenied    = store.ErrDenied                      // the Redis user lacks a right, or its name or password is wrong
	ErrProtocol  = store.ErrProtocol                    // Redis holds another version of the protocol
	ErrInvalid   = errors.New("redtask: invalid input") // options, names or values that cannot be; the message tells all of them
)

// ConflictError is a refusal that the state of a task caused; it wraps [ErrExists], [ErrFinal],
// [ErrRunning] or [ErrNotUnique].
type ConflictError struct {
	ID     string
	State  State
	Reason error
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("redtask: task %q is %s: %v", e.ID, e.State, e.Reason)
}

func (e *ConflictError) Unwrap() error { return e.Reason }

// public turns the store's errors into ours.
func public(err error) error {
	if err == nil {
		return nil
	}
	if state, ok := errors.AsType[*store.StateError](err); ok {
		return &ConflictError{ID: state.ID, State: State(state.State), Reason: state.Reason}
	}
	return fmt.Errorf("redtask: %w", err)
}

// declared is a task's own statement that it failed: the end is ERROR, not EXCEPTION.
type declared struct{ Err error }

func (f *declared) Error() string { return f.Err.Error() }
func (f *declared) Unwrap() error { return f.Err }

// Fail makes an error with which Init or Start ends the task in state ERROR. Fail(nil) is nil.
func Fail(err error) error {
	if err == nil {
		return nil
	}
	return &declared{Err: err}
}

// Failf is [Fail] with a text made as by fmt.Errorf.
func Failf(format string, args ...any) error { return Fail(fmt.Errorf(format, args...)) }

// PanicError is a panic of a task's method, as exception handlers get it.
type PanicError struct {
	Value any
	Stack []byte
}

func (p *PanicError) Error() string { return fmt.Sprintf("panic: %v", p.Value) }

func (p *PanicError) Unwrap() error {
	err, _ := p.Value.(error)
	return err
}
