package main

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"time"
)

// errUnsupported is what a system answers that cannot do what a workload measures: its cell is "-".
var errUnsupported = errors.New("this system has no such thing")

// system is one library under measurement, or a limit beside it, on one Redis server. A worker process has a system of its own, and so
// has each producer process.
type system interface {
	// start puts one no-op task in line, as a producer that has one to start does; from many goroutines at once.
	start(ctx context.Context, data payload) error
	// work runs one worker that takes tasks with this concurrency and calls handle for each; it returns when the worker is up, and ctx's
	// end stops it. wait blocks until it has. A system that only starts tasks returns errUnsupported.
	work(ctx context.Context, concurrency int, handle handler) (wait func(), err error)
	// finished counts the tasks whose completion Redis has.
	finished(ctx context.Context) (int, error)
	close() error
}

// bulkStarter is a system that starts many tasks with one call.
type bulkStarter interface {
	startMany(ctx context.Context, data []payload) error
}

// spreader is a system that can have its tasks in several queues, all of which its worker takes from.
type spreader interface{ spread(queues int) }

// delayer is a system that starts a task at a time to come.
type delayer interface {
	startAt(ctx context.Context, at time.Time, data payload) error
}

// emitter is a system whose tasks publish events of their own, for anyone who watches.
type emitter interface {
	// emit publishes an event of the running task whose ctx this is.
	emit(ctx context.Context, n int) error
	// watch listens to all tasks from its return on.
	watch(ctx context.Context) (iter.Seq[seen], error)
}

// seen is what a watcher got: an event of a task's own, a task's end, or that something is missing.
type seen struct {
	id  string
	seq int64
	own bool
	end bool
	gap bool
}

// hosted is a system whose work is done in another process, which is measured instead of this one.
type hosted interface{ pid() int }

// handler is what each task does; ctx is the task's own, and ends when the worker is told to stop.
type handler func(ctx context.Context, data json.RawMessage) error

// payload is the data of one task: `{"i":n,"text":"hello world"}`, or with a longer text. A system may encode it in its own way, but its
// handler gets the same JSON.
type payload struct {
	I    int    `json:"i"`
	Text string `json:"text"`
	Sent int64  `json:"sent,omitempty"` // Unix ns, where latency is measured
}

// entrant makes a system for a server; options are flags of its own, as a short poll interval.
type entrant struct {
	name    string
	about   string        // version and settings, for the table's notes
	missing func() string // why it cannot run here; "" if it can. Nil: it always can
	open    func(ctx context.Context, addr string, concurrency int) (system, error)

	only     string // regular expression of the workloads it takes part in; "" is all
	optional bool   // only with a flag of its name
	outside  bool   // its tasks are not in this Redis: what that does is not measured
}
