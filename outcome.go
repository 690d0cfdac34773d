package redtask

import "errors"

// Outcome says how the run ends if it returns err now, by what the task was told so far: as ENDED, ERROR or EXCEPTION, of which a policy may
// make another attempt; as STOPPED; as WAIT if the task goes back in line, for a shutdown, a restart or a lost lease; as RUNNING if the new
// instance of a reload takes over. It is for [Middleware] that counts, traces or logs runs: what is further outside may still return
// another error, and the task may be told to stop until all have returned.
func (r *Run) Outcome(err error) State {
	r.mu.Lock()
	told := r.told
	r.mu.Unlock()
	var failure *declared
	switch {
	case told == ErrRestarted:
		return StateWait
	case panicked(err):
		return StateException
	case errors.Is(err, ErrDone):
		return StateEnded
	case asTold(told, err):
		return stateAsTold(told)
	case err == nil:
		return StateEnded
	case errors.As(err, &failure):
		return StateError
	}
	return StateException
}

func stateAsTold(told error) State {
	switch told {
	case ErrStopped:
		return StateStopped
	case ErrTimedOut, ErrDeadline:
		return StateException
	case ErrReloaded:
		return StateRunning
	}
	return StateWait
}
