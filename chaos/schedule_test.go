package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redtask/redtask"
	"github.com/redtask/redtask/chaos/ledger"
)

// entry is one of the schedule, whose firings are tasks of the wish.
type entry struct {
	redtask.CronEntry
	wish    wish
	period  time.Duration
	entered int64 // see ledger.Now
}

// brief is the name of the entry whose tasks leave no record.
const brief = "brief"

// schedule draws the entries of a world: one that keeps all its times, one whose records go at once, one whose tasks take longer than
// its period.
func (l *load) schedule() []*entry {
	overlap := []redtask.Overlap{redtask.OverlapSkip, redtask.OverlapReplace}[l.world.intN(2)]
	missed := []redtask.Missed{redtask.MissedOnce, redtask.MissedAll}[l.world.intN(2)]
	slow := wish{task: "chaos/job", data: map[string]any{"ms": 2500, "emits": 2}, ends: ended, unique: overlap == redtask.OverlapSkip}
	if overlap == redtask.OverlapReplace {
		slow.ends = append(slices.Clone(ended), redtask.StateStopped)
	}
	entries := []*entry{
		{
			CronEntry: redtask.CronEntry{Name: "all", Missed: redtask.MissedAll, Overlap: redtask.OverlapAllow},
			wish:      wish{task: "chaos/job", data: map[string]any{"ms": 20}, ends: ended},
		},
		{
			CronEntry: redtask.CronEntry{Name: brief, Missed: missed, Overlap: redtask.OverlapAllow},
			wish:      wish{task: "chaos/job", data: map[string]any{"ms": 1}, ends: ended},
		},
		{CronEntry: redtask.CronEntry{Name: "slow", Overlap: overlap}, wish: slow},
	}
	for _, e := range entries {
		e.period = time.Duration(1+l.world.intN(2)) * time.Second
		e.Schedule, e.Task, e.Data = "@every "+e.period.String(), e.wish.task, e.wish.data
		e.Options.Priority = []redtask.Priority{redtask.PriorityHigh, redtask.PriorityNormal, redtask.PriorityLow}[l.world.intN(3)]
	}
	return entries
}

// beginSchedule writes the entries, which all the workers let fire.
func (l *load) beginSchedule() {
	for _, e := range l.schedule() {
		if l.world.insist("cron entry "+e.Name, func(ctx context.Context) error { return l.world.client.Cron().Add(ctx, e.CronEntry) }) {
			e.entered = ledger.Now()
			l.entries = append(l.entries, e)
		}
	}
}

// removeBrief removes the records of an entry's tasks as soon as they are final: so none keeps its time from being started again.
func (l *load) removeBrief() {
	v := l.world.watcher
	v.mu.Lock()
	ids := v.brief
	v.brief = nil
	v.mu.Unlock()
	for _, id := range ids {
		ctx, cancel := bounded()
		_ = l.world.client.Remove(ctx, id)
		cancel()
	}
}

// endSchedule sees each entry fire once more, and removes it. What was fired is the load's from then on, as if its starter had got no answer.
func (l *load) endSchedule() {
	first := map[string]time.Time{}
	for _, e := range l.entries {
		l.world.insist("another time of cron entry "+e.Name, func(ctx context.Context) error {
			records, err := l.world.client.Cron().List(ctx)
			if err != nil || l.world.stepped.Load() { // where the clock of Redis went back, the next time is far away
				return err
			}
			for _, r := range records {
				if first[r.Name].IsZero() {
					first[r.Name] = r.NextAt
				}
				if r.Name == e.Name && !r.NextAt.After(first[r.Name]) {
					return fmt.Errorf("the next one is %s all the while", r.NextAt)
				}
			}
			if first[e.Name].IsZero() && !l.world.excused(e.entered, e.entered) {
				return errors.New("it is gone")
			}
			return nil
		})
	}
	for _, e := range l.entries {
		l.world.insist("removal of cron entry "+e.Name, func(ctx context.Context) error { return l.world.client.Cron().Remove(ctx, e.Name) })
	}
	fired := l.world.ids(l.world.keys())
	l.world.watcher.mu.Lock()
	for id := range l.world.watcher.lives {
		fired = append(fired, id)
	}
	l.world.watcher.mu.Unlock()
	for _, e := range l.entries {
		for _, id := range fired {
			if strings.HasPrefix(id, e.Name+"@") {
				l.enter(&started{wish: &e.wish, id: id, key: "entry " + e.Name})
			}
		}
	}
}

// firings checks the times of the entries: they keep their beat, none comes before its time, or before an earlier one; where all that were
// missed are made up for, none is left out. That none ended twice, and all ended, is checked as for any other task.
func (c *check) firings() {
	if c.world.lossy() || c.world.stepped.Load() {
		return
	}
	for _, e := range c.load.entries {
		var last time.Time
		var before *redtask.Record
		for _, id := range c.fired(e) {
			at, err := time.Parse("2006-01-02T15:04:05.000Z", strings.TrimPrefix(id, e.Name+"@"))
			gap := at.Sub(last)
			switch {
			case err != nil:
				c.problem("cron entry %s fired task %s: %v", e.Name, id, err)
			case last.IsZero():
			case gap%e.period != 0:
				c.problem("cron entry %s fired %s after the time before, not on its beat of %s: %s", e.Name, gap, e.period, id)
			case gap != e.period && e.Name == "all":
				c.lost++
				c.problem("LOST: cron entry %s left out %d times before %s", e.Name, gap/e.period-1, id)
			}
			last = at
			record := c.records[id]
			if record == nil {
				continue
			}
			if record.CreatedAt.Before(at) || before != nil && record.CreatedAt.Before(before.CreatedAt) {
				c.problem("cron entry %s fired %s at %s, too early", e.Name, id, record.CreatedAt.UTC())
			}
			before = record
		}
		if last.IsZero() {
			c.problem("cron entry %s never fired", e.Name)
		}
	}
}

// fired lists the tasks of an entry in the order of their times.
func (c *check) fired(e *entry) []string {
	var ids []string
	for _, id := range c.load.order {
		if strings.HasPrefix(id, e.Name+"@") {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}
