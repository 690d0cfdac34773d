package store

import (
	"context"
	"strconv"
	"strings"
)

// MaxBatch is how many fenced items, and how many claims, one commit may hold: it keeps Redis busy for about a millisecond at most.
const MaxBatch = 64

// Batch is what a runner has to say to Redis in one round trip. Items keep their order. The zero Number is not valid: batches are
// numbered upwards from RunnerInfo.Batch + 1, and one sent again under its number is applied once.
type Batch struct {
	Number  int64
	After   int64 // number of the batch that is under way before this one, which must be applied first; 0 if none is
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

// begin adds a fenced item, but for the n strings that follow it.
func (b *Batch) begin(op, id, member string, n int) {
	b.members = append(b.members, member)
	b.items = append(b.items, op, id, n)
}

func (b *Batch) addStrings(values []string) {
	for _, value := range values {
		b.items = append(b.items, value)
	}
}

// Write sets fields of a task's hash: field, value, …
func (b *Batch) Write(id, member string, fields ...string) {
	b.begin("write", id, member, len(fields))
	b.addStrings(fields)
}

// Log adds lines to a task's log: how many it keeps, the number of the first line in its run, from 1, then the lines. Those that are there
// already are left out.
func (b *Batch) Log(id, member string, lines ...string) {
	b.begin("log", id, member, len(lines))
	b.addStrings(lines)
}

// Leave ends a run's claim.
type Leave struct {
	State  string   // a final state, WAIT (back at the head of the line), SCHEDULED, REMOVED
	Delay  int64    // ms, for SCHEDULED
	Event  string   // the event's JSON after its kind
	Keep   bool     // the record is to stay
	Holds  bool     // the task has options, or limits
	Fields []string // field, value, … to set with it
}

func (l *Leave) wholeEvent() string { return `{"event":"` + strings.ToLower(l.State) + `",` + l.Event }

func (b *Batch) Leave(id, member string, leave *Leave) {
	event := leave.wholeEvent()
	index := leave.State
	n := 2 + len(leave.Fields)
	op := leave.State
	if leave.Holds {
		op = "special"
		n++
	}
	switch leave.State {
	case "REMOVED":
		b.begin(leave.State, id, member, 1)
		b.items = append(b.items, event)
		return
	case "WAIT":
		index = "STOPPED" // if a pending stop wins
	case "SCHEDULED":
		index = "STOPPED"
		n++
	}
	b.begin(op, id, member, n)
	if leave.Holds {
		b.items = append(b.items, leave.State)
	}
	b.items = append(b.items, event, indexOf(index, leave.Keep))
	if leave.State == "SCHEDULED" {
		b.items = append(b.items, leave.Delay)
	}
	b.addStrings(leave.Fields)
}

// Swap hands a task from one run to the next after a reload that worked. stopped, whose fields do not count, is for the case that a pending
// stop wins.
func (b *Batch) Swap(id, member string, epoch int64, data string, stopped *Leave) {
	if stopped.Holds {
		b.begin("special", id, member, 6)
		b.items = append(b.items, "swap")
	} else {
		b.begin("swap", id, member, 5)
	}
	b.items = append(b.items, Member(epoch, id), epoch, data, stopped.wholeEvent(), indexOf(stopped.State, stopped.Keep))
}

// KeepOld ends a reload that failed: the data that was tried goes, the data that runs stays.
func (b *Batch) KeepOld(id, member, tried, running string) {
	b.begin("keep", id, member, 2)
	b.items = append(b.items, tried, running)
}

func indexOf(state string, keep bool) string {
	if keep && state != "REMOVED" {
		return "kept"
	}
	return state
}

// Member is what stands in running:RUNNER for one claim.
func Member(epoch int64, id string) string { return strconv.FormatInt(epoch, 10) + ":" + id }

// Commit applies a batch and claims more tasks.
func (q *Queue) Commit(ctx context.Context, runner string, b *Batch) (*Result, error) {
	keys := []string{
		q.keys.wait, q.keys.running(runner), q.keys.inbox(runner), q.keys.runner(runner),
		q.keys.controlHash(runner), q.keys.epoch, q.keys.scheduled, q.keys.counters,
	}
	args := make([]any, 0, 6+len(b.members)+len(b.items))
	args = append(args, q.keys.base, runner, b.Number, b.After, b.Claim, len(b.members))
	args = append(args, b.members...)
	args = append(args, b.items...)
	reply, err := q.run(ctx, scriptCommit, keys, args...)
	if err != nil {
		return nil, err
	}
	return parseCommit(reply, len(b.members))
}
