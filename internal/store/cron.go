package store

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// DueEntry is an entry of the schedule that is due.
type DueEntry struct {
	Name string
	Due  int64 // Unix ms; 0 or less: nobody has computed yet when it fires
}

// DueEntries tells which entries are due, and when the next one is, Unix ms; 0: there is none.
func (q *Queue) DueEntries(ctx context.Context, limit int) (due []DueEntry, next, now int64, err error) {
	reply, err := q.run(ctx, scriptEntries, []string{q.keys.cron}, limit)
	if err != nil {
		return nil, 0, 0, err
	}
	v, err := list(reply)
	if err != nil || len(v) < 2 || len(v)%2 != 0 {
		return nil, 0, 0, badReply("entries", reply)
	}
	for pairs := v[2:]; len(pairs) > 0; pairs = pairs[2:] {
		due = append(due, DueEntry{Name: text(pairs[0]), Due: number(pairs[1])})
	}
	return due, dueTime(v[1]), number(v[0]), nil
}

// Firing is one time at which an entry fires.
type Firing struct {
	Name    string
	Due     int64 // as it was seen
	Next    int64 // 0: never again
	Overlap string
	// As they were read: an entry that has others by now, or is gone, does not fire.
	Schedule, Zone string
	Task           *NewTask // nil: this time is left out
}

// Fire lets an entry fire, and returns what came of it, as fire.lua tells.
func (q *Queue) Fire(ctx context.Context, f *Firing) (string, error) {
	next := ""
	if f.Next > 0 {
		next = fmt.Sprint(f.Next)
	}
	args := []any{q.keys.base, f.Name, f.Due, next, "", f.Overlap, "{}", f.Schedule, f.Zone}
	if t := f.Task; t != nil {
		args[4], args[6] = t.ID, t.Spec
		args = append(args, "task", t.Task, "data", t.Data)
		if t.Options != "" {
			args = append(args, "options", t.Options)
		}
		if t.Keep {
			args = append(args, "keep", "1")
		}
	}
	reply, err := q.run(ctx, scriptFire, []string{q.keys.cron, q.keys.entry(f.Name), q.keys.wait}, args...)
	if err != nil {
		return "", fmt.Errorf("entry %q: %w", f.Name, err)
	}
	v, err := list(reply)
	if err != nil || len(v) != 2 {
		return "", badReply("fire", reply)
	}
	return text(v[0]), nil
}

// Enter writes an entry: fields are all that it may have, an empty one is none.
func (q *Queue) Enter(ctx context.Context, name string, next int64, fields map[string]string) error {
	args := []any{q.keys.base, name, next}
	for field, value := range fields {
		args = append(args, field, value)
	}
	if _, err := q.run(ctx, scriptEnter, []string{q.keys.cron, q.keys.entry(name)}, args...); err != nil {
		return fmt.Errorf("entry %q: %w", name, err)
	}
	return nil
}

// Spoil keeps an entry that is due from firing, as Suspend does, unless it is not due any more as it was seen.
func (q *Queue) Spoil(ctx context.Context, seen DueEntry, field, value string) error {
	_, err := q.suspend(ctx, seen.Name, field, value, 0, fmt.Sprint(seen.Due))
	return err
}

// Suspend keeps an entry from firing; the field `paused`, or `error`, says why. It returns false if there is no such entry.
func (q *Queue) Suspend(ctx context.Context, name, field, value string) (bool, error) {
	return q.suspend(ctx, name, field, value, 0, "")
}

// ResumeEntry is the reverse of Suspend.
func (q *Queue) ResumeEntry(ctx context.Context, name string, next int64) (bool, error) {
	return q.suspend(ctx, name, "", "", next, "")
}

// Retime says when an entry fires next, unless it is not due any more as it was seen.
func (q *Queue) Retime(ctx context.Context, seen DueEntry, next int64) error {
	_, err := q.suspend(ctx, seen.Name, "", "", next, fmt.Sprint(seen.Due))
	return err
}

func (q *Queue) suspend(ctx context.Context, name, field, value string, next int64, seen string) (bool, error) {
	reply, err := q.run(ctx, scriptSuspend, []string{q.keys.cron, q.keys.entry(name)}, q.keys.base, name, field, value, next, seen)
	if err != nil {
		return false, fmt.Errorf("entry %q: %w", name, err)
	}
	return number(reply) == 1, nil
}

// RemoveEntry removes an entry; one that is gone already is no error.
func (q *Queue) RemoveEntry(ctx context.Context, name string) error {
	_, err := q.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.ZRem(ctx, q.keys.cron, name)
		p.Del(ctx, q.keys.entry(name))
		return nil
	})
	if err != nil {
		return fmt.Errorf("remove entry %q: %w", name, explain(err))
	}
	return nil
}

// Entry reads an entry's hash; ErrMissing if there is none.
func (q *Queue) Entry(ctx context.Context, name string) (map[string]string, error) {
	hash, err := q.rdb.HGetAll(ctx, q.keys.entry(name)).Result()
	if err != nil {
		return nil, fmt.Errorf("read entry %q: %w", name, explain(err))
	}
	if len(hash) == 0 {
		return nil, fmt.Errorf("entry %q in queue %q: %w", name, q.name, ErrMissing)
	}
	return hash, nil
}

// Entries reads all entries, those that fire next first; the hash of one that is missing or broken is nil.
func (q *Queue) Entries(ctx context.Context) (names []string, hashes []map[string]string, err error) {
	names, err = q.rdb.ZRange(ctx, q.keys.cron, 0, -1).Result()
	if err != nil {
		return nil, nil, fmt.Errorf("list entries of queue %q: %w", q.name, explain(err))
	}
	hashes, err = q.hashes(ctx, "entries", names, q.keys.entry)
	return names, hashes, err
}

// Now is Redis' clock.
func (q *Queue) Now(ctx context.Context) (time.Time, error) {
	_, _, now, err := q.DueEntries(ctx, 0)
	return time.UnixMilli(now), err
}
