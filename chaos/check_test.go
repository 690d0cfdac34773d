package chaos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redtask/redtask"
)

// verdict is what became of one episode.
type verdict struct {
	fault      string
	injected   int
	tasks      int // of the load
	runs       int
	recoveries int64
	longest    time.Duration // from a runner's death to its task being in line again
	lost       int
	doubled    int
	excused    int           // lost or doubled within the time that Redis' own loss of writes is documented for
	window     time.Duration // how long before Redis broke the oldest acknowledged start was that it lost
	thaw       time.Duration
	problems   []string
}

// check compares what the ledgers, the events and Redis say.
type check struct {
	*verdict
	world   *world
	load    *load
	history *history
	records map[string]*redtask.Record
	fault   *fault
}

func (c *check) problem(format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

// examine reads everything, and checks it.
func examine(w *world, l *load, f *fault) *check {
	c := &check{verdict: &verdict{fault: f.name, tasks: len(l.order)}, world: w, load: l, fault: f}
	c.crashes()
	c.history = newHistory(w.lines())
	c.readRecords()
	for _, id := range l.order {
		c.ends(l.tasks[id])
		c.runsOf(l.tasks[id])
		c.eventsOf(l.tasks[id])
	}
	c.oneOfAKey()
	c.keysGivenUp()
	c.firings()
	c.paused()
	c.recoveryTimes()
	c.world.insist("connections of workers, which all have the same name", func(ctx context.Context) error {
		connected, err := w.workersConnected(ctx)
		if err == nil && connected == 0 {
			err = errors.New("none is seen")
		}
		return err
	})
	return c
}

// crashes says why a server panicked that is gone.
func (c *check) crashes() {
	for _, server := range c.world.servers {
		log, err := os.ReadFile(filepath.Join(server.Dir(), "log"))
		if err != nil {
			c.problem("log of %s: %v", server.Addr, err)
		}
		if _, report, found := strings.Cut(string(log), "REDIS BUG REPORT START"); found {
			c.problem("redis at %s panicked: %.500s", server.Addr, report)
		}
	}
}

func (c *check) readRecords() {
	c.records = map[string]*redtask.Record{}
	for _, id := range c.load.order {
		read := c.world.insist("read task "+id, func(ctx context.Context) error {
			record, err := c.world.client.Get(ctx, id)
			if err == nil {
				c.records[id] = record
			} else if !isNotFound(err) {
				return err
			}
			return nil
		})
		if !read {
			break
		}
	}
	c.world.insist("count", func(ctx context.Context) error {
		counts, err := c.world.client.Counts(ctx)
		if err == nil {
			c.recoveries = counts.Recovered
			if c.fault.stuck && counts.Stuck == 0 {
				c.problem("no task was reported as stuck")
			}
		}
		return err
	})
}

// ends checks that a task has the one end that it should have.
func (c *check) ends(s *started) {
	record := c.records[s.id]
	switch {
	case record == nil && s.at == 0:
	case record == nil && c.world.excused(s.called, s.at):
		c.excused++
		c.window = max(c.window, c.world.beforeBreak(s.called, s.at))
	case record == nil:
		c.lost++
		c.problem("LOST: task %s (%s) was started%s and has no record", s.id, s.wish.task, c.world.sinceBreak(s.at))
	case !record.State.Final() && (!s.raw || s.at != 0):
		c.lost++
		c.problem("LOST: task %s (%s) is %s", s.id, s.wish.task, record.State)
	case !record.State.Final():
	case !c.mayEnd(s, record):
		c.problem("task %s (%s) ended as %s, not as one of %v: %s", s.id, s.wish.task, record.State, s.wish.ends, record.Error)
	}
}

func (c *check) mayEnd(s *started, r *redtask.Record) bool {
	if r.State == redtask.StateStopped && (s.stop != 0 || s.maybe) {
		return true
	}
	if r.State == redtask.StateException && strings.Contains(r.Error, "recovery given up") {
		return c.recoveriesOf(s.id) >= mostRecovers
	}
	if s.wish.stop && s.stop == 0 && !s.maybe {
		return false
	}
	return slices.Contains(s.wish.ends, r.State)
}

// recoveriesOf counts how often a task came back from a dead runner, as its events tell; where some may be missing, as its record does.
func (c *check) recoveriesOf(id string) int {
	v := c.world.watcher
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.breaks > 0 || c.fault.breaksRedis {
		return c.records[id].Recoveries
	}
	n := 0
	for _, back := range v.recovered {
		if back.id == id {
			n++
		}
	}
	return n
}

// runsOf checks what the ledger has of a task's runs.
func (c *check) runsOf(s *started) {
	runs := c.history.runs[s.id]
	c.runs += len(runs)
	for i, r := range runs {
		for _, later := range runs[i+1:] {
			c.pair(s, r, later)
		}
	}
	record := c.records[s.id]
	if record == nil {
		return
	}
	if !c.fault.loses && record.Attempt > max(1, s.wish.attempts) {
		c.problem("task %s counts %d attempts: deploys and deaths are none", s.id, record.Attempt)
	}
	if record.Recoveries > mostRecovers+1 {
		c.problem("task %s was recovered %d times in a row", s.id, record.Recoveries)
	}
	c.lastRun(s, runs, record)
}

// pair checks two runs of a task: one is over when the other begins, and has no say any more.
func (c *check) pair(s *started, a, b *run) {
	excused := c.world.lossy() && (c.nearBreak(a) || c.nearBreak(b))
	if b.epoch <= a.epoch && !excused {
		c.problem("task %s: a run of epoch %d began after one of epoch %d", s.id, b.epoch, a.epoch)
	}
	for _, write := range a.writes {
		if write.At > b.from && write.Error == "" && !excused {
			c.problem("task %s: epoch %d wrote a checkpoint %s after epoch %d had begun", s.id, a.epoch, time.Duration(write.At-b.from), b.epoch)
		}
	}
	if s.wish.task == "chaos/deaf" {
		return
	}
	both := c.history.together(a, b)
	c.thaw = max(c.thaw, both)
	switch {
	case both <= 0:
	case excused:
		c.excused++
	default:
		c.doubled++
		c.problem("DOUBLED: task %s: epochs %d (pid %d, %s) and %d (pid %d) worked %s at the same time", s.id, a.epoch, a.pid, a.cause, b.epoch, b.pid, both)
	}
}

// oneOfAKey checks that no two tasks of one key ran at the same time; of a unique key, that none waited beside another either.
func (c *check) oneOfAKey() {
	runs := map[string][]*run{}
	for id, s := range c.load.tasks {
		switch {
		case s.wish.task == "chaos/keyed":
			runs[s.key] = append(runs[s.key], c.history.runs[id]...)
		case s.wish.unique:
			runs[s.key] = append(runs[s.key], c.lifeOf(s)...)
		}
	}
	for key, all := range runs {
		slices.SortFunc(all, func(a, b *run) int { return cmp.Compare(a.from, b.from) })
		for i, a := range all {
			for _, b := range all[i+1:] {
				if b.from >= a.to {
					break
				}
				excused := c.world.lossy() && (c.nearBreak(a) || c.nearBreak(b))
				if both := c.history.together(a, b); both > 0 && !excused && a.id != b.id {
					c.problem("two tasks of %s worked %s at the same time: %s, epoch %d (pid %d, %s) and %s, epoch %d (pid %d)",
						key, both, a.id, a.epoch, a.pid, a.cause, b.id, b.epoch, b.pid)
				}
			}
		}
	}
}

// nearBreak reports whether a run was under way, or began, when Redis may have forgotten its claim.
func (c *check) nearBreak(r *run) bool {
	for _, b := range c.world.breaks {
		if r.from < b+int64(lossWindow+lease) && (r.to == 0 || r.to > b-int64(lossWindow)) {
			return true
		}
	}
	return false
}

// lastRun checks that the record is that of the last run.
func (c *check) lastRun(s *started, runs []*run, record *redtask.Record) {
	if len(runs) == 0 {
		if record.State == redtask.StateEnded {
			c.problem("task %s is ENDED and never ran", s.id)
		}
		return
	}
	highest := slices.MaxFunc(runs, func(a, b *run) int { return int(a.epoch - b.epoch) })
	if record.Epoch < highest.epoch && !c.world.lossy() {
		c.problem("task %s: its record is of epoch %d, but it ran with %d", s.id, record.Epoch, highest.epoch)
	}
	var out struct {
		Epoch int64 `json:"epoch"`
	}
	if record.State == redtask.StateEnded && s.wish.task != "chaos/panic" {
		if err := record.DecodeOutput(&out); err != nil {
			c.problem("task %s: %v", s.id, err)
		} else if out.Epoch != record.Epoch {
			c.problem("task %s: its record is of epoch %d, its output of %d", s.id, record.Epoch, out.Epoch)
		}
	}
	if c.world.lossy() {
		return
	}
	known := int64(0)
	for _, r := range runs { // a run finds what those before it were told is written
		if r.knowsLoad && r.loaded < known {
			c.problem("task %s, epoch %d found checkpoint %d; %d was acknowledged", s.id, r.epoch, r.loaded, known)
		}
		for _, write := range r.writes {
			if write.Error == "" && s.wish.task != "chaos/deaf" {
				known = max(known, write.N)
			}
		}
	}
}

// eventsOf checks the order of a task's events, and that each end was told once.
func (c *check) eventsOf(s *started) {
	v := c.world.watcher
	v.mu.Lock()
	defer v.mu.Unlock()
	l := v.lives[s.id]
	// The nodes of a Cluster pass events on to each other; when one dies, or a slot moves, some get lost between them.
	missed := v.breaks > 0 || c.world.kind == cluster && c.fault.breaksRedis
	if l == nil {
		if record := c.records[s.id]; record != nil && record.State.Final() && !missed {
			c.problem("task %s ended without an event", s.id)
		}
		return
	}
	for epoch, stream := range l.runs {
		if stream.holes > 0 && !missed {
			c.problem("task %s, epoch %d: %d holes in its events", s.id, epoch, stream.holes)
		}
		if stream.repeats > 0 && !c.fault.breaksRedis {
			c.problem("task %s, epoch %d: %d events came twice", s.id, epoch, stream.repeats)
		}
		if (stream.disorder > 0 || stream.after > 0) && !c.world.lossy() {
			c.problem("task %s, epoch %d: %d events out of order, %d after the last one", s.id, epoch, stream.disorder, stream.after)
		}
	}
	if again := s.again + c.load.sweeps(s); l.finals > 1+again && !c.world.lossy() {
		c.doubled++
		c.problem("DOUBLED: task %s (%s) ended %d times; %d restarts", s.id, s.wish.task, l.finals, again)
	}
	if record := c.records[s.id]; l.finals == 0 && !missed && record != nil && record.State.Final() {
		c.problem("task %s is %s, but its last event did not come", s.id, record.State)
	}
}

// recoveryTimes measures from each death of a process to its tasks being in line again.
func (c *check) recoveryTimes() {
	v := c.world.watcher
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, back := range v.recovered {
		died := int64(0)
		for _, r := range c.history.runs[back.id] {
			if r.from > back.at {
				break
			}
			at := r.to
			for _, f := range c.history.frozen[r.pid] {
				if f.from > r.from && f.from < back.at && f.from < at {
					at = f.from
				}
			}
			if at < back.at && (r.cut() || at != r.to) {
				died = at
			}
		}
		if died == 0 {
			continue // its lease was lost for another reason
		}
		took := time.Duration(back.at - died)
		c.longest = max(c.longest, took)
		if c.fault.prompt && took > recoveryBound {
			c.problem("task %s was in line again %s after its runner died; the bound is %s", back.id, took, recoveryBound)
		}
	}
}

// mostHeap is what the heap of a worker may keep at its end: of go-redis and the logger, buffers and pools.
const mostHeap = 4 << 20

// mostMemory is what a server may use more when all tasks are gone than at the begin: scripts, buffers of connections.
const mostMemory = 3 << 20

// used is the memory of all servers that have keys.
func (w *world) used(ctx context.Context) (int64, error) {
	var sum atomic.Int64
	err := w.eachServer(ctx, func(ctx context.Context, server *redis.Client) error {
		info, err := server.Info(ctx, "memory").Result()
		sum.Add(field(info, "used_memory:"))
		return err
	})
	return sum.Load(), err
}

// leftovers checks, when all workers have ended, what they left behind.
func (c *check) leftovers() {
	for _, leak := range c.history.leaks {
		c.problem("goroutines are left: %s", leak)
	}
	c.world.insist("connections of workers", c.disconnected)
	for _, grown := range c.history.grown {
		if grown > mostHeap {
			c.problem("a worker's heap is %d bytes larger at its end than at its begin", grown)
		}
	}
	keys := c.keys()
	documented := []string{
		"protocol", "queues", "task:", "final:ENDED", "final:ERROR", "final:EXCEPTION", "final:STOPPED", "epoch", "counters", "cleaner",
	}
	for _, k := range keys {
		short := strings.TrimPrefix(strings.TrimPrefix(k, c.world.prefix+":"), "{"+redtask.DefaultQueue+"}:")
		if !slices.ContainsFunc(documented, func(d string) bool { return short == d || strings.HasSuffix(d, ":") && strings.HasPrefix(short, d) }) {
			c.problem("key %s is left", k)
		}
	}
}

// workersConnected counts the connections of workers.
func (w *world) workersConnected(ctx context.Context) (int, error) {
	var connected atomic.Int64
	err := w.eachServer(ctx, func(ctx context.Context, server *redis.Client) error {
		list, err := server.ClientList(ctx).Result()
		connected.Add(int64(strings.Count(list, " name=worker ")))
		return err
	})
	return int(connected.Load()), err
}

// disconnected checks that no worker is connected any more; an end takes a moment to be seen.
func (c *check) disconnected(ctx context.Context) error {
	connected, err := c.world.workersConnected(ctx)
	if err == nil && connected > 0 {
		err = fmt.Errorf("%d are left", connected)
	}
	return err
}

// keys lists what is in Redis.
func (c *check) keys() []string { return c.world.keys() }

func (w *world) keys() []string {
	var mu sync.Mutex
	found := map[string]bool{}
	w.insist("list keys", func(ctx context.Context) error {
		clear(found)
		return w.eachServer(ctx, func(ctx context.Context, server *redis.Client) error {
			iterator := server.Scan(ctx, 0, "*", 1000).Iterator()
			for iterator.Next(ctx) {
				mu.Lock() // the masters of a cluster are asked side by side
				found[iterator.Val()] = true
				mu.Unlock()
			}
			return iterator.Err()
		})
	})
	return slices.Sorted(maps.Keys(found))
}

// ids are those of the tasks among keys.
func (w *world) ids(keys []string) []string {
	var found []string
	for _, k := range keys {
		if id, ok := strings.CutPrefix(k, w.key("task:")); ok {
			found = append(found, id)
		}
	}
	return found
}

// emptied removes all tasks, and checks that nothing of them stays.
func (c *check) emptied() {
	for _, id := range c.world.ids(c.keys()) {
		if !c.world.insist("remove task "+id, func(ctx context.Context) error { return c.world.client.Remove(ctx, id) }) {
			break
		}
	}
	for _, k := range c.keys() {
		if strings.Contains(k, ":task:") || strings.Contains(k, ":final:") || strings.HasSuffix(k, ":wait") {
			c.problem("key %s is left when all tasks are removed", k)
		}
	}
	c.world.insist("memory of redis as at the begin", func(ctx context.Context) error {
		used, err := c.world.used(ctx)
		if err == nil && used > c.world.before+mostMemory*int64(len(c.world.servers)) {
			err = fmt.Errorf("%d bytes, %d before", used, c.world.before)
		}
		return err
	})
}
