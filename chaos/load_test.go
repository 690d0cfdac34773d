package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/redtask/redtask"
	"github.com/redtask/redtask/chaos/ledger"
)

// wish is one task that the load starts: what it should do, and which ends are right.
type wish struct {
	weight int
	task   string
	data   map[string]any
	ends   []redtask.State
	id     string // prefix of its ID; else the client draws one
	stop   bool   // it works until it is stopped
	most   int    // so many in a world; 0: no bound

	options  func(w *world) redtask.StartOptions // what its starts say beside; nil: nothing
	attempts int                                 // that it makes by its policy; 0: one
	unique   bool                                // the key is one that only one live task has
}

var (
	ended     = []redtask.State{redtask.StateEnded}
	exception = []redtask.State{redtask.StateException}
)

// usual is what every world's load starts.
var usual = []wish{
	{weight: 60, task: "chaos/job", data: map[string]any{"ms": 20, "emits": 3}, ends: ended},
	{weight: 20, task: "chaos/job", data: map[string]any{"ms": 400, "emits": 4}, ends: ended},
	{weight: 10, task: "chaos/job", data: map[string]any{"ms": 1500, "emits": 10}, ends: ended},
	{weight: 5, task: "chaos/job", data: map[string]any{"fail": true}, ends: []redtask.State{redtask.StateError}},
	{weight: 5, task: "chaos/job", data: map[string]any{"wrong": true}, ends: exception},
	{weight: 10, task: "chaos/job", data: map[string]any{"ms": 20, "until": 3}, ends: ended, options: retried, attempts: 3},
	{weight: 10, task: "chaos/job", data: map[string]any{"ms": 20}, ends: ended, options: delayed},
	{weight: 15, task: "chaos/keyed", data: map[string]any{"ms": 30}, ends: ended, options: keyed},
}

func retried(*world) redtask.StartOptions {
	return redtask.StartOptions{Retry: &redtask.Retry{Attempts: 5, Backoff: redtask.Constant(100 * time.Millisecond)}}
}

func delayed(w *world) redtask.StartOptions {
	return redtask.StartOptions{In: w.between(time.Millisecond, 3*time.Second), Priority: redtask.PriorityLow}
}

// keyed are tasks of which one of a key runs at a time: by a limit, or because they keep their order.
func keyed(w *world) redtask.StartOptions {
	n := w.intN(4)
	return redtask.StartOptions{
		Key: "key-" + strconv.Itoa(n), Ordered: n%2 == 0, Priority: []redtask.Priority{redtask.PriorityHigh, redtask.PriorityNormal}[w.intN(2)],
	}
}

// started is what is known of one task of the load.
type started struct {
	wish   *wish
	id     string
	called int64 // when it was started
	at     int64 // when its start was acknowledged; 0: it is not known whether it was started
	raw    bool  // by plain commands, without a client
	key    string
	stop   int64 // when a stop was acknowledged
	maybe  bool  // a stop whose answer was lost
	again  int   // restarts, those whose answer was lost among them
	reload int64 // number of the last reload that was acknowledged
	tried  int64 // number of the last one that was tried
	swept  int   // calls of RetryMany that had returned before it
}

// load starts tasks all the while, and stops, reloads and restarts some.
type load struct {
	world  *world
	wishes []wish
	total  int
	pause  time.Duration // between two starts of one starter

	mu    sync.Mutex
	tasks map[string]*started
	drawn map[*wish]int
	longs []*started
	order []string
	next  int
	swept int // calls of RetryMany that have returned

	refusals []refusal
	entries  []*entry // of the schedule
}

const (
	starters  = 3
	longTasks = 8
)

func newLoad(w *world, extra []wish) *load {
	l := &load{world: w, wishes: append(slices.Clone(usual), extra...), pause: 60 * time.Millisecond, tasks: map[string]*started{}, drawn: map[*wish]int{}}
	for _, wish := range l.wishes {
		l.total += wish.weight
	}
	return l
}

// run works until the world is to be quiet.
func (l *load) run() {
	var working sync.WaitGroup
	for i := range longTasks {
		task := "chaos/long"
		if i%3 == 2 {
			task = "chaos/stopper"
		}
		l.begin(&wish{task: task, data: map[string]any{"reload": 0}, stop: true, ends: []redtask.State{redtask.StateStopped}})
	}
	for range starters {
		working.Go(func() {
			for l.world.wait(l.world.between(l.pause/2, l.pause*3/2)) {
				l.begin(l.draw())
			}
		})
	}
	working.Go(func() {
		for l.world.wait(l.world.between(100*time.Millisecond, 500*time.Millisecond)) {
			l.control()
		}
	})
	l.policies(&working)
	working.Wait()
}

func (l *load) draw() *wish { return l.bounded(weighted(l.world, l.wishes, l.total)) }

func weighted(w *world, wishes []wish, total int) *wish {
	n := w.intN(total)
	for i := range wishes {
		if n -= wishes[i].weight; n < 0 {
			return &wishes[i]
		}
	}
	panic("weights do not add up")
}

// bounded replaces what has been started often enough.
func (l *load) bounded(wanted *wish) *wish {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drawn[wanted]++
	if wanted.most > 0 && l.drawn[wanted] > wanted.most {
		return &l.wishes[0]
	}
	return wanted
}

// bounded is the patience of a call of the load.
func bounded() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 3*time.Second)
}

// begin starts a task in one of the ways that there are.
func (l *load) begin(wanted *wish) {
	l.mu.Lock()
	l.next++
	number := l.next
	s := &started{wish: wanted, swept: l.swept}
	l.mu.Unlock()
	ctx, cancel := bounded()
	defer cancel()
	var err error
	switch {
	case wanted.id != "":
		s.id = wanted.id + strconv.Itoa(number)
	case l.world.intN(3) == 0:
		s.id = "own-" + strconv.Itoa(number)
	}
	options := redtask.StartOptions{}
	if wanted.options != nil {
		options = wanted.options(l.world)
	}
	options.ID, s.key = s.id, options.Key
	s.called = ledger.Now()
	switch way := l.world.intN(10); {
	case way == 0 && s.id != "" && wanted.options == nil:
		s.raw = true
		err = l.plain(ctx, s)
	case way == 1:
		var ids []string
		ids, err = l.world.client.StartMany(ctx, []redtask.StartRequest{{Task: wanted.task, Data: wanted.data, Options: options}})
		if err == nil {
			s.id = ids[0]
		}
	default:
		var id string
		id, err = l.world.client.StartWith(ctx, wanted.task, wanted.data, options)
		if err == nil {
			s.id = id
		}
	}
	if err == nil {
		s.at = ledger.Now()
	}
	if wanted.unique {
		l.answered(s, options.ID, err)
	}
	l.enter(s)
}

// enter remembers a task. One of a unique key may be known: another start was told its ID.
func (l *load) enter(s *started) {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := l.tasks[s.id]
	switch {
	case s.id == "": // nobody can say which it is, if it is
		return
	case known != nil:
		if known.at == 0 || s.at != 0 && s.at < known.at {
			known.called, known.at = s.called, s.at
		}
		return
	}
	l.tasks[s.id] = s
	l.order = append(l.order, s.id)
	if s.wish.stop {
		l.longs = append(l.longs, s)
	}
}

// plain starts a task with the two commands that the protocol needs.
func (l *load) plain(ctx context.Context, s *started) error {
	data := fmt.Sprintf(`{"note":"plain"%s}`, fields(s.wish.data))
	if err := l.world.rdb.HSet(ctx, l.world.key("task:"+s.id), "task", s.wish.task, "data", data).Err(); err != nil {
		return err
	}
	return l.world.rdb.LPush(ctx, l.world.key("wait"), s.id).Err()
}

func fields(data map[string]any) string {
	text := ""
	for name, value := range data {
		if s, ok := value.(string); ok {
			value = strconv.Quote(s)
		}
		text += fmt.Sprintf(",%q:%v", name, value)
	}
	return text
}

// control tells a task something.
func (l *load) control() {
	ctx, cancel := bounded()
	defer cancel()
	switch n := l.world.intN(10); {
	case n < 4:
		l.reload(ctx, l.anyLong())
	case n < 6:
		l.restart(ctx, l.anyLong())
	case n < 9:
		l.stop(ctx, l.anyShort(10))
	default:
		l.restart(ctx, l.anyShort(200))
	}
}

func (l *load) anyLong() *started {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.longs) == 0 {
		return nil
	}
	return l.longs[l.world.intN(len(l.longs))]
}

// anyShort draws one of the last so many.
func (l *load) anyShort(last int) *started {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.order) == 0 {
		return nil
	}
	s := l.tasks[l.order[max(0, len(l.order)-1-l.world.intN(last))]]
	if s.wish.stop || s.wish.task != "chaos/job" && s.wish.task != "chaos/keyed" {
		return nil
	}
	return s
}

func (l *load) reload(ctx context.Context, s *started) {
	if s == nil || s.wish.task == "chaos/panic" {
		return
	}
	l.mu.Lock()
	s.tried++
	number := s.tried
	l.mu.Unlock()
	data := maps.Clone(s.wish.data)
	data["reload"] = number
	err := l.world.client.ReloadWith(ctx, s.id, data)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		s.reload = max(s.reload, number)
	}
}

func (l *load) restart(ctx context.Context, s *started) {
	if s == nil || s.wish.task == "chaos/panic" {
		return
	}
	err := l.world.client.Restart(ctx, s.id)
	if errors.Is(err, redtask.ErrNotFound) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.again++
}

func (l *load) stop(ctx context.Context, s *started) {
	if s == nil {
		return
	}
	err := l.world.client.Stop(ctx, s.id)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		s.stop = ledger.Now()
	case !errors.Is(err, redtask.ErrFinal):
		s.maybe = true
	}
}

// settle waits until nothing is left to do: reloads have come true, what works until it is stopped is stopped, everything is final.
func (l *load) settle() {
	if l.world.lossy() { // the last resume may be lost
		l.world.insist("resume", l.world.client.Resume)
	}
	l.endSchedule()
	l.world.bringForward()
	l.runOn()
	for _, s := range l.longs {
		if s.at != 0 && !l.world.lossy() {
			l.world.insist("reload of "+s.id, func(ctx context.Context) error { return l.reloaded(ctx, s) })
		}
		if !l.world.insist("stop of "+s.id, func(ctx context.Context) error { return l.end(ctx, s) }) {
			break // Redis is gone for good, say: each of the others would take as long
		}
	}
	deadline := time.Now().Add(l.world.settling)
	open := slices.Clone(l.order)
	for _, id := range l.world.ids(l.world.keys()) { // also those whose start did not say that it had worked
		if l.tasks[id] == nil {
			if !l.world.insist("stop of "+id, func(ctx context.Context) error { return l.endUnknown(ctx, id) }) {
				break
			}
			open = append(open, id)
		}
	}
	err := poll(deadline, func(context.Context) error {
		if open = l.open(open); len(open) > 0 {
			return fmt.Errorf("%d tasks do not end", len(open))
		}
		return nil
	})
	if err == nil {
		return
	}
	for _, id := range open[:min(5, len(open))] {
		record, fault := l.world.client.Get(context.Background(), id)
		l.world.problem("LOST: %v, one is %s: %+v, %v", err, id, record, fault)
	}
}

// reloaded reports what the record says of the last acknowledged reload.
func (l *load) reloaded(ctx context.Context, s *started) error {
	record, err := l.world.client.Get(ctx, s.id)
	if err != nil {
		return err
	}
	var data struct {
		Reload int64 `json:"reload"`
	}
	if err := json.Unmarshal(record.Data, &data); err != nil {
		return err
	}
	// One that was given up meanwhile, because its runners died too often, began anew with what it had when it ended.
	if data.Reload < s.reload && !record.State.Final() && l.world.watcher.finals(s.id) == 0 {
		return fmt.Errorf("it has the data of reload %d, not of %d; %+v", data.Reload, s.reload, record)
	}
	return nil
}

func (l *load) end(ctx context.Context, s *started) error {
	err := l.world.client.Stop(ctx, s.id)
	switch {
	case err == nil:
		s.stop = ledger.Now()
	case errors.Is(err, redtask.ErrFinal), errors.Is(err, redtask.ErrNotFound):
		return nil
	}
	return err
}

// endUnknown stops a task that works until it is stopped, and whose starter does not know of it.
func (l *load) endUnknown(ctx context.Context, id string) error {
	record, err := l.world.client.Get(ctx, id)
	switch {
	case errors.Is(err, redtask.ErrNotFound), errors.Is(err, redtask.ErrWrongType):
		return nil
	case err != nil || record.Local || record.Task != "chaos/panic":
		return err
	}
	return l.end(ctx, &started{id: id})
}

// open returns those of the IDs that are not final, in bulk.
func (l *load) open(ids []string) []string {
	var left []string
	for chunk := range slices.Chunk(ids, 500) {
		ctx, cancel := bounded()
		pipe := l.world.direct.Pipeline()
		for _, id := range chunk {
			pipe.HMGet(ctx, l.world.key("task:"+id), "state", "task", "local")
		}
		replies, err := pipe.Exec(ctx)
		cancel()
		for i, id := range chunk {
			if err != nil || !l.settled(id, replies[i]) {
				left = append(left, id)
			}
		}
	}
	return left
}
