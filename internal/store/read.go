package store

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Get reads a task's hash as it is; ErrMissing if there is none.
func (q *Queue) Get(ctx context.Context, id string) (map[string]string, error) {
	hash, err := q.rdb.HGetAll(ctx, q.keys.task(id)).Result()
	if err != nil {
		return nil, fmt.Errorf("read task %q: %w", id, explain(err))
	}
	if len(hash) == 0 {
		return nil, fmt.Errorf("read %q in queue %q: %w", id, q.name, ErrMissing)
	}
	return hash, nil
}

// GetMany reads several tasks' hashes in one round trip; a missing or broken one is nil.
func (q *Queue) GetMany(ctx context.Context, ids []string) ([]map[string]string, error) {
	return q.hashes(ctx, "tasks", ids, q.keys.task)
}

// hashes reads what is under the keys of some names, in one round trip; a missing or broken one is nil.
func (q *Queue) hashes(ctx context.Context, what string, names []string, key func(string) string) ([]map[string]string, error) {
	found := make([]*redis.MapStringStringCmd, len(names))
	_, err := q.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, name := range names {
			found[i] = p.HGetAll(ctx, key(name))
		}
		return nil
	})
	if err != nil && !wrongType(err) {
		return nil, fmt.Errorf("read %s: %w", what, explain(err)) // also where no command has an error of its own: nobody could log in, say
	}
	hashes := make([]map[string]string, len(names))
	for i, cmd := range found {
		switch err := cmd.Err(); {
		case err == nil && len(cmd.Val()) > 0:
			hashes[i] = cmd.Val()
		case err != nil && !wrongType(err):
			return nil, fmt.Errorf("read %s: %w", what, explain(err))
		}
	}
	return hashes, nil
}

func wrongType(err error) bool { return strings.Contains(err.Error(), "WRONGTYPE") }

// Page lists IDs of one index: `wait`, `scheduled`, `running`, `kept` or a final state. The cursor "" begins; a next of "" ends.
func (q *Queue) Page(ctx context.Context, index, cursor string, limit int) (ids []string, next string, err error) {
	if index == "running" {
		return q.pageRunning(ctx, cursor, limit)
	}
	offset := int64(0)
	if cursor != "" {
		if offset, err = strconv.ParseInt(cursor, 10, 64); err != nil || offset < 0 {
			return nil, "", fmt.Errorf("list: %q is no cursor of this list; pass what Next held", cursor)
		}
	}
	size := int64(limit)
	switch index {
	case "wait": // the next one to run stands at the right end
		ids, err = q.pageLines(ctx, offset, size)
	case "scheduled":
		ids, err = q.rdb.ZRange(ctx, q.keys.scheduled, offset, offset+size-1).Result()
	default:
		ids, err = q.rdb.ZRevRange(ctx, q.keys.final(index), offset, offset+size-1).Result()
	}
	if err != nil {
		return nil, "", fmt.Errorf("list %s in queue %q: %w", index, q.name, explain(err))
	}
	if len(ids) == limit {
		next = strconv.FormatInt(offset+size, 10)
	}
	return ids, next, nil
}

// pageLines lists IDs in line, those of higher priority first: each line is a list whose next one stands at the right end.
func (q *Queue) pageLines(ctx context.Context, offset, size int64) ([]string, error) {
	var ids []string
	for _, line := range []string{q.keys.wait + ":high", q.keys.wait, q.keys.wait + ":low"} {
		length, err := q.rdb.LLen(ctx, line).Result()
		if err != nil {
			return nil, err
		}
		if offset >= length {
			offset -= length
			continue
		}
		found, err := q.rdb.LRange(ctx, line, -offset-size, -offset-1).Result()
		if err != nil {
			return nil, err
		}
		slices.Reverse(found)
		ids = append(ids, found...)
		offset, size = 0, size-int64(len(found))
		if size <= 0 {
			break
		}
	}
	return ids, nil
}

// pageRunning walks the runners in the order of their IDs; a cursor is `SCAN_CURSOR:RUNNER`.
func (q *Queue) pageRunning(ctx context.Context, cursor string, limit int) ([]string, string, error) {
	runners, err := q.rdb.ZRange(ctx, q.keys.runners, 0, -1).Result()
	if err != nil {
		return nil, "", fmt.Errorf("list runners of queue %q: %w", q.name, explain(err))
	}
	slices.Sort(runners)
	at, current := uint64(0), ""
	if cursor != "" {
		head, runner, ok := strings.Cut(cursor, ":")
		n, err := strconv.ParseUint(head, 10, 64)
		if !ok || err != nil {
			return nil, "", fmt.Errorf("list: %q is no cursor of this list; pass what Next held", cursor)
		}
		at, current = n, runner
	}
	for i, runner := range runners {
		if runner < current {
			continue
		}
		if runner != current {
			at = 0
		}
		members, scan, err := q.rdb.SScan(ctx, q.keys.running(runner), at, "", int64(limit)).Result()
		if err != nil {
			return nil, "", fmt.Errorf("list tasks of runner %s: %w", runner, explain(err))
		}
		next := ""
		switch {
		case scan != 0:
			next = strconv.FormatUint(scan, 10) + ":" + runner
		case i+1 < len(runners):
			next = "0:" + runners[i+1]
		}
		if len(members) > 0 || next == "" {
			return memberIDs(members), next, nil
		}
	}
	return nil, "", nil
}

func memberIDs(members []string) []string {
	ids := make([]string, 0, len(members))
	for _, member := range members {
		if _, id, ok := ParseMember(member); ok {
			ids = append(ids, id)
		}
	}
	return ids
}

// Counts are a queue's tasks by state; -1 where a key holds the wrong type.
type Counts struct {
	Wait, Scheduled, Running, Ended, Error, Exception, Stopped, Kept int64
	Held                                                             int64
	Paused                                                           bool
	Counters                                                         map[string]int64
}

func (q *Queue) Counts(ctx context.Context) (Counts, error) {
	reply, err := q.run(ctx, scriptCounts, []string{q.keys.wait, q.keys.scheduled, q.keys.runners, q.keys.counters}, q.keys.base)
	if err != nil {
		return Counts{}, err
	}
	v, err := list(reply)
	if err != nil || len(v) != 11 {
		return Counts{}, badReply("counts", reply)
	}
	counts := Counts{
		Wait: number(v[0]), Scheduled: number(v[1]), Running: number(v[2]), Ended: number(v[3]), Error: number(v[4]),
		Exception: number(v[5]), Stopped: number(v[6]), Kept: number(v[7]), Counters: map[string]int64{},
		Paused: number(v[9]) == 1, Held: number(v[10]),
	}
	for pairs := texts(v[8]); len(pairs) > 1; pairs = pairs[2:] {
		counts.Counters[pairs[0]] = number(pairs[1])
	}
	return counts, nil
}

// Count adds to one of a queue's counters.
func (q *Queue) Count(ctx context.Context, counter string, n int64) error {
	if err := q.rdb.HIncrBy(ctx, q.keys.counters, counter, n).Err(); err != nil {
		return fmt.Errorf("count %s: %w", counter, explain(err))
	}
	return nil
}

// LiveRunner is a runner with its lease and the number of its tasks.
type LiveRunner struct {
	RunnerInfo
	LeaseEnd int64 // Unix ms; 0: it is being taken over
	Running  int64
}

// Runners lists the runners of a queue, dead ones that nobody took over yet among them.
func (q *Queue) Runners(ctx context.Context) ([]LiveRunner, error) {
	leases, _, err := q.Leases(ctx)
	if err != nil {
		return nil, err
	}
	hashes := make([]*redis.MapStringStringCmd, len(leases))
	sizes := make([]*redis.IntCmd, len(leases))
	_, err = q.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, lease := range leases {
			hashes[i] = p.HGetAll(ctx, q.keys.runner(lease.Runner))
			sizes[i] = p.SCard(ctx, q.keys.running(lease.Runner))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read runners of queue %q: %w", q.name, explain(err))
	}
	runners := make([]LiveRunner, len(leases))
	for i, lease := range leases {
		h := hashes[i].Val()
		runners[i] = LiveRunner{
			RunnerInfo: RunnerInfo{
				ID: lease.Runner, Host: h["host"], PID: int(number(h["pid"])), Version: h["version"], Names: strings.Fields(h["names"]),
				StartedAt: number(h["started_at"]), Lease: time.Duration(number(h["lease_ms"])) * time.Millisecond,
			},
			LeaseEnd: lease.End, Running: sizes[i].Val(),
		}
	}
	return runners, nil
}
