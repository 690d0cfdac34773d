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
	case <-ctx.Done():
		return e.stuckError()
	}
	if err := e.committer.flush(ctx); err != nil {
		return fmt.Errorf("redtask: queue %q: redis did not take what its tasks did (%d have not ended there); these run again when the lease ends: %w",
			e.queue.Name(), e.owned(), err)
	}
	return nil
}

// tellShutdown tells tasks with Stop at once; the others get the grace period to end by themselves.
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
	timer := time.NewTimer(max(0, e.options.Grace))
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

func (e *engine) stuckError() error {
	var stuck []string
	for _, r := range e.snapshot() {
		stuck = append(stuck, fmt.Sprintf("%s (ID %s)", r.name, r.id))
	}
	slices.Sort(stuck)
	const shown = 10
	more := ""
	if len(stuck) > shown {
		stuck, more = stuck[:shown], fmt.Sprintf(" and %d more", len(stuck)-shown)
	}
	return fmt.Errorf("redtask: queue %q: tasks ignore that they were told to stop, and stay leased here for %s at most: %s%s",
		e.queue.Name(), e.options.Lease, strings.Join(stuck, ", "), more)
}

// unregister gives up the lease, unless tasks are left or an ID may yet arrive in the inbox: then it ends by itself.
func (e *engine) unregister(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.options.RenewInterval)
	defer cancel()
	if !e.lease.isHeld() {
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
