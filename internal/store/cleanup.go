package store

import (
	"context"
	"time"
)

// Retention says how long, and how many, final tasks of one state stay.
type Retention struct {
	State string
	Age   time.Duration
	Count int
	Skip  int // the oldest so many that are due are left out
}

// Final is a final task as its state's index has it.
type Final struct {
	ID      string
	EndedAt string // as Redis wrote it: Sweep compares it, nobody computes with it
}

// Expired lists final tasks that are too old or too many, by state; nothing while another runner holds the cleaning lock.
func (q *Queue) Expired(ctx context.Context, runner string, lock time.Duration, limit int, keep []Retention) (map[string][]Final, error) {
	args := []any{q.keys.base, runner, lock.Milliseconds(), limit}
	for _, r := range keep {
		args = append(args, r.State, r.Age.Milliseconds(), r.Count, r.Skip)
	}
	reply, err := q.run(ctx, scriptDue, []string{q.keys.cleaner}, args...)
	if err != nil {
		return nil, err
	}
	lists, err := list(reply)
	if err != nil || (len(lists) != 0 && len(lists) != len(keep)) {
		return nil, badReply("due", reply)
	}
	due := map[string][]Final{}
	for i, pairs := range lists {
		for found := texts(pairs); len(found) > 1; found = found[2:] {
			due[keep[i].State] = append(due[keep[i].State], Final{found[0], found[1]})
		}
	}
	return due, nil
}

// Sweep removes final tasks with their records and returns how many went: not those started again meanwhile, nor those to be kept. One
// that ended anew has another end time, and stays.
func (q *Queue) Sweep(ctx context.Context, state string, tasks []Final) (int, error) {
	args := make([]any, 0, 2+2*len(tasks))
	args = append(args, q.keys.base, state)
	for _, task := range tasks {
		args = append(args, task.ID, task.EndedAt)
	}
	reply, err := q.run(ctx, scriptSweep, []string{q.keys.final(state), q.keys.kept}, args...)
	return int(number(reply)), err
}
