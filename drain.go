package redtask

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// beginDrain ends claims: from here on no task begins, and what a claim under way still brings is given back.
func (e *engine) beginDrain() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.draining.Store(true)
	e.committer.woken()
}

// drain ends the tasks that run and waits until Redis has their ends.
func (e *engine) drain(ctx context.Context) error {
	late, cancel := lateEnd(ctx)
	defer cancel()
	e.endLocals()
	e.tellShutdown(ctx)
	returned := make(chan struct{})
	go func() {
		defer close(returned)
		e.tasks.Wait()
		e.locals.Wait()
	}()
	select {
	case <-returned:
	case <-late.Done():
		if err := e.stuckError(); err != nil {
			return err
		}
	}
	if err := e.committer.flush(late); err != nil {
		return fmt.Errorf("redtask: queue %q: redis does not answer; what it was not told of (%d ends, and claims whose answer is lost) runs again when the lease ends: %w",
			e.queue.Name(), e.owned(), err)
	}
	return nil
}

// tellShutdown tells tasks with Stop at once; the others get the grace period to end by themselves, but not so much of ctx's time that none
// is left to obey.
func (e *engine) tellShutdown(ctx context.Context) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		e.tasks.Wait()
	}()
	for _, r := range e.snapshot() {
		if r.isStopper() {
			r.tell(ErrShutdown)
		}
	}
	grace := max(0, e.options.Grace)
	if deadline, ok := ctx.Deadline(); ok {
		grace = min(grace, time.Until(deadline)/2)
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
	case <-ctx.Done():
	}
	for _, r := range e.snapshot() {
		r.tell(ErrShutdown)
	}
}

// stuckError names the tasks that have not returned; nil if there are none.
func (e *engine) stuckError() error {
	var stuck []string
	for _, r := range e.snapshot() {
		if !r.isOver() {
			stuck = append(stuck, fmt.Sprintf("%s (ID %s)", r.name, r.id))
		}
	}
	if len(stuck) == 0 {
		return nil
	}
	slices.Sort(stuck)
	const shown = 10
	more := ""
	if len(stuck) > shown {
		stuck, more = stuck[:shown], fmt.Sprintf(" and %d more", len(stuck)-shown)
	}
	return fmt.Errorf("redtask: queue %q: tasks did not return in time when they were told to stop, and stay leased here for %s at most: %s%s",
		e.queue.Name(), e.options.Lease, strings.Join(stuck, ", "), more)
}

// unregister gives up the lease, unless tasks are left or an ID may yet arrive in the inbox: then it ends by itself.
func (e *engine) unregister(ctx context.Context) error {
	late, end := lateEnd(ctx)
	defer end()
	ctx, cancel := context.WithTimeout(late, e.options.RenewInterval)
	defer cancel()
	if !e.lease.isHeld() && !e.fetcher.waited { // else the inbox may hold an ID that nobody else would find
		return nil
	}
	for attempt := 0; ; attempt++ { // a lost answer is asked for again: what is gone is gone
		_, err := e.queue.Unregister(ctx, e.runnerID, e.fetcher.open())
		if err == nil {
			return nil
		}
		if !pause(ctx, backoff(attempt)) {
			return fmt.Errorf("redtask: queue %q: could not give up the lease; it ends by itself: %w", e.queue.Name(), err)
		}
	}
}

// lateEnd makes a context that ends a moment after ctx: what obeys at once is not blamed, and what it did is written.
func lateEnd(ctx context.Context) (context.Context, func()) {
	late, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		pause(late, 250*time.Millisecond)
		cancel(context.Cause(ctx))
	})
	return late, func() { stop(); cancel(nil) }
}
