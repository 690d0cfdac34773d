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

// Expired lists final tasks that are too old or too many, by state; nothing while another runner holds the cleaning lock.
func (q *Queue) Expired(ctx context.Context, runner string, lock time.Duration, limit int, keep []Retention) (map[string][]string, error) {
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
	due := map[string][]string{}
	for i, ids := range lists {
		if found := texts(ids); len(found) > 0 {
			due[keep[i].State] = found
		}
	}
	return due, nil
}

// Sweep removes final tasks with their records and returns how many went: not those started again meanwhile, nor those to be kept.
func (q *Queue) Sweep(ctx context.Context, state string, ids []string) (int, error) {
	args := append([]any{q.keys.base, state}, anys(ids)...)
	reply, err := q.run(ctx, scriptSweep, []string{q.keys.final(state), q.keys.kept}, args...)
	return int(number(reply)), err
}
