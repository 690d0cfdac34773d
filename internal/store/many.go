package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// Found is what a walk reads of a task before it changes it.
type Found struct {
	ID, Task, State, Error string
	Since                  int64  // Unix ms; 0: not known
	Nonce                  string // of the start or restart
	Local                  bool
	epoch                  string
}

// fence is what a script compares: each claim and restart draws a new epoch, and a start that gives an ID anew brings a nonce, so a task that
// has moved on differs. One that never ran has no epoch yet.
func (f *Found) fence() string { return f.State + ":" + f.epoch + ":" + f.Nonce }

// Look reads tasks in one round trip; those that are missing or broken are left out. since is the field that says since when a task is
// where it is. Errors, which may be long, are read only if it is asked to.
func (q *Queue) Look(ctx context.Context, ids []string, since string, errorsToo bool) ([]Found, error) {
	fields := []string{"task", "state", "epoch", "nonce", "local", since}
	if errorsToo {
		fields = append(fields, "error")
	}
	replies := make([]*redis.SliceCmd, len(ids))
	_, err := q.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, id := range ids {
			replies[i] = p.HMGet(ctx, q.keys.task(id), fields...)
		}
		return nil
	})
	if err != nil && !wrongType(err) {
		return nil, fmt.Errorf("read tasks: %w", explain(err))
	}
	var tasks []Found
	for i, reply := range replies {
		switch err := reply.Err(); {
		case err != nil && !wrongType(err):
			return nil, fmt.Errorf("read tasks: %w", explain(err))
		case err == nil && text(reply.Val()[0]) != "":
			tasks = append(tasks, newFound(ids[i], reply.Val()))
		}
	}
	return tasks, nil
}

func newFound(id string, v []any) Found {
	f := Found{
		ID: id, Task: text(v[0]), State: text(v[1]), epoch: text(v[2]), Nonce: text(v[3]), Local: text(v[4]) != "", Since: number(v[5]),
	}
	if len(v) > 6 {
		f.Error = text(v[6])
	}
	if f.State == "" {
		f.State = "WAIT"
	}
	return f
}

// Changed is what one call to Change did.
type Changed struct {
	Done    int
	Moved   int   // had moved on since they were read: they are left alone
	Refused int   // cannot be changed so
	Refusal error // the first
}

// Words of Change beside those that tasks can be told.
const (
	Remove = "remove"
	Retry  = "retry"
)

// Change stops, restarts, removes or retries tasks as they were found, in one round trip. A replay, with the same nonce, changes nothing more,
// and counts the same. After an error it tells of those for which Redis answered.
func (q *Queue) Change(ctx context.Context, word string, tasks []Found, nonce string) (Changed, error) {
	var done Changed
	for len(tasks) > 0 {
		unknown, err := q.send(ctx, word, tasks, nonce, &done)
		if err != nil || len(unknown) == 0 {
			return done, err
		}
		s, keys, args := q.changing(word, &unknown[0], nonce) // a call of its own brings the source
		answer, err := q.run(ctx, s, keys, args...)
		if err != nil {
			return done, err
		}
		done.add(q.changed(word, unknown[0].ID, answer))
		tasks = unknown[1:]
	}
	return done, nil
}

// send returns the tasks for which the server did not know the script.
func (q *Queue) send(ctx context.Context, word string, tasks []Found, nonce string, done *Changed) (unknown []Found, fault error) {
	replies := make([]*redis.Cmd, len(tasks))
	_, err := q.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range tasks {
			s, keys, args := q.changing(word, &tasks[i], nonce)
			replies[i] = s.EvalSha(ctx, p, append(keys, q.keys.room), args...)
		}
		return nil
	})
	if err != nil && !redis.HasErrorPrefix(err, "NOSCRIPT") {
		fault = err // also where no command has an error of its own: nobody could log in, say
	}
	for i, reply := range replies {
		switch err := reply.Err(); {
		case err == nil && reply.Val() != nil:
			done.add(q.changed(word, tasks[i].ID, reply.Val()))
		case err != nil && redis.HasErrorPrefix(err, "NOSCRIPT"):
			unknown = append(unknown, tasks[i])
		case fault == nil:
			fault = err
		}
	}
	if fault != nil {
		return nil, fmt.Errorf("%s in queue %q: %w", word, q.name, explain(fault))
	}
	return unknown, nil
}

// changing is the script for a word, and what it is called with.
func (q *Queue) changing(word string, task *Found, nonce string) (script, []string, []any) {
	switch word {
	case Stop:
		return scriptStop, []string{q.keys.scheduled, q.keys.epoch}, []any{q.keys.base, task.ID, task.fence()}
	case Remove:
		return scriptRemove, []string{q.keys.scheduled, q.keys.epoch}, []any{q.keys.base, task.ID, task.fence()}
	case Retry:
		if task.State == "SCHEDULED" {
			return scriptRetry, []string{q.keys.wait, q.keys.scheduled}, []any{q.keys.base, task.ID, nonce, task.fence()}
		}
	}
	return scriptRestart, []string{q.keys.wait, q.keys.epoch}, []any{q.keys.base, task.ID, nonce, task.fence()}
}

var errMoved = errors.New("it has moved on since it was read; look at it again")

// changed reads what a script says of one task.
func (q *Queue) changed(word, id string, answer any) error {
	if _, ok := answer.(string); ok { // remove has no state to tell
		answer = []any{answer, ""}
	}
	outcome, err := q.outcome(word, id, answer)
	switch {
	case word == Remove && outcome == "missing":
		return nil
	case outcome == "missing", outcome == "final", outcome == "running":
		return errMoved
	}
	return restarted(id, outcome, err)
}

func (c *Changed) add(err error) {
	switch {
	case err == nil:
		c.Done++
	case errors.Is(err, errMoved):
		c.Moved++
	default:
		c.Refused++
		if c.Refusal == nil {
			c.Refusal = err
		}
	}
}
