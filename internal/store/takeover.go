package store

import (
	"context"
	"fmt"
	"time"
)

// Lease is one runner's lease as Redis has it.
type Lease struct {
	Runner string
	End    int64 // Unix ms; 0: it is being taken over
}

// Clock is Redis' own, and what it says of the schedule.
type Clock struct {
	Now     int64 // Unix ms
	NextDue int64 // Unix ms of the next scheduled task, or timer; 0: none
}

// Leases lists the runners of a queue with their lease ends, and tells the clock that they count by.
func (q *Queue) Leases(ctx context.Context) ([]Lease, Clock, error) {
	reply, err := q.run(ctx, scriptLeases, []string{q.keys.runners, q.keys.scheduled})
	if err != nil {
		return nil, Clock{}, err
	}
	v, err := list(reply)
	if err != nil || len(v) < 2 || len(v)%2 != 0 {
		return nil, Clock{}, badReply("leases", reply)
	}
	leases := make([]Lease, 0, len(v)/2-1)
	for pairs := v[2:]; len(pairs) > 0; pairs = pairs[2:] {
		leases = append(leases, Lease{Runner: text(pairs[0]), End: number(pairs[1])})
	}
	return leases, Clock{Now: number(v[0]), NextDue: dueTime(v[1])}, nil
}

// Silence is after how long without a renewal a runner has cancelled its tasks, and after how long its lease has ended; 0 if it is gone.
func (q *Queue) Silence(ctx context.Context, runner string) (silence, lease time.Duration, err error) {
	found, err := q.rdb.HMGet(ctx, q.keys.runner(runner), "silence_ms", "lease_ms").Result()
	if err != nil {
		return 0, 0, fmt.Errorf("read runner %s: %w", runner, explain(err))
	}
	return time.Duration(number(found[0])) * time.Millisecond, time.Duration(number(found[1])) * time.Millisecond, nil
}

// Recovery bounds what may happen to a task whose runners die.
type Recovery struct {
	Most     int           // recoveries of one task before it ends in EXCEPTION
	First    time.Duration // delay of the second recovery; doubled with each further one
	Longest  time.Duration // bound of that delay
	Stable   time.Duration // a run that lasted this long forgets its recoveries
	Limit    int           // tasks to move in one call
	Jitter   int           // a random number below 1000
	LeaseEnd int64         // as it was seen: another one in Redis means that the runner lives
	Watched  bool          // for a whole lease it has not changed: so it is over, also if it is not past by a clock that was set back
}

// DefaultRecovery is what holds where nobody configured it.
func DefaultRecovery() Recovery {
	return Recovery{Most: 10, First: time.Second, Longest: time.Minute, Stable: time.Minute, Limit: MaxBatch}
}

// TakenOver is what one call to TakeOver did.
type TakenOver struct {
	Renewed                          bool // the runner lives after all
	Left                             int  // tasks that a further call must move
	Back, Delayed, Stopped, Poisoned int
}

// TakeOver moves some of a dead runner's tasks back in line.
func (q *Queue) TakeOver(ctx context.Context, dead string, r *Recovery) (TakenOver, error) {
	keys := []string{
		q.keys.runners, q.keys.runner(dead), q.keys.running(dead), q.keys.inbox(dead), q.keys.controlHash(dead),
		q.keys.wait, q.keys.scheduled, q.keys.epoch, q.keys.counters,
	}
	reply, err := q.run(ctx, scriptTakeOver, keys, q.keys.base, dead, r.LeaseEnd, r.Limit,
		r.Most, r.First.Milliseconds(), r.Longest.Milliseconds(), r.Stable.Milliseconds(), r.Jitter, flag(r.Watched))
	if err != nil {
		return TakenOver{}, err
	}
	v, err := list(reply)
	switch {
	case err == nil && len(v) == 1 && number(v[0]) == -1:
		return TakenOver{Renewed: true}, nil
	case err != nil || len(v) != 5:
		return TakenOver{}, badReply("take over", reply)
	}
	return TakenOver{
		Left: int(number(v[0])), Back: int(number(v[1])), Delayed: int(number(v[2])), Stopped: int(number(v[3])), Poisoned: int(number(v[4])),
	}, nil
}
