// Package monitor is the task redtask/monitor: it puts the tasks of dead runners back in line, and scheduled ones when they are due. Any
// number of monitors may watch one queue; each step that they take is one atomic script.
package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/redtask/redtask/internal/store"
)

const Name = "redtask/monitor"

// Options of a monitor; builtin.MonitorOptions documents them.
type Options struct {
	Interval      time.Duration
	MaxRecoveries int
	FirstDelay    time.Duration
	LongestDelay  time.Duration
	StableAfter   time.Duration
	Logger        *slog.Logger
}

// Task watches the leases of one queue.
type Task struct {
	options Options
	queue   *store.Queue
	seen    map[string]*observation
	pause   time.Duration // until the next look
}

// observation is one lease end and since when, on our own monotonic clock, it has not changed; and what its runner promised.
type observation struct {
	end     int64
	since   time.Time
	silence time.Duration // 0: not asked yet
	lease   time.Duration
}

func New(options Options) *Task {
	usual := store.DefaultRecovery()
	setDefault(&options.Interval, time.Second)
	setDefault(&options.MaxRecoveries, usual.Most)
	setDefault(&options.FirstDelay, usual.First)
	setDefault(&options.LongestDelay, usual.Longest)
	setDefault(&options.StableAfter, usual.Stable)
	return &Task{options: options, seen: map[string]*observation{}}
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (t *Task) Init(ctx context.Context, _ json.RawMessage) error {
	bound := store.FromContext(ctx)
	t.queue = bound.Queue
	setDefault(&t.options.Logger, bound.Logger)
	return nil
}

// Start watches until ctx ends. It survives a Redis that is away: what it saw before stays seen.
func (t *Task) Start(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		if err := t.watch(ctx); err != nil && ctx.Err() == nil {
			t.options.Logger.WarnContext(ctx, "monitor could not look for dead runners; it goes on trying", "queue", t.queue.Name(), "error", err)
		}
		timer.Reset(t.pause)
	}
}

// atEase is how many intervals pass between two looks while all is well.
const atEase = 5

// watch looks once. While every lease is good, and nothing is due, the next look comes when the first of them may be past, or after a few
// intervals: runners have appeared by then, and others have renewed.
func (t *Task) watch(ctx context.Context) error {
	t.pause = t.options.Interval
	leases, clock, err := t.queue.Leases(ctx)
	if err != nil {
		return err
	}
	pause := atEase * t.options.Interval
	until := func(at int64) { pause = min(pause, time.Duration(at-clock.Now)*time.Millisecond) }
	if clock.NextDue != 0 {
		until(clock.NextDue)
	}
	seen := make(map[string]*observation, len(leases))
	var faults []error
	for _, lease := range leases {
		o := t.seen[lease.Runner]
		if o == nil {
			o = &observation{}
		}
		if o.end != lease.End || o.since.IsZero() {
			o.end, o.since = lease.End, time.Now()
		}
		seen[lease.Runner] = o
		past := lease.End < clock.Now
		until(lease.End + 1)
		if past || time.Since(o.since) > shortestLease {
			faults = append(faults, t.judge(ctx, lease, o, past))
		}
	}
	t.seen = seen
	t.pause = max(pause, t.options.Interval)
	if clock.NextDue != 0 && clock.NextDue <= clock.Now {
		faults = append(faults, t.promote(ctx))
	}
	return errors.Join(faults...)
}

// promote puts due tasks in line: a runner knows what it scheduled itself, but learns only at its next renewal what a takeover did.
func (t *Task) promote(ctx context.Context) error {
	for {
		done, err := t.queue.Promote(ctx, store.MaxBatch)
		if err != nil || done.Moved < store.MaxBatch {
			return err
		}
	}
}

// shortestLease is when an unchanged lease is first looked at that is not past.
const shortestLease = time.Second

// judge takes over from a runner whose lease is past by Redis' clock, and which on our own clock has been silent for as long as it may
// be before it cancels its tasks. So a Redis clock that jumps, or a failover to an older lease, steals nothing from a runner that lives.
// One whose lease has not changed for as long as it lasts is dead whatever that clock says: it may have been set back.
func (t *Task) judge(ctx context.Context, lease store.Lease, o *observation, past bool) error {
	if lease.End == 0 {
		return t.takeOver(ctx, lease, false)
	}
	if o.lease == 0 { // asked once: what lives is seen again and again
		var err error
		if o.silence, o.lease, err = t.queue.Silence(ctx, lease.Runner); err != nil {
			return err
		}
	}
	watched := o.lease > 0 && time.Since(o.since) >= max(o.lease, o.silence)
	if !watched && (!past || time.Since(o.since) < o.silence) {
		return nil
	}
	return t.takeOver(ctx, lease, watched)
}

func (t *Task) takeOver(ctx context.Context, lease store.Lease, watched bool) error {
	recovery := store.Recovery{
		Most: t.options.MaxRecoveries, First: t.options.FirstDelay, Longest: t.options.LongestDelay, Stable: t.options.StableAfter,
		Limit: store.MaxBatch, LeaseEnd: lease.End, Watched: watched,
	}
	total := store.TakenOver{}
	for {
		recovery.Jitter = rand.IntN(1000)
		done, err := t.queue.TakeOver(ctx, lease.Runner, &recovery)
		if err != nil {
			return err
		}
		if done.Renewed {
			break
		}
		total.Back += done.Back
		total.Delayed += done.Delayed
		total.Stopped += done.Stopped
		total.Poisoned += done.Poisoned
		if done.Left == 0 {
			break
		}
	}
	if total != (store.TakenOver{}) {
		t.options.Logger.WarnContext(ctx, "took over the tasks of a dead runner", "queue", t.queue.Name(), "dead_runner", lease.Runner,
			"back", total.Back, "delayed", total.Delayed, "stopped", total.Stopped, "given_up", total.Poisoned)
	}
	return nil
}
