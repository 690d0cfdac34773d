package store

import (
	"context"
	"errors"
	"fmt"
)

// The intents that a task can be told, on its control channel and in its runner's control hash.
const (
	Stop    = "stop"
	Reload  = "reload"
	Restart = "restart"
)

// What the runners of a queue are told, on the control channel without an ID.
const (
	Resume = "resume"
	Due    = "due" // with the time at which something is due, Unix ms
)

// Stop stops a task. It returns true when the task is STOPPED already, false when its runner has been told.
func (q *Queue) Stop(ctx context.Context, id string) (bool, error) {
	outcome, err := q.control(ctx, scriptStop, id, []string{q.keys.scheduled, q.keys.epoch})
	return outcome == "stopped", err
}

// Reload makes a running task start over with its data, or with new data if there is any; a waiting one gets the new data.
// nonce makes a replayed call harmless.
func (q *Queue) Reload(ctx context.Context, id, nonce string, data []byte) error {
	_, err := q.control(ctx, scriptReload, id, []string{q.keys.scheduled}, nonce, flag(data != nil), string(data))
	return err
}

// Restart runs a task again; nonce makes a replayed call harmless.
func (q *Queue) Restart(ctx context.Context, id, nonce string) error {
	outcome, err := q.control(ctx, scriptRestart, id, []string{q.keys.wait, q.keys.epoch}, nonce)
	return restarted(id, outcome, err)
}

// restarted says what hinders a restart.
func restarted(id, outcome string, err error) error {
	switch outcome {
	case "once":
		return &StateError{ID: id, State: "final", Reason: errors.New("another task has its unique key by now; wait for that one, or start anew")}
	case "stopping":
		return &StateError{ID: id, State: "RUNNING", Reason: errors.New("it is being stopped, which beats a restart; restart it when it is STOPPED")}
	}
	return err
}

// Retry puts a task that is scheduled in line at once, and restarts one that failed; nonce makes a replayed call harmless.
func (q *Queue) Retry(ctx context.Context, id, nonce string) error {
	reply, err := q.run(ctx, scriptRetry, []string{q.keys.wait, q.keys.scheduled}, q.keys.base, id, nonce)
	if err != nil {
		return fmt.Errorf("task %q: %w", id, err)
	}
	outcome, err := q.outcome(scriptRetry.name, id, reply)
	switch outcome {
	case "failed":
		return q.restartAs(ctx, id, nonce, text(reply.([]any)[1]))
	case "running":
		reason := fmt.Errorf("it has not failed; restart it to make it start over, or %w", ErrRunning)
		return &StateError{ID: id, State: "RUNNING", Reason: reason}
	}
	return err
}

// restartAs restarts a task if it is as it was read.
func (q *Queue) restartAs(ctx context.Context, id, nonce, meant string) error {
	outcome, err := q.control(ctx, scriptRestart, id, []string{q.keys.wait, q.keys.epoch}, nonce, meant)
	return restarted(id, outcome, err)
}

func (q *Queue) control(ctx context.Context, s script, id string, keys []string, args ...any) (string, error) {
	reply, err := q.run(ctx, s, keys, append([]any{q.keys.base, id}, args...)...)
	if err != nil {
		return "", fmt.Errorf("task %q: %w", id, err)
	}
	return q.outcome(s.name, id, reply)
}

// outcome reads the answer of a script about one task.
func (q *Queue) outcome(what, id string, reply any) (string, error) {
	v, err := list(reply)
	if err != nil || len(v) != 2 {
		return "", badReply(what, reply)
	}
	switch outcome, detail := text(v[0]), text(v[1]); outcome {
	case "missing":
		return outcome, fmt.Errorf("%s %q in queue %q: %w", what, id, q.name, ErrMissing)
	case "running":
		return outcome, &StateError{ID: id, State: detail, Reason: ErrRunning}
	case "final":
		return outcome, &StateError{ID: id, State: detail, Reason: ErrFinal}
	case "moved":
		return outcome, &StateError{ID: id, State: detail, Reason: errMoved}
	case "broken":
		return outcome, fmt.Errorf("%s %q: %w", what, id, explain(errors.New(detail)))
	default:
		return outcome, nil
	}
}

// Remove removes a task that does not run; one that is gone already is no error.
func (q *Queue) Remove(ctx context.Context, id string) error {
	reply, err := q.run(ctx, scriptRemove, []string{q.keys.scheduled, q.keys.epoch}, q.keys.base, id)
	if err != nil {
		return fmt.Errorf("task %q: %w", id, err)
	}
	if text(reply) == "running" {
		return &StateError{ID: id, State: "RUNNING", Reason: ErrRunning}
	}
	return nil
}

// ReloadData reads what a reload should run with: the new data if there is any, else the hash's own.
func (q *Queue) ReloadData(ctx context.Context, id string) (string, error) {
	found, err := q.rdb.HMGet(ctx, q.keys.task(id), "reload_data", "data").Result()
	if err != nil {
		return "", fmt.Errorf("read data of task %q: %w", id, explain(err))
	}
	if data, ok := found[0].(string); ok {
		return data, nil
	}
	return text(found[1]), nil
}

// Field reads one field of a task's hash; "" if it is absent.
func (q *Queue) Field(ctx context.Context, id, field string) (string, error) {
	found, err := q.rdb.HMGet(ctx, q.keys.task(id), field).Result()
	if err != nil {
		return "", fmt.Errorf("read %s of task %q: %w", field, id, explain(err))
	}
	return text(found[0]), nil
}
