package redtask

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redtask/redtask/internal/store"
)

// engine is one queue's part of a runner. Its parts: the committer writes to Redis and claims, the fetcher waits for work, the lease
// keeps the right to it, the promoter puts due tasks in line, the listener hears what tasks are told; each task has a goroutine.
type engine struct {
	// immutable
	queue       *store.Queue
	store       *store.Store
	runnerID    string
	info        store.RunnerInfo
	options     *RunnerOptions
	entries     map[string]*entry
	client      *Client
	logger      *slog.Logger
	taskContext context.Context
	concurrency int
	fail        func(error) // ends the whole runner

	committer *committer
	fetcher   *fetcher
	lease     *lease
	promoter  *promoter

	clockOffset  atomic.Int64 // ms to add to our clock to get Redis'
	draining     atomic.Bool  // no claims any more
	free         atomic.Int64 // slots
	workers      workers
	tasks        sync.WaitGroup // tasks that run
	locals       sync.WaitGroup
	localContext context.Context
	wakeCron     chan struct{} // capacity 1
	cronEntries  []store.Entry // immutable
	endLocals    context.CancelFunc

	mu   sync.Mutex
	runs map[string]*Run // by ID: those whose end is not written yet
}

// now is Redis' clock as far as we know it, Unix ms.
func (e *engine) now() int64 { return time.Now().UnixMilli() + e.clockOffset.Load() }

func (e *engine) setClock(redisNow int64) {
	if redisNow != 0 {
		e.clockOffset.Store(redisNow - time.Now().UnixMilli())
	}
}

func (e *engine) add(r *Run) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.runs[r.id] = r
}

func (e *engine) remove(r *Run) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.runs[r.id] == r {
		delete(e.runs, r.id)
	}
}

func (e *engine) find(id string) *Run {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.runs[id]
}

func (e *engine) snapshot() []*Run {
	e.mu.Lock()
	defer e.mu.Unlock()
	runs := make([]*Run, 0, len(e.runs))
	for _, r := range e.runs {
		runs = append(runs, r)
	}
	return runs
}

func (e *engine) owned() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.runs)
}

// launch runs a claimed task in a goroutine of its own; false once the engine drains, or if the answer came so late that the fence has
// fallen: it would not fall again for this run.
func (e *engine) launch(claim *store.Claim) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.draining.Load() || e.lease.ranOut() {
		return false
	}
	r := e.newRun(claim)
	if old := e.runs[r.id]; old != nil { // a failover to an older replica has forgotten that claim
		if old.member == r.member {
			return true
		}
		old.tell(ErrLeaseLost)
		r.after = old.returned
	}
	e.runs[r.id] = r
	e.free.Add(-1)
	e.tasks.Add(1)
	if r.keep && !claim.Keep { // who takes over from a dead runner knows no registration
		e.committer.writeLater(r, "keep", "1")
	}
	r.goroutine(func() {
		defer e.tasks.Done()
		_ = e.execute(r, claim.Reload)
	})
	return true
}

// whyNot says why a claim is given back at once.
func (e *engine) whyNot() string {
	if e.draining.Load() {
		return "shutdown"
	}
	return "lease lost"
}

// goroutine runs work in a goroutine that shows in profiles whose it is.
func (r *Run) goroutine(work func()) {
	r.engine.workers.run(func() {
		pprof.Do(r.base, pprof.Labels("redtask_id", r.id, "redtask_task", r.name), func(context.Context) { work() })
	})
}

// loseAll cancels every run: the lease is gone, or nearly so.
func (e *engine) loseAll() {
	for _, r := range e.snapshot() {
		r.tell(ErrLeaseLost)
	}
}

// announce makes the queue known, and checks the protocol's version.
func (e *engine) announce(ctx context.Context) error {
	if err := e.store.Announce(ctx, e.queue.Name()); err != nil {
		return fmt.Errorf("register runner %s: %w", e.runnerID, err)
	}
	return nil
}

// mayClaim reports whether this runner may take more tasks now.
func (e *engine) mayClaim() bool { return !e.draining.Load() && e.lease.fresh() }
