package redtask

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// RestartPolicy says which ends of a supervised task are no end.
type RestartPolicy string

// The restart policies, in the words of Erlang's supervisors: https://www.erlang.org/doc/system/sup_princ.html
const (
	RestartAlways    RestartPolicy = "always"     // also when it ENDED
	RestartOnFailure RestartPolicy = "on_failure" // when it ended in ERROR or EXCEPTION
	RestartNever     RestartPolicy = "never"      // as if it were not supervised: to except one start from what its name says
)

// Supervise is a policy for tasks that should always run: they have no attempts that could be used up. What counts is how often they were
// restarted of late; that is kept in the task's record, so a crash loop is seen also when each restart is on another runner. A task that is
// told to stop stays stopped. [Client.Restart] is another thing: it forgets the restarts. The zero value works.
type Supervise struct {
	// Restart says which ends are no end. Default [RestartAlways].
	Restart RestartPolicy
	// Backoff says how long to wait after the first, second, … restart in a row. Default Exponential(time.Second).
	Backoff Backoff
	// MaxDelay bounds what Backoff says, at least 1 ms. Default 1 min for [Exponential]; what the others say holds as it is.
	MaxDelay time.Duration
	// StableAfter is how long a run lasts that forgets the restarts before it. Default 1 min.
	StableAfter time.Duration
	// MaxRestarts within Within are too many: the task ends in EXCEPTION, with an event that says so. 1 to 1,000. Default 100 within 1 h.
	MaxRestarts int
	Within      time.Duration
}

const maxRestarts = 1000

func (s *Supervise) withDefaults() *Supervise {
	if s == nil {
		return nil
	}
	policy := *s
	setDefault(&policy.Restart, RestartAlways)
	setDefault(&policy.MaxDelay, policy.Backoff.longest(time.Minute))
	setDefault(&policy.StableAfter, time.Minute)
	setDefault(&policy.MaxRestarts, 100)
	setDefault(&policy.Within, time.Hour)
	return &policy
}

func (s *Supervise) faults(where string) []error {
	if s == nil {
		return nil
	}
	faults := s.Backoff.faults(where + ": Supervise.Backoff")
	add := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("%w: %s: Supervise.%s", ErrInvalid, where, fmt.Sprintf(format, args...)))
	}
	switch s.Restart {
	case "", RestartAlways, RestartOnFailure, RestartNever:
	default:
		add("Restart %q: use RestartAlways, RestartOnFailure or RestartNever", s.Restart)
	}
	if s.MaxRestarts < 0 || s.MaxRestarts > maxRestarts {
		add("MaxRestarts %d: use 1 to %d", s.MaxRestarts, maxRestarts)
	}
	for name, d := range map[string]time.Duration{"MaxDelay": s.MaxDelay, "StableAfter": s.StableAfter, "Within": s.Within} {
		if d != 0 && d < time.Millisecond {
			add("%s %s: use at least 1ms; is its unit missing?", name, d)
		}
	}
	return faults
}

// restarted decides for a supervised task. Its restarts of late came with the claim, and go back with the end of the run: both are fenced, so
// no two runners count at once.
func (r *Run) restarted(end next, asked *askedRetry) next {
	policy := r.supervise
	if policy.Restart == RestartOnFailure && end.state == StateEnded {
		return end
	}
	now := r.engine.now()
	recent := r.recentRestarts(now)
	if len(recent) >= policy.MaxRestarts {
		end.state, end.err = StateException, fmt.Errorf("restarted %d times within %s, which is the limit: given up; %w",
			len(recent), policy.Within, lastEnd(end))
		return end
	}
	recent = append(recent, strconv.FormatInt(now, 10))
	delay := r.pauseAfter(&policy.Backoff, len(recent), end.err, policy.MaxDelay, asked)
	return r.within(end, reasonRestart, delay, []string{"restarts", strings.Join(recent, " ")})
}

// recentRestarts are those that count; none after a run that was stable.
func (r *Run) recentRestarts(now int64) []string {
	if time.Since(r.born) >= r.supervise.StableAfter {
		return nil
	}
	var recent []string
	for _, at := range strings.Fields(r.restarts) {
		if now-parseInt(at) < r.supervise.Within.Milliseconds() {
			recent = append(recent, at)
		}
	}
	return recent
}

func lastEnd(end next) error {
	if end.err == nil {
		return errors.New("each time it just returned")
	}
	return fmt.Errorf("the last error: %w", end.err)
}
