package redtask

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redtask/redtask/internal/store"
)

// Run is what a running task reaches through its ctx. Its methods may be called from any goroutine of the task.
type Run struct {
	// immutable
	engine  *engine
	entry   *entry
	id      string
	name    string
	epoch   int64
	attempt int
	data    json.RawMessage
	strict  bool
	keep    bool
	local   bool
	holds   bool // it has options, or its name has limits: when it leaves, what it holds must go
	*terms
	born     time.Time // when this process learned of it
	member   string
	base     context.Context // values and cancellation of this run, before ProvideContext
	cancel   context.CancelCauseFunc
	returned chan struct{} // closed when Start has returned, or will not be called
	after    chan struct{} // the same of an earlier run of this ID that may still work here; nil if there is none

	// owned by the run's goroutine
	task    Task
	ready   bool            // Init has worked
	ctx     context.Context // base as ProvideContext and middleware wrapped it
	release func()

	logger, plainLogger *slog.Logger // made when one is asked for
	loggerOnce          sync.Once
	log                 *runLog // nil if none is kept

	report string // progress that waits to be written; guarded by the committer's mu

	ends atomic.Int64 // when its ctx ends at the latest, Unix ns; 0: not known

	lost atomic.Bool // redis says that the task is no longer this run's: its events would come between those of the next one

	telling sync.WaitGroup // the goroutine that tells the task to stop

	mu        sync.Mutex // guards what follows
	told      error      // the strongest of the causes so far
	started   bool       // Start was called; inside middleware: and has not returned
	over      bool       // the last method returned
	retries   bool       // it runs again, after retryIn
	output    []byte
	reloading *reloading
	passage   *passage      // from its middleware to the task, while that is at work
	allowed   time.Duration // how long it may run: what TaskOptions or a start says, or TimeoutAfter where that told it
	retryIn   time.Duration

	emitMu    sync.Mutex // one event at a time, so that seq is the order on the wire
	seq       int64
	held      []heldEvent // events of a new instance that has not taken over yet
	heldCount eventCount
	dropped   int64 // those that did not fit there
	active    bool  // events go out
	closed    bool  // the last event is on its way
}

type runKey struct{}

// FromContext returns the run that ctx belongs to. It panics outside of a task's methods, where there is none: that is a programming
// mistake. See [redtasktest] for a run in a unit test.
//
// [redtasktest]: https://pkg.go.dev/github.com/redtask/redtask/redtasktest
func FromContext(ctx context.Context) *Run {
	run, ok := ctx.Value(runKey{}).(*Run)
	if !ok {
		panic("redtask: FromContext: this ctx is not that of a task's Init, Start or Stop, nor derived from one; pass that on, and use redtasktest in a unit test")
	}
	return run
}

// ID is the task's.
func (r *Run) ID() string { return r.id }

// Task is the task's name.
func (r *Run) Task() string { return r.name }

// Queue is the name of the queue that the task runs in.
func (r *Run) Queue() string { return r.engine.queue.Name() }

// Attempt counts the task's runs from 1. A run that a shutdown or a dead runner cut short does not count.
func (r *Run) Attempt() int { return r.attempt }

// Key is the task's [StartOptions.Key]; "" without one.
func (r *Run) Key() string { return r.key }

// Headers are what travels with the task; see [StartOptions.Headers]. Do not change the map.
func (r *Run) Headers() map[string]string { return r.headers }

// Epoch is the number of this claim: larger than that of each earlier run in this queue. Pass it on as a fencing token to systems that
// must refuse a run that was overtaken.
func (r *Run) Epoch() int64 { return r.epoch }

// Logger has the run's ID, name, queue, epoch and attempt as attributes. With [TaskOptions.LogLines] its lines go to the task's log in
// Redis as well, for [Client.Log]. It never waits for Redis. After the run's end they go to the runner's logger only.
func (r *Run) Logger() *slog.Logger {
	r.makeLoggers()
	return r.logger
}

// runnerLogger is the Logger without the task's log: for what is said of writing there, which must not cause more to be written.
func (r *Run) runnerLogger() *slog.Logger {
	r.makeLoggers()
	return r.plainLogger
}

func (r *Run) makeLoggers() {
	r.loggerOnce.Do(func() {
		r.plainLogger = r.engine.logger.With("task", r.name, "id", r.id, "epoch", r.epoch, "attempt", r.attempt)
		r.logger = r.plainLogger
		if r.log != nil && !r.local {
			r.logger = slog.New(slog.NewMultiHandler(r.plainLogger.Handler(), r.log.handler()))
		}
	})
}

// Client talks to the run's own queue; see [Client.ForQueue] for others.
func (r *Run) Client() *Client { return r.engine.client }

// SetOutput sets the task's output, encoded as JSON at once. The last call before the end counts; the record has it when the run ends.
func (r *Run) SetOutput(output any) error {
	encoded, err := encode("output", output, r.engine.options.MaxData)
	if err != nil {
		return err
	}
	if _, err := r.isActive("its output"); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.output = encoded
	return nil
}

// Checkpoint stores how far the task got: the next run of this ID finds it with LoadCheckpoint, on whatever runner. It returns when
// Redis has it. ErrLeaseLost says that another run has the task by now: return, without further effects. While Redis is away it waits,
// until ctx ends.
func (r *Run) Checkpoint(ctx context.Context, state any) error {
	encoded, err := encode("checkpoint", state, r.engine.options.MaxData)
	if err != nil {
		return err
	}
	active, err := r.isActive("a checkpoint")
	if err != nil {
		return err
	}
	if !active {
		return fmt.Errorf("redtask: checkpoint of task %q: its Init runs beside the old instance; write it in Start", r.id)
	}
	return r.engine.committer.write(ctx, r, "checkpoint", string(encoded))
}

// LoadCheckpoint decodes the last checkpoint of this ID into state, a pointer, and reports whether there was one.
func (r *Run) LoadCheckpoint(ctx context.Context, state any) (bool, error) {
	encoded, err := r.engine.queue.Field(ctx, r.id, "checkpoint")
	if err != nil {
		return false, public(err)
	}
	if encoded == "" {
		return false, nil
	}
	if err := json.Unmarshal([]byte(encoded), state); err != nil {
		return false, fmt.Errorf("redtask: decode checkpoint of task %q: %w", r.id, err)
	}
	return true, nil
}

// Progress stores a report in the record and publishes it as the event `progress`. It does not wait for Redis.
func (r *Run) Progress(report any) error {
	encoded, err := encode("progress", report, r.engine.options.MaxData)
	if err != nil {
		return err
	}
	active, err := r.isActive("a progress report")
	if err != nil {
		return err
	}
	if active {
		r.engine.committer.progress(r, string(encoded))
	}
	return r.publish(EventProgress, encoded)
}

// isActive reports whether the run may write to its record: not yet in the Init of a reload, not any more after its end.
func (r *Run) isActive(what string) (bool, error) {
	r.emitMu.Lock()
	defer r.emitMu.Unlock()
	if r.closed {
		return false, r.tooLate(what)
	}
	return r.active, nil
}

func (r *Run) tooLate(what string) error {
	return fmt.Errorf("redtask: task %q has ended: %s comes too late", r.id, what)
}

func (e *engine) newRun(claim *store.Claim) *Run {
	r := &Run{
		engine: e, id: claim.ID, name: claim.Task, epoch: claim.Epoch, attempt: claim.Attempt,
		data: json.RawMessage(claim.Data), keep: claim.Keep, member: store.Member(claim.Epoch, claim.ID), returned: make(chan struct{}),
		born: time.Now(),
	}
	if claim.Data == "" {
		r.data = json.RawMessage("null")
	}
	r.entry = e.entries[claim.Task]
	r.terms = termsOf(r.entry, claim)
	r.holds = claim.Extra != nil && claim.Extra.Options != ""
	if r.entry != nil {
		o := &r.entry.options
		r.strict, r.keep, r.holds = o.Strict, r.keep || o.Keep, r.holds || !o.Limits.isZero()
		if o.LogLines > 0 {
			r.log = newRunLog(r, o)
		}
	}
	r.base, r.cancel = context.WithCancelCause(context.WithValue(e.taskContext, runKey{}, r))
	if r.timeout > 0 || r.deadline > 0 {
		r.base, r.allowed = endingContext{r.base, r}, r.timeout
	}
	r.ctx = r.base
	return r
}

// strength orders the causes: a later one replaces a weaker one. A stop beats all; a restart, which also ends at the front of the
// line, beats a shutdown; a reload is the weakest.
func strength(cause error) int {
	for i, c := range []error{ErrReloaded, ErrLeaseLost, ErrShutdown, ErrTimedOut, ErrDeadline, ErrRestarted, ErrStopped} {
		if cause == c || errors.Is(cause, c) {
			return i + 1
		}
	}
	return 0
}

// tell makes the task stop for a cause. It returns at once; a cause after the first changes only what the end will mean.
func (r *Run) tell(cause error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tellLocked(cause)
}

// lose cancels a run that Redis says is over.
func (r *Run) lose() {
	r.lost.Store(true)
	r.tell(ErrLeaseLost)
}

func (r *Run) tellLocked(cause error) {
	if r.over {
		return // an ordinary end wins
	}
	first := r.told == nil
	if strength(cause) > strength(r.told) {
		r.told = cause
	}
	if !first {
		if cause == ErrLeaseLost {
			r.cancel(cause) // no time is left to be polite
		}
		return
	}
	if r.reloading != nil && cause != ErrReloaded {
		r.reloading.cancel(cause)
	}
	r.telling.Add(1)
	go r.stop(cause, r.started)
}

// isStopper reports whether the task is told by Stop.
func (r *Run) isStopper() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.task.(Stopper)
	return ok
}

func (r *Run) isOver() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.over
}

// stop tells the task in the design's order: Stop first if it has one, then its ctx.
func (r *Run) stop(cause error, started bool) {
	defer r.telling.Done()
	if stopper, ok := r.stopper(started); ok {
		stopped := r.callStop(cause, stopper)
		defer r.await(stopped, "Stop") // what ProvideContext gave is released after that
	}
	r.cancel(cause)
	r.await(r.returned, "Start") // it keeps its slot until then
}

// stopper: only a task whose Start was called can be told by Stop; r.task does not change after that.
func (r *Run) stopper(started bool) (Stopper, bool) {
	if !started {
		return nil, false
	}
	stopper, ok := r.task.(Stopper)
	return stopper, ok
}

// callStop calls Stop and gives the task its time to return from Start.
func (r *Run) callStop(cause error, stopper Stopper) <-chan struct{} {
	if cause == ErrLeaseLost {
		r.cancel(cause) // no time is left to be polite
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), r.entry.options.StopTimeout)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		defer cancel()
		if err := guard(func() error { return stopper.Stop(ctx) }); err != nil {
			r.Logger().Error("Stop failed; the task's ctx is cancelled instead", "error", err)
			r.cancel(cause)
		}
		select { // Stop may return before Start does: the rest of its time is Start's
		case <-r.returned:
		case <-ctx.Done():
		}
	}()
	select {
	case <-r.returned:
	case <-ctx.Done():
	}
	return stopped
}

// await waits for what a method of a task that was told to stop must do, and reports it if it ignores that: Go cannot end a goroutine
// from outside.
func (r *Run) await(done <-chan struct{}, method string) {
	timer := time.NewTimer(r.engine.options.StuckAfter)
	defer timer.Stop()
	select {
	case <-done:
		return
	case <-timer.C:
		r.engine.reportStuck(r, method)
	}
	<-done
}
