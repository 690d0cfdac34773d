package store

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// RunnerInfo is what a runner says about itself in a queue.
type RunnerInfo struct {
	ID        string
	Host      string
	PID       int
	Version   string
	Names     []string // the tasks it can run
	StartedAt int64    // Unix ms
	Lease     time.Duration
	Silence   time.Duration // after that long without a renewal it has cancelled its tasks
	Limits    string        // JSON, of the names that have some: see holds.lua; "": none
	Batch     int64         // number of the last batch that it made: if that still arrives, it must not be applied
}

// Register gives a runner its lease; false while another still takes over what it had.
func (q *Queue) Register(ctx context.Context, r *RunnerInfo) (ok bool, now int64, err error) {
	args := []any{
		r.ID, r.Lease.Milliseconds(), r.Batch, "host", r.Host, "pid", r.PID, "version", r.Version, "names", strings.Join(r.Names, " "),
		"started_at", r.StartedAt, "lease_ms", r.Lease.Milliseconds(), "silence_ms", r.Silence.Milliseconds(),
	}
	if r.Limits != "" {
		args = append(args, "limits", r.Limits)
	}
	reply, err := q.run(ctx, scriptRegister, []string{q.keys.runners, q.keys.runner(r.ID)}, args...)
	if err != nil {
		return false, 0, err
	}
	values, err := list(reply)
	if err != nil || len(values) != 2 {
		return false, 0, badReply("register", reply)
	}
	return number(values[0]) == 1, number(values[1]), nil
}

// Renewal is what a runner learns when it renews its lease.
type Renewal struct {
	Held    bool
	Now     int64 // Redis' clock, Unix ms
	Owned   int   // tasks that Redis says are this runner's
	Intents int   // pending stop, reload, restart
	NextDue int64 // Unix ms of the next scheduled task; 0: none
}

func (q *Queue) Renew(ctx context.Context, runner string, lease time.Duration) (Renewal, error) {
	keys := []string{
		q.keys.runners, q.keys.runner(runner), q.keys.running(runner), q.keys.controlHash(runner), q.keys.scheduled,
	}
	reply, err := q.run(ctx, scriptRenew, keys, runner, lease.Milliseconds())
	if err != nil {
		return Renewal{}, err
	}
	v, err := list(reply)
	if err != nil || len(v) != 5 {
		return Renewal{}, badReply("renew", reply)
	}
	return Renewal{
		Held: number(v[0]) == 1, Now: number(v[1]), Owned: int(number(v[2])), Intents: int(number(v[3])), NextDue: dueTime(v[4]),
	}, nil
}

// Unregister gives up a runner's lease, and returns how many tasks it still owns: with any, or with open (an ID may yet arrive in
// its inbox), the lease is left to end by itself.
func (q *Queue) Unregister(ctx context.Context, runner string, open bool) (int, error) {
	keys := []string{
		q.keys.runners, q.keys.runner(runner), q.keys.running(runner), q.keys.inbox(runner), q.keys.controlHash(runner), q.keys.wait,
	}
	reply, err := q.run(ctx, scriptUnregister, keys, runner, flag(open))
	return int(number(reply)), err
}

// ReturnInbox puts the IDs in a runner's inbox back at the head of the line.
func (q *Queue) ReturnInbox(ctx context.Context, runner string) error {
	_, err := q.Unregister(ctx, runner, true)
	return err
}

func flag(b bool) string {
	if b {
		return "1"
	}
	return ""
}

// Owned lists the members of running:RUNNER, in bounded scans.
func (q *Queue) Owned(ctx context.Context, runner string) (map[string]bool, error) {
	members := map[string]bool{}
	scan := q.rdb.SScan(ctx, q.keys.running(runner), 0, "", 512).Iterator()
	for scan.Next(ctx) {
		members[scan.Val()] = true
	}
	if err := scan.Err(); err != nil {
		return nil, fmt.Errorf("scan tasks of runner %s: %w", runner, explain(err))
	}
	return members, nil
}

// Owns reports whether a member is in running:RUNNER.
func (q *Queue) Owns(ctx context.Context, runner, member string) (bool, error) {
	owned, err := q.rdb.SIsMember(ctx, q.keys.running(runner), member).Result()
	if err != nil {
		return false, fmt.Errorf("look for %s of runner %s: %w", member, runner, explain(err))
	}
	return owned, nil
}

// ParseMember is the reverse of Member.
func ParseMember(member string) (epoch int64, id string, ok bool) {
	head, id, found := strings.Cut(member, ":")
	epoch, err := strconv.ParseInt(head, 10, 64)
	return epoch, id, found && err == nil
}

// Intents reads a runner's pending intents: ID -> stop, reload or restart.
func (q *Queue) Intents(ctx context.Context, runner string) (map[string]string, error) {
	intents, err := q.rdb.HGetAll(ctx, q.keys.controlHash(runner)).Result()
	if err != nil {
		return nil, fmt.Errorf("read intents of runner %s: %w", runner, explain(err))
	}
	return intents, nil
}

// Promoted is what a call to Promote did.
type Promoted struct {
	Moved   int
	NextDue int64 // Unix ms, of a task or a timer; 0: none
	Now     int64 // Redis' clock, Unix ms
}

// Promote puts due tasks in line, and looks at what timers are for.
func (q *Queue) Promote(ctx context.Context, limit int) (Promoted, error) {
	reply, err := q.run(ctx, scriptPromote, []string{q.keys.scheduled, q.keys.wait}, q.keys.base, limit)
	if err != nil {
		return Promoted{}, err
	}
	v, err := list(reply)
	if err != nil || len(v) != 3 {
		return Promoted{}, badReply("promote", reply)
	}
	return Promoted{Moved: int(number(v[0])), NextDue: dueTime(v[1]), Now: number(v[2])}, nil
}

// Adopt lists a local task as running on a runner, and returns its epoch; 0 if the runner holds no lease.
func (q *Queue) Adopt(ctx context.Context, runner, id, task, data string) (int64, error) {
	keys := []string{q.keys.running(runner), q.keys.runner(runner), q.keys.epoch}
	reply, err := q.run(ctx, scriptAdopt, keys, q.keys.base, runner, id, task, data)
	return number(reply), err
}

// ReserveEpoch draws the epoch for a run that is about to take over from another. It is a script because a full Redis takes no INCR.
func (q *Queue) ReserveEpoch(ctx context.Context) (int64, error) {
	reply, err := q.run(ctx, scriptReserve, []string{q.keys.epoch})
	if err != nil {
		return 0, err
	}
	epoch := number(reply)
	if epoch == 0 {
		return 0, badReply("reserve", reply)
	}
	return epoch, nil
}
