package store

import (
	"context"
	"fmt"
	"strings"
)

// NewTask is a task to put in line. Nonce is empty for an ID that the client drew at random: such an ID is its own nonce.
type NewTask struct {
	ID    string
	Nonce string
	Task  string
	Data  string
	Keep  bool
	// What only a few say, both JSON: Options for the task's hash, Spec for the start itself, as start.lua tells; Options are in it too.
	Options, Spec string
}

// Start puts tasks in line, in the order in which they are given, and returns one error (or nil) per task. A task that another one stands
// for gets the ID of that one. The second result is the fault of the whole call: then it is unknown whether the tasks were started, and
// calling again with the same IDs and nonces is safe.
func (q *Queue) Start(ctx context.Context, tasks []NewTask) ([]error, error) {
	args := make([]any, 0, 1+8*len(tasks))
	args = append(args, q.keys.base)
	script := scriptStart
	for i := range tasks {
		args = appendNewTask(args, &tasks[i])
		if tasks[i].Spec != "" {
			script = scriptStartSpecial
		}
	}
	reply, err := q.run(ctx, script, []string{q.keys.wait}, args...)
	if err != nil {
		return nil, err
	}
	results, err := list(reply)
	if err != nil || len(results) != len(tasks) {
		return nil, badReply("start", reply)
	}
	faults := make([]error, len(tasks))
	for i, result := range results {
		tasks[i].ID, faults[i] = started(text(result), tasks[i].ID)
	}
	return faults, nil
}

func appendNewTask(args []any, task *NewTask) []any {
	n := 4
	if task.Nonce != "" {
		n += 2
	}
	if task.Keep {
		n += 2
	}
	if task.Options != "" {
		n += 2
	}
	if task.Spec == "" {
		args = append(args, task.ID, task.Nonce, n)
	} else {
		args = append(args, task.ID, task.Nonce, -n-1, task.Spec)
	}
	args = append(args, "task", task.Task, "data", task.Data)
	if task.Nonce != "" {
		args = append(args, "nonce", task.Nonce)
	}
	if task.Keep {
		args = append(args, "keep", "1")
	}
	if task.Options != "" {
		args = append(args, "options", task.Options)
	}
	return args
}

// StateError is a refusal that the state of a task caused.
type StateError struct {
	ID, State string
	Reason    error
}

func (e *StateError) Error() string { return fmt.Sprintf("task %q is %s: %v", e.ID, e.State, e.Reason) }
func (e *StateError) Unwrap() error { return e.Reason }

func started(result, id string) (string, error) {
	kind, detail, _ := strings.Cut(result, ":")
	switch kind {
	case "ok":
		return id, nil
	case "kept":
		return detail, nil
	case "exists":
		return id, &StateError{ID: id, State: detail, Reason: ErrExists}
	case "once":
		state, other, _ := strings.Cut(detail, ":")
		return id, &StateError{ID: other, State: state, Reason: ErrNotUnique}
	}
	return id, fmt.Errorf("write task %q: %w", id, explain(fmt.Errorf("%s", detail)))
}
