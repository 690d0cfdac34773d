package redtask

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redtask/redtask/internal/store"
)

// endingContext tells those who ask, as an HTTP client does, when a run will be told to stop at the latest. It does not end by itself: a
// [Stopper] is told first.
type endingContext struct {
	context.Context
	run *Run
}

func (c endingContext) Deadline() (time.Time, bool) {
	ends := c.run.ends.Load()
	return time.Unix(0, ends), ends != 0
}

// limitTime has the run told when its time is over; the function that it returns ends that.
func (r *Run) limitTime() (stop func()) {
	wait, cause := r.timeout, ErrTimedOut
	if r.deadline > 0 {
		if left := ms(max(0, r.deadline-r.engine.now())); wait == 0 || left < wait {
			wait, cause = left, ErrDeadline
		}
	}
	if cause == ErrTimedOut && wait == 0 {
		return func() {}
	}
	if ends := time.Now().Add(wait).UnixNano(); ends > 0 { // beyond the year 2262 there is no saying
		r.ends.Store(ends)
	}
	timer := time.AfterFunc(wait, func() { r.tell(cause) })
	return func() { timer.Stop() }
}

// TimeoutAfter has the task told to stop after d, like [TaskOptions.Timeout]: with cause [ErrTimedOut], a [Stopper] by Stop first; then the run
// ends in EXCEPTION. It is for [Middleware], and for tasks that learn only when they run how long they may. The function that it returns
// calls it off, and reports false if that was too late. Of several times, also that of the options, the first to be over counts. A d that is
// not positive is over at once. The deadline of the ctx does not tell of it.
func (r *Run) TimeoutAfter(d time.Duration) (stop func() bool) {
	return time.AfterFunc(d, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.told != ErrTimedOut {
			r.allowed = d
		}
		r.tellLocked(ErrTimedOut)
	}).Stop
}

// exceeded is the time that the task took longer than.
func (r *Run) exceeded() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.allowed
}

// overtime is the error of a run that was told that its time is over.
func (r *Run) overtime(told, err error) error {
	text := fmt.Errorf("%w of %s", told, r.exceeded())
	if told == ErrDeadline {
		text = fmt.Errorf("%w since %s", told, time.UnixMilli(r.deadline).UTC().Format(time.RFC3339))
	}
	switch {
	case errors.Is(err, told): // it says so itself
		text = err
	case err != nil:
		text = fmt.Errorf("%w; %w", err, text)
	}
	if told == ErrDeadline {
		return NoRetry(text)
	}
	return text
}

// refusal is why a claimed task must not run.
func refusal(extra *store.Extra) error {
	switch extra.Refused {
	case "":
		return nil
	case "expired":
		return ErrExpired
	}
	return fmt.Errorf("what it needs to keep its order or its limits cannot be read: %w", store.Broken(extra.Refused))
}
