package redtasktest

import (
	"context"
	"time"

	"github.com/redtask/redtask"
)

// Now is the time by the clock of Redis, which delays, retries, schedules, rates, expiries and, until a run begins, deadlines go by.
func (h *Harness) Now() time.Time {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), h.patience())
	defer cancel()
	now, err := h.Redis.Time(ctx).Result()
	if err != nil {
		h.t.Fatalf("redtasktest: ask Redis for the time: %v", err)
	}
	return now
}

// Advance moves the clock of [Options.Clock] on, and has the runner look what is due. It does not wait for what follows: [Harness.Collect] and
// [Watch.Next] do.
func (h *Harness) Advance(d time.Duration) {
	h.t.Helper()
	switch {
	case !h.fake:
		h.t.Fatalf("redtasktest: Advance: this harness has a clock that goes by itself: set Options.Clock to the time at which the test begins")
	case d < 0:
		h.t.Fatalf("redtasktest: Advance by %s: the clock only goes forward", d)
	}
	h.Miniredis.SetTime(h.Now().Add(d))
	h.Miniredis.FastForward(d) // for keys with a TTL
	ctx, cancel := context.WithTimeout(context.Background(), h.patience())
	defer cancel()
	queues, err := h.Client.Queues(ctx)
	if err != nil {
		h.t.Fatalf("redtasktest: %v", err)
	}
	for _, queue := range queues {
		if err := h.Redis.Publish(ctx, h.Prefix+":{"+queue+"}:control:", "due 1").Err(); err != nil {
			h.t.Fatalf("redtasktest: tell the runner what time it is: %v", err)
		}
	}
}

// AdvanceTo is [Harness.Advance] up to a time; one that is past changes nothing.
func (h *Harness) AdvanceTo(at time.Time) {
	h.t.Helper()
	h.Advance(max(0, at.Sub(h.Now())))
}

// Finish is [Harness.Collect] that moves the clock of [Options.Clock] on to whatever the task waits for: its delay, and all its retries.
func (h *Harness) Finish(id string) *Result {
	h.t.Helper()
	for seen := 0; ; {
		record := h.get(id)
		switch {
		case record.State.Final():
			return h.Collect(id)
		case record.State == redtask.StateScheduled:
			h.AdvanceTo(record.DueAt)
		}
		_, events := h.wait(id, "does not go on", func(events Events) bool { return len(events) > seen })
		seen = len(events)
	}
}

func (h *Harness) get(id string) *redtask.Record {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), h.patience())
	defer cancel()
	record, err := h.Client.Get(ctx, id)
	if err != nil {
		h.t.Fatalf("redtasktest: %v", err)
	}
	return record
}
