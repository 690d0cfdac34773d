package redtask

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Task is one run-able unit. A runner makes a fresh instance with the [Factory] of the task's name for every run, and calls Init, then
// Start, in one goroutine.
type Task interface {
	// Init gets the JSON that the task was started with; `null` if it was started with none. An error is an EXCEPTION, or with [Fail] an
	// ERROR. On a reload the new instance's Init runs while the old instance still works: take nothing exclusive here, take it in Start.
	Init(ctx context.Context, data json.RawMessage) error

	// Start does the work; its return ends the task: nil as ENDED, an error made by [Fail] as ERROR, any other as EXCEPTION. Once ctx is
	// cancelled it should return soon; [context.Cause] says why. See the package documentation for what a return then means.
	Start(ctx context.Context) error
}

// Stopper is an optional part of a [Task]: it is told to stop before its Start's ctx is cancelled, and has
// [TaskOptions.StopTimeout] to make Start return.
type Stopper interface {
	// Stop runs beside Start, at most once. Its ctx has the values of Start's, a deadline, and no cancellation.
	Stop(ctx context.Context) error
}

// ContextProvider is an optional part of a [Task]: it wraps Init, Start and Stop in the application's own context.
type ContextProvider interface {
	// ProvideContext runs first, on the fresh instance, before Init. The context that it returns must be derived from the one it got. The
	// function, which may be nil, runs once, after the last method returned, also after a panic.
	ProvideContext(ctx context.Context) (context.Context, func(), error)
}

// State is where a task is in its life.
type State string

// The states of a task.
const (
	StateWait      State = "WAIT"      // in line
	StateScheduled State = "SCHEDULED" // due later
	StateRunning   State = "RUNNING"   // a runner has it
	StateEnded     State = "ENDED"     // final: it worked
	StateError     State = "ERROR"     // final: the task says that it failed
	StateException State = "EXCEPTION" // final: something unexpected happened
	StateStopped   State = "STOPPED"   // final: on request
)

// Final reports whether a task in this state stays there until somebody starts it again.
func (s State) Final() bool {
	switch s {
	case StateEnded, StateError, StateException, StateStopped:
		return true
	}
	return false
}

// Record is what Redis holds of a task. Times that have not come are zero. As JSON its fields have the names that they have in Redis, its
// times the form of RFC 3339.
type Record struct {
	ID         string          `json:"id"`
	Queue      string          `json:"queue"`
	Task       string          `json:"task"`           // its name
	Data       json.RawMessage `json:"data,omitempty"` // what it was started with; a JSON string of it if it is not JSON
	State      State           `json:"state"`
	Epoch      int64           `json:"epoch"`                // number of its last claim
	Attempt    int             `json:"attempt"`              // runs so far, without those that a shutdown or a dead runner cut short
	Recoveries int             `json:"recoveries,omitempty"` // runners that died in a row while they ran it
	Runner     string          `json:"runner,omitempty"`     // ID of the runner that has, or had, it
	CreatedAt  time.Time       `json:"created_at,omitzero"`  // when it was put in line first, or scheduled
	DueAt      time.Time       `json:"due_at,omitzero"`
	StartedAt  time.Time       `json:"started_at,omitzero"` // when its last run began
	EndedAt    time.Time       `json:"ended_at,omitzero"`
	Output     json.RawMessage `json:"output,omitempty"`     // nil without one
	Error      string          `json:"error,omitempty"`      // why it ended in ERROR or EXCEPTION
	Stack      string          `json:"stack,omitempty"`      // of a panic
	Progress   json.RawMessage `json:"progress,omitempty"`   // the last one reported
	Checkpoint json.RawMessage `json:"checkpoint,omitempty"` // the last one written
	Logged     int64           `json:"log,omitempty"`        // lines that its runs have logged in all; [Client.Log] has the last of them
	History    []Attempt       `json:"history,omitempty"`    // the last attempts before the present one, at most 10, the oldest first

	Priority  Priority          `json:"priority,omitempty"`
	Key       string            `json:"key,omitempty"`
	Ordered   bool              `json:"ordered,omitempty"`
	HeldBy    string            `json:"held_by,omitempty"` // in line: the limit that it waits for, its task's name or `name:key`
	Deadline  time.Time         `json:"deadline,omitzero"`
	ExpiresAt time.Time         `json:"expires_at,omitzero"` // a first run does not begin later
	Headers   map[string]string `json:"headers,omitempty"`

	Keep  bool `json:"keep,omitempty"`  // cleanup leaves this record alone
	Local bool `json:"local,omitempty"` // bound to its runner
}

// DecodeOutput decodes the task's output into value, a pointer.
func (r *Record) DecodeOutput(value any) error {
	if r.Output == nil {
		return fmt.Errorf("redtask: task %q (%s) has no output", r.ID, r.State)
	}
	if err := json.Unmarshal(r.Output, value); err != nil {
		return fmt.Errorf("redtask: decode output of task %q: %w", r.ID, err)
	}
	return nil
}
