package chaos

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redtask/redtask/chaos/ledger"
)

// watcher hears all events of a queue past the proxies, by the protocol alone, and notes what is wrong with their order.
type watcher struct {
	world  *world
	sub    *redis.PubSub
	ended  sync.WaitGroup
	cancel context.CancelFunc

	mu        sync.Mutex
	lives     map[string]*life
	count     int
	breaks    int // times that the watcher may have missed events
	recovered []recovery
	brief     []string // final tasks of the entry with this name, to be removed
}

// life is what the events of one task say.
type life struct {
	runs   map[int64]*stream // by epoch
	epoch  int64             // the highest
	finals int
	ended  int64 // when the first of these was heard; see ledger.Now
}

// stream is the events of one epoch.
type stream struct {
	seq      int64
	final    string // its last event, if that is a final one
	holes    int
	repeats  int
	disorder int
	after    int // events after the final one
}

// recovery is a task that came back from a dead runner.
type recovery struct {
	at int64 // see ledger.Now
	id string
}

type event struct {
	Event string          `json:"event"`
	Data  json.RawMessage `json:"data"`
	ID    string          `json:"id"`
	Task  string          `json:"task"`
	Epoch int64           `json:"epoch"`
	Seq   int64           `json:"seq"`
}

func newWatcher(w *world) *watcher {
	ctx, cancel := context.WithCancel(context.Background())
	v := &watcher{world: w, lives: map[string]*life{}, cancel: cancel}
	v.sub = w.direct.PSubscribe(ctx, w.key("events:*"))
	if _, err := v.sub.Receive(ctx); err != nil {
		w.t.Fatalf("watch: %v", err)
	}
	v.ended.Go(func() { v.serve(ctx) })
	return v
}

func (v *watcher) close() {
	v.cancel()
	_ = v.sub.Close()
	v.ended.Wait()
}

func (v *watcher) serve(ctx context.Context) {
	for ctx.Err() == nil {
		message, err := v.sub.Receive(ctx)
		switch m := message.(type) {
		case *redis.Message:
			v.take(m)
		case *redis.Subscription:
			v.broke() // it has subscribed anew
		}
		if err != nil && ctx.Err() == nil {
			v.broke()
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
}

func (v *watcher) broke() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.breaks++
}

func (v *watcher) take(m *redis.Message) {
	var e event
	if err := json.Unmarshal([]byte(m.Payload), &e); err != nil {
		v.world.problem("an event that is not JSON on %s: %.200s", m.Channel, m.Payload)
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.count++
	l := v.lives[e.ID]
	if l == nil {
		l = &life{runs: map[int64]*stream{}}
		v.lives[e.ID] = l
	}
	l.take(&e, v.world.handedOver(ledger.Now()))
	if isFinal(e.Event) && strings.HasPrefix(e.ID, brief+"@") {
		v.brief = append(v.brief, e.ID)
	}
	if isRecovery(&e) {
		v.recovered = append(v.recovered, recovery{at: ledger.Now(), id: e.ID})
	}
}

// isRecovery: what came back has its reason in the data; a task that was given up says so too.
func isRecovery(e *event) bool {
	switch e.Event {
	case "wait", "scheduled":
		return strings.Contains(string(e.Data), `"reason":"recovered"`)
	}
	return false
}

// take enters an event; with late, one of before it may still be on its way from another node.
func (l *life) take(e *event, late bool) {
	s := l.runs[e.Epoch]
	if s == nil {
		s = &stream{}
		l.runs[e.Epoch] = s
		if e.Epoch < l.epoch && !late {
			s.disorder++
		}
	}
	l.epoch = max(l.epoch, e.Epoch)
	switch {
	case e.Seq == s.seq:
		s.repeats++
		return
	case e.Seq < s.seq && late:
		return
	case e.Seq < s.seq:
		s.disorder++
	case e.Seq > s.seq+1:
		s.holes++
	}
	s.seq = max(s.seq, e.Seq)
	if s.final != "" {
		s.after++
	}
	if isFinal(e.Event) {
		s.final = e.Event
		if l.finals++; l.finals == 1 {
			l.ended = ledger.Now()
		}
	}
}

func isFinal(kind string) bool {
	switch kind {
	case "ended", "error", "exception", "stopped":
		return true
	}
	return false
}

// finals is how many final events a task had so far.
func (v *watcher) finals(id string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	if l := v.lives[id]; l != nil {
		return l.finals
	}
	return 0
}
