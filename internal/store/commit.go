package store

import (
	"context"
	"errors"
	"strconv"
	"strings"
)

// MaxBatch is how many fenced items, and how many claims, one commit may hold: it keeps Redis busy for about a millisecond at most.
const MaxBatch = 64

// Batch is what a runner has to say to Redis in one round trip. Items keep their order. The zero Number is not valid: batches are
// numbered upwards from RunnerInfo.Batch + 1, and one sent again under its number is applied once.
type Batch struct {
	Number  int64
	Claim   int
	members []any
	items   []any
}

func (b *Batch) Fenced() int { return len(b.members) }

// Empty reports whether the batch holds no item.
func (b *Batch) Empty() bool { return len(b.items) == 0 }

func (b *Batch) Emit(id, event string) {
	b.items = append(b.items, "emit", id, event)
}

func (b *Batch) fenced(op, id, member string, args ...any) {
	b.members = append(b.members, member)
	b.items = append(b.items, op, id, len(args))
	b.items = append(b.items, args...)
}

// Write sets fields of a task's hash: field, value, …
func (b *Batch) Write(id, member string, fields ...string) {
	b.fenced("write", id, member, anys(fields)...)
}

// Leave ends a run's claim.
type Leave struct {
	State  string   // a final state, WAIT (back at the head of the line), SCHEDULED, REMOVED
	Delay  int64    // ms, for SCHEDULED
	Event  string   // the event's JSON after its kind
	Keep   bool     // the record is to stay
	Fields []string // field, value, … to set with it
}

func (b *Batch) Leave(id, member string, leave *Leave) {
	index := leave.State
	if index == "WAIT" || index == "SCHEDULED" {
		index = "STOPPED" // where it is listed if a pending stop wins
	}
	args := make([]any, 0, 4+len(leave.Fields))
	args = append(args, leave.State, leave.Delay, indexOf(index, leave.Keep), leave.Event)
	b.fenced("leave", id, member, append(args, anys(leave.Fields)...)...)
}

// Swap hands a task from one run to the next after a reload that worked. stopped, whose fields do not count, is for the case that a pending
// stop wins.
func (b *Batch) Swap(id, member string, epoch int64, data string, stopped *Leave) {
	b.fenced("swap", id, member, Member(epoch, id), epoch, data, stopped.Event, indexOf(stopped.State, stopped.Keep))
}

// KeepOld ends a reload that failed: the data that was tried goes, the data that runs stays.
func (b *Batch) KeepOld(id, member, tried, running string) {
	b.fenced("keep", id, member, tried, running)
}

func indexOf(state string, keep bool) string {
	if keep && state != "REMOVED" {
		return "kept"
	}
	return state
}

func anys(values []string) []any {
	out := make([]any, len(values))
	for i, v := range values {
		out[i] = v
	}
	return out
}

// Member is what stands in running:RUNNER for one claim.
func Member(epoch int64, id string) string { return strconv.FormatInt(epoch, 10) + ":" + id }

// Outcome says what became of a whole batch.
type Outcome int

const (
	Applied      Outcome = iota
	Replayed             // it had been applied before: the answer was lost, so what it claimed must be looked up
	Unregistered         // the runner's lease is gone, nothing was done
)

// Result is what a commit did.
type Result struct {
	Outcome Outcome
	Now     int64    // Redis' clock, Unix ms
	Codes   []string // one per fenced item: ok, lost, stopped, broken:message, away:message
	Claims  []Claim
	Drops   []Drop
	Faults  []string // keys of the wrong type and the like
	More    bool     // the claim was filled: more may be in line
}

// Broken is the error that a code `broken:message` tells.
func Broken(code string) error { return explain(errors.New(strings.TrimPrefix(code, "broken:"))) }

// Claim is one claimed task.
type Claim struct {
	ID, Task, Data string
	Epoch          int64
	Attempt        int
	Keep           bool
	Reload         bool // a reload was asked for and has not happened yet
}

// Drop is an ID that was in line and could not be run.
type Drop struct{ ID, Reason string }

// Commit applies a batch and claims more tasks.
func (q *Queue) Commit(ctx context.Context, runner string, b *Batch) (*Result, error) {
	keys := []string{
		q.keys.wait, q.keys.running(runner), q.keys.inbox(runner), q.keys.runner(runner),
		q.keys.controlHash(runner), q.keys.epoch, q.keys.scheduled, q.keys.counters,
	}
	args := make([]any, 0, 5+len(b.members)+len(b.items))
	args = append(args, q.keys.base, runner, b.Number, b.Claim, len(b.members))
	args = append(args, b.members...)
	args = append(args, b.items...)
	reply, err := q.run(ctx, scriptCommit, keys, args...)
	if err != nil {
		return nil, err
	}
	return parseCommit(reply, len(b.members))
}

func parseCommit(reply any, fenced int) (*Result, error) {
	values, err := list(reply)
	if err != nil || len(values) == 0 {
		return nil, badReply("commit", reply)
	}
	switch {
	case text(values[0]) == "unregistered":
		return &Result{Outcome: Unregistered}, nil
	case text(values[0]) == "replayed" && len(values) == 2:
		return &Result{Outcome: Replayed, Now: number(values[1])}, nil
	case text(values[0]) != "ok" || len(values) != 7:
		return nil, badReply("commit", reply)
	}
	result := &Result{Now: number(values[1]), Codes: texts(values[2]), Faults: texts(values[5]), More: number(values[6]) == 1}
	claims, drops := texts(values[3]), texts(values[4])
	if len(result.Codes) != fenced || len(claims)%7 != 0 || len(drops)%2 != 0 {
		return nil, badReply("commit", reply)
	}
	for c := claims; len(c) > 0; c = c[7:] {
		result.Claims = append(result.Claims, Claim{
			ID: c[0], Epoch: number(c[1]), Attempt: int(number(c[2])), Task: c[3], Data: c[4], Keep: c[5] != "", Reload: c[6] != "",
		})
	}
	for d := drops; len(d) > 0; d = d[2:] {
		result.Drops = append(result.Drops, Drop{ID: d[0], Reason: d[1]})
	}
	return result, nil
}
