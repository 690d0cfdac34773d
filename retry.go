package redtask

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// Retry is a policy for tasks that fail: which ends are no end yet, and when the task runs again. Until then it is SCHEDULED, its record
// has the error of the last attempt, and [Record.History] those before. The zero value retries nothing.
type Retry struct {
	// Attempts is how many runs a task has in all, up to [MaxAttempts]. Runs that a shutdown or a dead runner cut short do not count.
	// Default 0, like 1: no retries.
	Attempts int
	// Backoff says how long to wait after each attempt. Default Exponential(time.Second).
	Backoff Backoff
	// MaxDelay bounds what Backoff says, at least 1 ms. Default 1 h for [Exponential]; what the others say holds as it is.
	MaxDelay time.Duration
	// Failures retries ends in ERROR as well, those that the task itself declared with [Fail]. Default false: only EXCEPTION is retried.
	Failures bool
}

// MaxAttempts bounds [Retry.Attempts].
const MaxAttempts = 1000

const (
	defaultFirstDelay  = time.Second
	defaultRetryDelay  = time.Hour
	defaultAskedRuns   = 10 // for RetryAfter without a policy
	maxBackoffDelays   = 100
	historySize        = 10
	maxHistoryError    = 1 << 10
	reasonRetry        = "retry"
	reasonRestart      = "supervised"
	doublingsAtTheMost = 40
)

// Backoff says how long a task waits before it runs again. The zero value is Exponential(time.Second).
type Backoff struct {
	first  time.Duration
	delays []time.Duration
	own    func(attempt int, err error) time.Duration
	fault  string
}

// Exponential doubles the delay with each attempt, from first on, which is at least 1 ms, and then draws the wait evenly from zero to that
// ("full jitter"): what failed together does not come back together.
// See https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
func Exponential(first time.Duration) Backoff { return Backoff{first: first} }

// Constant waits the same time after each attempt: 0, or at least 1 ms.
func Constant(delay time.Duration) Backoff { return Delays(delay) }

// Delays lists the waits after the first, the second, … attempt, 1 to 100 of 0 or at least 1 ms; the last one holds for all
// that follow.
func Delays(delays ...time.Duration) Backoff {
	if len(delays) == 0 {
		return Backoff{fault: "Delays() lists no delay"}
	}
	return Backoff{delays: slices.Clone(delays)}
}

// BackoffFunc asks a function of your own, with the number of the attempt that failed, from 1, and its error. It is called in the task's
// goroutine; what it returns is bounded by zero and MaxDelay. Should it panic, the default is used. It can be given at registration only,
// since a function cannot travel.
func BackoffFunc(own func(attempt int, err error) time.Duration) Backoff {
	if own == nil {
		return Backoff{fault: "BackoffFunc(nil) has no function"}
	}
	return Backoff{own: own}
}

func (b *Backoff) faults(where string) []error {
	var faults []error
	if b.fault != "" {
		faults = append(faults, fmt.Errorf("%w: %s: %s", ErrInvalid, where, b.fault))
	}
	if b.first != 0 && b.first < time.Millisecond { // it travels in ms, where less would be 0, and that the default
		faults = append(faults, fmt.Errorf("%w: %s: Exponential(%s): use at least 1ms; is its unit missing?", ErrInvalid, where, b.first))
	}
	if len(b.delays) > maxBackoffDelays {
		faults = append(faults, fmt.Errorf("%w: %s: %d delays: use at most %d; the last one is repeated", ErrInvalid, where, len(b.delays), maxBackoffDelays))
	}
	for _, delay := range b.delays {
		if delay != 0 && delay < time.Millisecond {
			faults = append(faults, fmt.Errorf("%w: %s: a delay of %s: use 0, or at least 1ms; is its unit missing?", ErrInvalid, where, delay))
		}
	}
	return faults
}

// longest is the default bound of the delays: those that somebody wrote down need none.
func (b *Backoff) longest(exponential time.Duration) time.Duration {
	if b.own != nil || len(b.delays) > 0 {
		return math.MaxInt64
	}
	return exponential
}

// delay is the wait after the nth failure, from 1.
func (b *Backoff) delay(n int, err error, longest time.Duration) time.Duration {
	switch {
	case b.own != nil:
		return min(longest, max(0, b.own(n, err)))
	case len(b.delays) > 0:
		return min(longest, b.delays[min(n, len(b.delays))-1])
	}
	first := b.first
	setDefault(&first, defaultFirstDelay)
	most := longest
	if n <= doublingsAtTheMost && first < longest>>(n-1) {
		most = first << (n - 1)
	}
	return rand.N(most) + time.Millisecond
}

func (r *Retry) withDefaults() *Retry {
	if r == nil {
		return nil
	}
	policy := *r
	setDefault(&policy.Attempts, 1)
	setDefault(&policy.MaxDelay, policy.Backoff.longest(defaultRetryDelay))
	return &policy
}

func (r *Retry) faults(where string) []error {
	if r == nil {
		return nil
	}
	faults := r.Backoff.faults(where + ": Retry.Backoff")
	if r.Attempts < 0 || r.Attempts > MaxAttempts {
		faults = append(faults, fmt.Errorf("%w: %s: Retry.Attempts %d: use 1 to %d", ErrInvalid, where, r.Attempts, MaxAttempts))
	}
	if r.MaxDelay != 0 && r.MaxDelay < time.Millisecond {
		faults = append(faults, fmt.Errorf("%w: %s: Retry.MaxDelay %s: use at least 1ms; is its unit missing?", ErrInvalid, where, r.MaxDelay))
	}
	return faults
}

// askedRetry is an error with which a task says itself whether, and when, it is to run again.
type askedRetry struct {
	err   error
	again bool
	after time.Duration
}

func (a *askedRetry) Error() string { return a.err.Error() }
func (a *askedRetry) Unwrap() error { return a.err }

// RetryAfter makes an error with which a task asks to run again after d, whatever the backoff of its policy says: a server told it to come
// back later, say. The attempts of its [Retry] bound it; without one they are 10. [Retry.Failures] and [Retry.MaxDelay] do not
// matter; under [Supervise] MaxRestarts is the bound. Otherwise it means what err means, so
// RetryAfter(Fail(err), d) ends in ERROR when no attempt is left. A negative d is 0; RetryAfter(nil, d) is nil.
func RetryAfter(err error, d time.Duration) error {
	if err == nil {
		return nil
	}
	return &askedRetry{err: err, again: true, after: max(0, d)}
}

// NoRetry makes an error that is not retried, whatever the policy says: trying again cannot help. A task that is supervised is not run again
// either. NoRetry(nil) is nil.
func NoRetry(err error) error {
	if err == nil {
		return nil
	}
	return &askedRetry{err: err}
}

// next is what follows the end of a run.
type next struct {
	again  bool
	reason string
	delay  time.Duration
	state  State // of the end if the task does not run again
	err    error
	fields []string
}

// next decides whether a run that ended in state is the task's last one.
func (r *Run) next(state State, err error) next {
	end := next{state: state, err: err}
	if r.local {
		return end
	}
	asked, _ := errors.AsType[*askedRetry](err)
	switch {
	case asked != nil && !asked.again:
		return end
	case r.supervise != nil && r.supervise.Restart != RestartNever:
		return r.restarted(end, asked)
	case err == nil:
		return end
	}
	policy := r.retry
	if policy == nil {
		policy = (&Retry{}).withDefaults()
		if asked != nil {
			policy.Attempts = defaultAskedRuns
		}
	}
	if r.attempt >= policy.Attempts || state == StateError && !policy.Failures && asked == nil {
		return end
	}
	return r.within(end, reasonRetry, r.pauseAfter(&policy.Backoff, r.attempt, err, policy.MaxDelay, asked), nil)
}

// pauseAfter is what the task asked for, or its policy says.
func (r *Run) pauseAfter(b *Backoff, n int, err error, longest time.Duration, asked *askedRetry) (delay time.Duration) {
	if asked != nil {
		return asked.after
	}
	fault := guard(func() error { delay = b.delay(n, err, longest); return nil })
	if fault != nil {
		r.Logger().Error("the task's backoff function panicked; the default backoff is used", "error", fault)
		return (&Backoff{}).delay(n, err, defaultRetryDelay)
	}
	return delay
}

// within makes the task run again, unless its deadline comes first.
func (r *Run) within(end next, reason string, delay time.Duration, fields []string) next {
	if r.deadline != 0 && r.engine.now()+delay.Milliseconds() >= r.deadline {
		return end
	}
	return next{again: true, reason: reason, delay: delay, state: end.state, err: end.err, fields: fields}
}
