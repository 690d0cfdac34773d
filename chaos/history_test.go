package chaos

import (
	"cmp"
	"slices"
	"time"

	"github.com/redtask/redtask/chaos/ledger"
)

// history is what the ledgers say: the runs of each task, and when each process stood still.
type history struct {
	runs    map[string][]*run // by task ID, in the order of their begin
	down    map[int]int64     // PID -> when it had ended
	kills   map[int]int64     // PID -> when it was killed
	frozen  map[int][]span
	runners map[string]int // ID -> PID
	leaks   []string
	grown   []int64       // bytes of heap that workers had more at their end than at their begin
	heap    map[int]int64 // PID -> at the begin
}

// span is a time from one instant to another; see ledger.Now.
type span struct{ from, to int64 }

func (s span) overlap(o span) span { return span{max(s.from, o.from), min(s.to, o.to)} }

func (s span) length() int64 { return max(0, s.to-s.from) }

// run is one call of Start.
type run struct {
	span
	id, task  string
	epoch     int64
	attempt   int
	pid       int
	cause     string // "" if its process ended first
	loaded    int64
	reload    int64
	writes    []ledger.Line
	knowsLoad bool
}

// cut reports whether the process ended during the run.
func (r *run) cut() bool { return r.cause == "" }

// key is one run's: after Redis lost writes an epoch may come twice, in another process.
type key struct {
	id    string
	epoch int64
	pid   int
}

func newHistory(lines []ledger.Line) *history {
	h := &history{
		runs: map[string][]*run{}, down: map[int]int64{}, kills: map[int]int64{}, frozen: map[int][]span{}, runners: map[string]int{}, heap: map[int]int64{},
	}
	slices.SortStableFunc(lines, func(a, b ledger.Line) int { return cmp.Compare(a.At, b.At) })
	open := map[key]*run{}
	for _, l := range lines {
		h.take(l, open)
	}
	for pid, spans := range h.frozen {
		if last := &spans[len(spans)-1]; last.to == 0 {
			last.to = h.down[pid]
		}
	}
	for _, r := range open {
		r.to = h.down[r.pid]
		if killed := h.kills[r.pid]; killed != 0 {
			r.to = killed
		}
	}
	return h
}

func (h *history) take(l ledger.Line, open map[key]*run) {
	k := key{l.ID, l.Epoch, l.PID}
	r := open[k]
	switch l.Kind {
	case ledger.Begin:
		r = &run{span: span{from: l.At}, id: l.ID, task: l.Task, epoch: l.Epoch, attempt: l.Attempt, pid: l.PID, reload: l.N}
		open[k] = r
		h.runs[l.ID] = append(h.runs[l.ID], r)
	case ledger.End:
		if r != nil {
			r.to, r.cause = l.At, l.Cause
			delete(open, k)
		}
	case ledger.Checkpoint:
		if r != nil {
			r.writes = append(r.writes, l)
		}
	case ledger.Loaded:
		if r != nil {
			r.loaded, r.knowsLoad = l.N, true
		}
	case ledger.Down:
		h.down[l.PID] = l.At
	case ledger.Kill:
		h.kills[l.PID] = l.At
	case ledger.Freeze:
		h.frozen[l.PID] = append(h.frozen[l.PID], span{from: l.At})
	case ledger.Thaw:
		if spans := h.frozen[l.PID]; len(spans) > 0 {
			spans[len(spans)-1].to = l.At
		}
	case ledger.Runner:
		h.runners[l.Runner] = l.PID
	case ledger.Leak:
		h.leaks = append(h.leaks, l.Error)
	case ledger.Up:
		h.heap[l.PID] = l.Heap
	case ledger.Rest:
		h.grown = append(h.grown, l.Heap-h.heap[l.PID])
	}
}

// afterThaw is how long a process that wakes may take to find out that its lease is gone.
const afterThaw = 100 * time.Millisecond

// together is how long two runs worked at the same time, without what is allowed: one's process stood still, or has just woken.
func (h *history) together(a, b *run) time.Duration {
	both := a.overlap(b.span)
	if both.length() == 0 {
		return 0
	}
	still := int64(0)
	for _, r := range []*run{a, b} {
		for _, f := range h.frozen[r.pid] {
			still += both.overlap(span{f.from, f.to + int64(afterThaw)}).length()
		}
	}
	return time.Duration(both.length() - still)
}
