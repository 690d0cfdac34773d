package redtask

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/redtask/redtask/internal/store"
)

// StartLocal runs a registered task as part of this runner: it takes no slot, is listed in Redis while it runs, is not moved when the
// runner goes, and leaves no record. It returns the task's ID once it runs; ctx bounds only the wait for that. It runs again after a
// pause when it fails, and at once when the runner had lost its lease; it ends when it returns nil or is stopped. Retry and
// Supervise of its registration are not for it. data is encoded as JSON.
func (r *Runner) StartLocal(ctx context.Context, queue, task string, data any) (string, error) {
	encoded, err := encode("data", data, r.options.MaxData)
	if err != nil {
		return "", err
	}
	e, err := r.engineOf(queue)
	if err != nil {
		return "", err
	}
	if e.entries[task] == nil {
		return "", fmt.Errorf("%w: local task %q: this runner has no such task", ErrInvalid, task)
	}
	id := newID()
	running := make(chan struct{}, 1)
	if !e.startLocal(&localTask{engine: e, id: id, name: task, data: encoded, running: running}) {
		return "", fmt.Errorf("redtask: local task %q: the runner is shutting down", task)
	}
	select {
	case <-running:
		return id, nil
	case <-ctx.Done():
		return id, fmt.Errorf("redtask: local task %q, ID %s: not running yet: %w", task, id, context.Cause(ctx))
	}
}

type localTask struct {
	engine   *engine
	id, name string
	data     json.RawMessage
	running  chan struct{} // capacity 1
}

// startLocal refuses once the engine drains: shutdown waits for exactly those that were there.
func (e *engine) startLocal(l *localTask) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.draining.Load() {
		return false
	}
	e.locals.Add(1)
	go func() {
		defer e.locals.Done()
		l.supervise(e.localContext)
	}()
	return true
}

// supervise runs the task until it is through, or ctx ends.
func (l *localTask) supervise(ctx context.Context) {
	for failures := 0; ; failures++ {
		end := l.runOnce(ctx)
		switch {
		case ctx.Err() != nil, end.told == ErrStopped, end.told == nil && (end.err == nil || errors.Is(end.err, ErrDone)):
			return
		case end.told == ErrLeaseLost, end.told == ErrRestarted:
			failures = 0
			continue
		}
		l.engine.logger.Error("a local task failed; it runs again", "task", l.name, "id", l.id, "told", end.told, "error", end.err)
		if !pause(ctx, backoff(failures+4)) {
			return
		}
	}
}

func (l *localTask) runOnce(ctx context.Context) ending {
	e := l.engine
	if err := e.lease.await(ctx); err != nil {
		return ending{err: err}
	}
	r, err := l.adopt(ctx)
	if err == ErrLeaseLost {
		return ending{told: err}
	}
	if err != nil {
		return ending{err: err}
	}
	stop := context.AfterFunc(ctx, func() { r.tell(ErrShutdown) })
	defer stop()
	select {
	case l.running <- struct{}{}:
	default:
	}
	done := make(chan ending, 1)
	r.goroutine(func() {
		end := ending{run: r, err: errGoexit} // what stays if a method ends the goroutine
		defer func() { done <- end }()
		end = e.execute(r, false)
	})
	end := <-done
	l.data = end.run.data // a reload may have replaced it
	return end
}

// lookAgain is how often a local task that runs again looks whether the end of its last run is written, and the lease good.
const lookAgain = 5 * time.Millisecond

// adopt lists the task in Redis, between two batches: comparing what we own never sees it half listed.
func (l *localTask) adopt(ctx context.Context) (*Run, error) {
	type adopted struct {
		run *Run
		err error
	}
	result := make(chan adopted)
	e := l.engine
	var enlist func(callCtx context.Context)
	enlist = func(callCtx context.Context) {
		if ctx.Err() != nil {
			return // nobody waits any more
		}
		// The end of its last run is queued, or may not be sent yet, and goes first. Behind a fence it would be told at once.
		if e.find(l.id) != nil || e.lease.ranOut() {
			time.AfterFunc(lookAgain, func() { e.committer.do(enlist) })
			return
		}
		r, err := l.list(ctx, callCtx)
		if r != nil {
			e.add(r) // before it runs: who stops it at once must find it, and so must the fence
			if e.lease.ranOut() {
				r.tell(ErrLeaseLost) // it has fallen already, and would not fall again for this run
			}
		}
		select {
		case result <- adopted{r, err}:
		case <-ctx.Done():
			if r != nil { // nobody will run it
				e.committer.giveBack(r, "shutdown")
			}
		}
	}
	e.committer.do(enlist)
	select {
	case a := <-result:
		return a.run, a.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// list asks until Redis has answered: whether a call without an answer listed the task, only the next one tells. A refusal is an answer:
// the batches of the other tasks must not wait behind it.
func (l *localTask) list(ctx, callCtx context.Context) (*Run, error) {
	e := l.engine
	for attempt := 0; ; attempt++ {
		epoch, err := e.queue.Adopt(callCtx, e.runnerID, l.id, l.name, string(l.data))
		switch {
		case err != nil:
			if store.Answered(err) || !e.committer.tryAgain(ctx, attempt, err) {
				return nil, err
			}
			continue
		case epoch == 0:
			e.lease.lost() // else it would be asked for again and again until the next renewal
			return nil, ErrLeaseLost
		}
		r := e.newRun(&store.Claim{ID: l.id, Task: l.name, Data: string(l.data), Epoch: epoch, Attempt: 1})
		r.local = true
		return r, nil
	}
}
