package redtask

import (
	"context"

	"github.com/redtask/redtask/internal/store"
)

// reloading is a reload under way: the next run is prepared while the old one works.
type reloading struct {
	cancel context.CancelCauseFunc // ends the preparation
	done   chan struct{}           // closed when it is over
	tried  string                  // the data that the next run was made with; owned by prepareNext
	again  bool                    // asked for once more meanwhile; guarded by the run's mu
	next   *Run                    // prepared and ready; read after done
}

// reload begins a reload unless the task is told to end anyway. With again it is done once more after one that is under way.
func (r *Run) reload(again bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.told != nil && r.told != ErrReloaded, r.over && r.reloading == nil:
		return // the end beats a reload; a recorded one stays for the task's next run
	case r.reloading != nil: // also when it is over: the hand-over looks at this
		r.reloading.again = r.reloading.again || again
		return
	}
	ctx, cancel := context.WithCancelCause(r.base)
	r.reloading = &reloading{cancel: cancel, done: make(chan struct{})}
	go r.prepareNext(ctx, r.reloading)
}

// prepareNext makes the next run ready, then tells the old one.
func (r *Run) prepareNext(ctx context.Context, reload *reloading) {
	var next *Run
	err := errGoexit         // what stays if Init ends the goroutine
	defer reload.cancel(nil) // the preparation is over, whatever came of it
	defer func() {
		if !r.settleReload(reload, next, err) {
			r.reloadFailed(reload, next, err)
		}
		close(reload.done)
	}()
	next, err = r.initNext(ctx, reload)
}

// reloadFailed leaves the old run as it is, and an event says why.
func (r *Run) reloadFailed(reload *reloading, next *Run, err error) {
	if next != nil {
		next.discard()
	}
	r.mu.Lock()
	ending, again := r.over || r.told != nil, reload.again
	r.mu.Unlock()
	if ending {
		return // the end beats the reload; a recorded one stays for the task's next run
	}
	text := truncate(err.Error(), maxErrorText)
	r.Logger().Warn("reload failed; the task goes on with its old data", "error", text)
	r.engine.committer.keepOld(r, reload.tried)       // before the event: whoever answers that with a new reload must find this one settled
	_ = r.publish(EventReloadFailed, errorData(text)) // refused only after the end: nobody waits for it then
	if again {
		r.reload(true)
	}
}

// settleReload decides under one lock between the end of the old run and the readiness of the new one.
func (r *Run) settleReload(reload *reloading, next *Run, err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over || r.told != nil {
		return false
	}
	if err != nil {
		r.reloading = nil
		return false
	}
	reload.next = next
	r.tellLocked(ErrReloaded)
	return true
}

func (r *Run) initNext(ctx context.Context, reload *reloading) (*Run, error) {
	data, epoch, err := r.drawNext(ctx)
	if err != nil {
		return nil, err
	}
	reload.tried = data
	next := r.engine.newRun(&store.Claim{ID: r.id, Task: r.name, Data: data, Epoch: epoch, Attempt: r.attempt, Keep: r.keep,
		Extra: r.extra})
	next.local = r.local
	stop := context.AfterFunc(ctx, func() { next.cancel(context.Cause(ctx)) })
	defer stop()
	if err := next.prepare(); err != nil {
		return next, err
	}
	return next, next.callInit()
}

// drawNext reads the data and reserves an epoch; while Redis is away, or not ready, it keeps trying, as the old run works on. A refusal fails
// the reload.
func (r *Run) drawNext(ctx context.Context) (data string, epoch int64, err error) {
	for attempt := 0; ; attempt++ {
		data, err = r.engine.queue.ReloadData(ctx, r.id)
		if err == nil {
			epoch, err = r.engine.queue.ReserveEpoch(ctx)
		}
		if err == nil || store.Refused(err) || !pause(ctx, backoff(attempt)) {
			return data, epoch, err
		}
	}
}

// discard drops a prepared run that will not start.
func (r *Run) discard() {
	r.cancel(ErrReloaded)
	r.free()
}

// successor returns the run that is to follow: only when the old one did what the reload told it. Any other end is the task's own.
func (r *Run) successor(told, err error) *Run {
	r.mu.Lock()
	reload := r.reloading
	r.mu.Unlock()
	if reload == nil || reload.next == nil {
		return nil
	}
	if told == ErrReloaded && asTold(told, err) {
		return reload.next
	}
	reload.next.discard()
	return nil
}

// handOver moves the claim to the next run. Redis has the last word: a stop that is pending there, or a lost lease, ends the task here;
// then that is what it returns.
func (e *engine) handOver(r, next *Run) (*Run, error) {
	code := e.committer.swap(r, next, r.final(StateStopped, nil))
	if code != "ok" {
		next.discard()
		if !r.local {
			e.free.Add(1)
			e.committer.poke()
		}
		switch code {
		case "stopped":
			return nil, ErrStopped
		case "lost":
			return nil, ErrLeaseLost
		}
		return nil, ErrReloaded
	}
	// Whoever tells all runs did not see this one before the answer.
	if e.draining.Load() {
		next.tell(ErrShutdown)
	} else if e.lease.ranOut() {
		next.tell(ErrLeaseLost)
	}
	r.mu.Lock()
	again := r.reloading.again
	r.mu.Unlock()
	if again {
		next.reload(true)
	}
	return next, nil
}
