package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Walk goes through the IDs of one index while tasks come and go, by the walk's own doing too: what is there all the time is met, and it
// ends. One that is put at an earlier time meanwhile may be missed. One goroutine uses it.
//
// SSCAN and ZSCAN would do on a server; in miniredis their cursors are offsets, and a set that shrinks under them is half missed. So zsets
// are read by rank, each page with a look back: that gives an order as well, the oldest first, and meets nothing twice.
type Walk struct {
	Now   int64 // Redis' clock at the beginning, Unix ms
	queue *Queue
	parts []part
}

// part is a key, or several of one kind. next returns its next IDs, at most MaxBatch; gone tells how many of those before left the index;
// at the end ok is false.
type part interface {
	next(ctx context.Context, q *Queue, gone int) (ids []string, ok bool, err error)
}

// Walk begins at an index: `wait`, `scheduled`, `running`, `kept` or a final state.
func (q *Queue) Walk(ctx context.Context, index string) (*Walk, error) {
	leases, clock, err := q.Leases(ctx)
	if err != nil {
		return nil, err
	}
	w := &Walk{Now: clock.Now, queue: q}
	switch index {
	case "wait":
		// What its turn brings from a limit into line, and back, is met where it was or where it is.
		w.parts = []part{
			&lanes{kinds: "order held"}, &line{key: q.keys.wait + ":high"}, &line{key: q.keys.wait}, &line{key: q.keys.wait + ":low"},
			&lanes{kinds: "held"},
		}
	case "scheduled":
		w.parts = []part{&ranks{key: q.keys.scheduled}}
	case "running":
		for _, lease := range leases {
			w.parts = append(w.parts, &owned{runner: lease.Runner})
		}
	default:
		w.parts = []part{&ranks{key: q.keys.final(index)}}
	}
	return w, nil
}

// Next returns the next IDs, at most MaxBatch and none of them twice; at the end ok is false. gone is how many of those that it returned
// last have left the index by the caller's doing: a guess that is wrong costs a round trip.
func (w *Walk) Next(ctx context.Context, gone int) (ids []string, ok bool, err error) {
	for len(w.parts) > 0 {
		ids, ok, err = w.parts[0].next(ctx, w.queue, gone)
		if err != nil {
			return nil, false, err
		}
		if ok {
			return distinct(ids), true, nil
		}
		w.parts, gone = w.parts[1:], 0
	}
	return nil, false, nil
}

// distinct leaves out what stands there twice, and the empty ID that wakes runners.
func distinct(ids []string) []string {
	seen := map[string]bool{"": true}
	return slices.DeleteFunc(ids, func(id string) bool {
		again := seen[id]
		seen[id] = true
		return again
	})
}

// ranks is a zset in its order. Entries that leave it, or come, before the rank where the walk stands shift what is behind.
type ranks struct {
	key   string
	rank  int64
	begun bool
	last  redis.Z // the entry that was passed last
	end   float64 // the highest score at the beginning: what comes behind it is new
}

var beforeAll = redis.Z{Score: math.Inf(-1), Member: ""}

func (r *ranks) next(ctx context.Context, q *Queue, gone int) ([]string, bool, error) {
	if !r.begun {
		if err := r.begin(ctx, q); err != nil {
			return nil, false, err
		}
	}
	r.rank = max(0, r.rank-int64(gone))
	entries, err := r.page(ctx, q)
	if err != nil {
		return nil, false, err
	}
	var ids []string
	for _, entry := range entries {
		if entry.Score > r.end {
			break
		}
		ids, r.last = append(ids, text(entry.Member)), entry
	}
	return ids, len(ids) > 0, nil
}

func (r *ranks) begin(ctx context.Context, q *Queue) error {
	entries, err := r.read(ctx, q, -1, -1)
	if err != nil {
		return err
	}
	r.begun, r.last, r.end = true, beforeAll, beforeAll.Score
	if len(entries) > 0 {
		r.end = entries[0].Score
	}
	return nil
}

func (r *ranks) read(ctx context.Context, q *Queue, from, to int64) ([]redis.Z, error) {
	entries, err := q.rdb.ZRangeWithScores(ctx, r.key, from, to).Result()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", r.key, explain(err))
	}
	return entries, nil
}

// page returns the entries behind the last one that was passed, and stands at the end of them. The first entry that it reads must be one
// that was passed, or entries before it were removed and some behind may have been overlooked: then it goes back.
func (r *ranks) page(ctx context.Context, q *Queue) ([]redis.Z, error) {
	for back := int64(MaxBatch); ; {
		entries, err := r.read(ctx, q, r.rank, r.rank+MaxBatch-1)
		if err != nil {
			return nil, err
		}
		fresh := slices.IndexFunc(entries, r.isBehind)
		switch {
		case r.rank > 0 && (fresh == 0 || len(entries) == 0):
			r.rank = max(0, r.rank-back)
			back *= 2
		case fresh >= 0:
			r.rank += int64(len(entries)) - 1
			return entries[fresh:], nil
		case len(entries) < MaxBatch:
			return nil, nil
		default: // others came in before: all of these were passed
			r.rank += MaxBatch - 1
		}
	}
}

// isBehind compares as Redis orders: by score, then by the bytes of the member.
func (r *ranks) isBehind(entry redis.Z) bool {
	if entry.Score != r.last.Score {
		return entry.Score > r.last.Score
	}
	return text(entry.Member) > text(r.last.Member)
}

// line is a list from its left end, where new IDs come: they shift what is not met yet away from the walk, not past it. IDs that leave do so
// at the right.
type line struct {
	key    string
	offset int64
	most   int64 // where to give up; 0: not begun
	ended  bool  // the last page reached the right end
}

var errGrows = errors.New("the line grows faster than it can be walked: call again when fewer tasks are started")

func (l *line) next(ctx context.Context, q *Queue, _ int) ([]string, bool, error) {
	if l.ended {
		return nil, false, nil
	}
	if l.most == 0 {
		length, err := q.rdb.LLen(ctx, l.key).Result()
		if err != nil {
			return nil, false, fmt.Errorf("read %s: %w", l.key, explain(err))
		}
		l.most = 4*length + 100*MaxBatch
	}
	ids, err := q.rdb.LRange(ctx, l.key, l.offset, l.offset+MaxBatch-1).Result()
	switch {
	case err != nil:
		return nil, false, fmt.Errorf("read %s: %w", l.key, explain(err))
	case l.offset > l.most:
		return nil, false, fmt.Errorf("read %s: %w", l.key, errGrows)
	}
	l.offset += MaxBatch
	l.ended = len(ids) < MaxBatch // all that was there is passed: a later page would show what new IDs shifted there
	return ids, len(ids) > 0, nil
}

// owned is what a runner owns when its turn comes.
type owned struct {
	runner string
	read   bool
	ids    []string
}

func (o *owned) next(ctx context.Context, q *Queue, _ int) ([]string, bool, error) {
	if !o.read {
		members, err := q.Owned(ctx, o.runner)
		if err != nil {
			return nil, false, err
		}
		for member := range members {
			if _, id, ok := ParseMember(member); ok {
				o.ids = append(o.ids, id)
			}
		}
		o.read = true
	}
	n := min(len(o.ids), MaxBatch)
	ids := o.ids[:n:n]
	o.ids = o.ids[n:]
	return ids, n > 0, nil
}

// lanes are the zsets of tasks that wait beside the line: for a limit, or for those before them of their key. See holds.lua.
type lanes struct {
	kinds string // of those that are wanted
	read  bool
	parts []part
}

func (l *lanes) next(ctx context.Context, q *Queue, gone int) ([]string, bool, error) {
	if !l.read {
		if err := l.find(ctx, q); err != nil {
			return nil, false, err
		}
	}
	for len(l.parts) > 0 {
		ids, ok, err := l.parts[0].next(ctx, q, gone)
		if ok || err != nil {
			return ids, ok, err
		}
		l.parts, gone = l.parts[1:], 0
	}
	return nil, false, nil
}

// find reads the timers, of which each lane has one. A look at one sets it to a later time, so it may be met twice.
func (l *lanes) find(ctx context.Context, q *Queue) error {
	timers := &ranks{key: q.keys.base + "timers", begun: true, last: beforeAll, end: math.Inf(1)}
	seen := map[string]bool{}
	for {
		names, ok, err := timers.next(ctx, q, 0)
		if err != nil {
			return err
		}
		if !ok {
			l.read = true
			return nil
		}
		for _, name := range names {
			if kind, _, _ := strings.Cut(name, ":"); strings.Contains(l.kinds, kind) && !seen[name] {
				seen[name] = true
				l.parts = append(l.parts, &ranks{key: q.keys.base + name})
			}
		}
	}
}
