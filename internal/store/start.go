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
}

// Start puts tasks in line and returns one error (or nil) per task. The second result is the fault of the whole call: then it is
// unknown whether the tasks were started, and calling again with the same IDs and nonces is safe.
func (q *Queue) Start(ctx context.Context, tasks []NewTask) ([]error, error) {
	args := make([]any, 0, 1+8*len(tasks))
	args = append(args, q.keys.base)
	for i := range tasks {
		args = appendNewTask(args, &tasks[i])
	}
	reply, err := q.run(ctx, scriptStart, []string{q.keys.wait}, args...)
	if err != nil {
		return nil, err
	}
	results, err := list(reply)
	if err != nil || len(results) != len(tasks) {
		return nil, badReply("start", reply)
	}
	faults := make([]error, len(tasks))
	for i, result := range results {
		faults[i] = startError(text(result), tasks[i].ID)
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
	args = append(args, task.ID, task.Nonce, n, "task", task.Task, "data", task.Data)
	if task.Nonce != "" {
		args = append(args, "nonce", task.Nonce)
	}
	if task.Keep {
		args = append(args, "keep", "1")
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

func startError(result, id string) error {
	kind, detail, _ := strings.Cut(result, ":")
	switch kind {
	case "ok":
		return nil
	case "exists":
		return &StateError{ID: id, State: detail, Reason: ErrExists}
	}
	return fmt.Errorf("write task %q: %w", id, explain(fmt.Errorf("%s", detail)))
}
