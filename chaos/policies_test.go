package chaos

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/redtask/redtask"
	"github.com/redtask/redtask/chaos/ledger"
)

// more is what further starters start beside the usual load: tasks with policies.
var more = []wish{
	{weight: 20, task: "chaos/job", data: map[string]any{"ms": 200, "emits": 2}, ends: ended, options: unique, unique: true},
	{weight: 5, task: "chaos/failing", data: map[string]any{"ms": 20, "fail": true}, ends: []redtask.State{redtask.StateError}},
	{weight: 5, task: "chaos/failing", data: map[string]any{"ms": 20, "wrong": true}, ends: exception},
	{weight: 5, task: "chaos/failing", data: map[string]any{"ms": 20, "until": 2}, ends: ended, options: retriedLate, attempts: 2},
}

// supervised are tasks that go on until they are stopped, however each run ends.
var supervised = []wish{
	{task: "chaos/job", data: map[string]any{"ms": 300}},
	{task: "chaos/job", data: map[string]any{"ms": 300, "fail": true}},
	{task: "chaos/job", data: map[string]any{"ms": 300, "wrong": true}},
}

const (
	policyStarters = 2
	supervisors    = 3
)

// unique are tasks of which one of a key is live at a time, with each of the answers to a further start.
func unique(w *world) redtask.StartOptions {
	key := "unique-" + strconv.Itoa(w.intN(4))
	once := redtask.Unique(key, 0)
	return redtask.StartOptions{
		Key: key, Once: []redtask.Once{once, once.OrExisting(), once.OrReplace()}[w.intN(3)],
		Priority: []redtask.Priority{redtask.PriorityHigh, redtask.PriorityNormal, redtask.PriorityLow}[w.intN(3)],
	}
}

// retriedLate are tasks whose next attempt Retry brings forward.
func retriedLate(*world) redtask.StartOptions {
	return redtask.StartOptions{Retry: &redtask.Retry{Attempts: 2, Backoff: redtask.Constant(5 * time.Second)}}
}

func restarted(*world) redtask.StartOptions {
	return redtask.StartOptions{Supervise: &redtask.Supervise{
		Backoff: redtask.Constant(100 * time.Millisecond), MaxRestarts: 1000, Within: time.Minute,
	}}
}

// policies starts, beside the rest of the load, what has policies, and calls what is for these.
func (l *load) policies(working *sync.WaitGroup) {
	total := 0
	for i := range more {
		total += more[i].weight
	}
	for range policyStarters {
		working.Go(func() {
			for l.world.wait(l.world.between(l.pause, l.pause*3)) {
				l.begin(weighted(l.world, more, total))
			}
		})
	}
	working.Go(func() {
		for range supervisors {
			wanted := supervised[l.world.intN(len(supervised))]
			wanted.stop, wanted.ends, wanted.options, wanted.attempts = true, []redtask.State{redtask.StateStopped}, restarted, math.MaxInt
			l.begin(&wanted)
		}
		for l.world.wait(l.world.between(100*time.Millisecond, 500*time.Millisecond)) {
			l.change()
		}
	})
	working.Go(func() {
		l.beginSchedule()
		for l.world.wait(50 * time.Millisecond) {
			l.removeBrief()
		}
	})
}

// change does something to tasks of the policies, or makes up for what these take from control.
func (l *load) change() {
	ctx, cancel := bounded()
	defer cancel()
	switch l.world.intN(7) {
	case 0:
		l.reload(ctx, l.anyLong())
	case 1:
		l.restart(ctx, l.anyLong())
	case 2:
		l.stop(ctx, l.anyShort(10))
	case 3:
		l.restart(ctx, l.anyShort(200))
	case 4, 5:
		l.retry(ctx, l.anyFailing(200))
	default:
		l.retryMany(ctx)
	}
}

func (l *load) anyFailing(last int) *started {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n := range min(last, len(l.order)) {
		s := l.tasks[l.order[len(l.order)-1-n]]
		if s.wish.task == "chaos/failing" && l.world.intN(4) == 0 {
			return s
		}
	}
	return nil
}

func (l *load) retry(ctx context.Context, s *started) {
	if s == nil {
		return
	}
	err := l.world.client.Retry(ctx, s.id)
	if errors.Is(err, redtask.ErrNotFound) || errors.Is(err, redtask.ErrRunning) || errors.Is(err, redtask.ErrFinal) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.again++
}

// retryMany runs some of those again that failed. A call counts, whatever its answer, for all that were started before it returned: it
// finds also what is started while it is under way, but each of its steps names its tasks.
func (l *load) retryMany(ctx context.Context) {
	state := []redtask.State{redtask.StateError, redtask.StateException, redtask.StateScheduled}[l.world.intN(3)]
	_, _ = l.world.client.RetryMany(ctx, redtask.Filter{State: state, Task: "chaos/failing", Limit: 1 + l.world.intN(20)})
	l.mu.Lock()
	l.swept++
	l.mu.Unlock()
}

// sweeps is how often RetryMany may have restarted a task.
func (l *load) sweeps(s *started) int {
	if s.wish.task != "chaos/failing" {
		return 0
	}
	return l.swept - s.swept
}

// runOn waits until each of the supervised tasks has run once more: none may have been left behind.
func (l *load) runOn() {
	seen, waiting := map[string]int64{}, []*started{}
	for _, s := range l.longs {
		if s.wish.attempts > 0 && s.at != 0 {
			waiting = append(waiting, s)
		}
	}
	l.world.insist("another run of each supervised task", func(ctx context.Context) error {
		var faults []error
		waiting = slices.DeleteFunc(waiting, func(s *started) bool {
			record, err := l.world.client.Get(ctx, s.id)
			if err != nil {
				faults = append(faults, err)
				return isNotFound(err) && l.world.excused(s.called, s.at)
			}
			first, known := seen[s.id]
			if !known {
				seen[s.id] = record.Epoch
			}
			faults = append(faults, fmt.Errorf("task %s is %s, epoch %d", s.id, record.State, record.Epoch))
			// Whether it may be final, ends checks.
			return record.State.Final() || known && record.State == redtask.StateRunning && record.Epoch > first
		})
		if len(waiting) == 0 {
			return nil
		}
		return errors.Join(faults...)
	})
}

// refusal is a start that was told of another task with its unique key.
type refusal struct {
	called      int64 // see ledger.Now
	key, holder string
	own         string // the ID that it asked for; "" if it had none, or its answer was so late that an earlier call may have come true after it
}

// answered takes a start of a unique key apart: with whose ID it was answered, and whose is none then.
func (l *load) answered(s *started, own string, err error) {
	conflict, refused := errors.AsType[*redtask.ConflictError](err)
	switch {
	case refused && errors.Is(err, redtask.ErrNotUnique):
		s.id, s.at = conflict.ID, ledger.Now()
	case err != nil:
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if own != "" && s.id == own || own == "" && !refused && l.tasks[s.id] == nil {
		return
	}
	if ledger.Now()-s.called > int64(500*time.Millisecond) {
		own = ""
	}
	l.refusals = append(l.refusals, refusal{called: s.called, key: s.key, holder: s.id, own: own})
}

// lifeOf is when a task of a unique key was surely live: in its runs and, as nobody ran it again when it was final, before and between them.
func (c *check) lifeOf(s *started) []*run {
	runs := c.history.runs[s.id]
	if len(runs) == 0 || s.again > 0 {
		return runs
	}
	waits := &run{span: span{from: runs[0].from, to: runs[len(runs)-1].from}, id: s.id, cause: "waits"}
	if s.at != 0 {
		waits.from = min(s.at, waits.from)
	}
	return append([]*run{waits}, runs...)
}

// keysGivenUp checks the starts that were told of another task: that one had the key, was not final before, and they started nothing.
func (c *check) keysGivenUp() {
	v := c.world.watcher
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, r := range c.load.refusals {
		holder, l := c.load.tasks[r.holder], v.lives[r.holder]
		if holder == nil || holder.key != r.key {
			c.problem("a start of %s was told of task %s, which has another key", r.key, r.holder)
		}
		if holder != nil && holder.again == 0 && l != nil && l.finals > 0 && l.ended < r.called && !c.world.lossy() {
			c.problem("a start of %s was told of task %s, which had been final for %s", r.key, r.holder, time.Duration(r.called-l.ended))
		}
		if r.own != "" && (len(c.history.runs[r.own]) > 0 || v.lives[r.own] != nil) {
			c.problem("task %s, refused for task %s of %s, was started", r.own, r.holder, r.key)
		}
	}
}

// pause is a time in which the queue was paused, in epochs: no claim drew one of these.
type pause struct{ after, upTo int64 }

// pause pauses the queue for a while, and resumes it whatever happens. Past the wires, which might bring a resume after the next pause.
func (w *world) pause(d time.Duration) {
	client, err := redtask.NewClient(w.direct, redtask.ClientOptions{Prefix: w.prefix})
	if err != nil {
		w.problem("client: %v", err)
		return
	}
	epoch := func() (n int64) {
		w.insist("read the epoch", func(ctx context.Context) (err error) {
			n, err = w.direct.Get(ctx, w.key("epoch")).Int64()
			return err
		})
		return n
	}
	var p pause
	if w.insist("pause", client.Pause) {
		p.after = epoch()
		w.wait(d)
		p.upTo = epoch()
		w.mu.Lock()
		w.pauses = append(w.pauses, p)
		w.mu.Unlock()
	}
	w.insist("resume", client.Resume)
}

// paused checks that no run was claimed in a pause. A reload takes its epoch without a claim.
func (c *check) paused() {
	if c.world.lossy() {
		return // an epoch may come twice, and a pause may be lost
	}
	for id, runs := range c.history.runs {
		for _, r := range runs {
			for _, p := range c.world.pauses {
				if r.reload == 0 && p.after < r.epoch && r.epoch <= p.upTo {
					c.problem("task %s was claimed, with epoch %d, while the queue was paused", id, r.epoch)
				}
			}
		}
	}
}
