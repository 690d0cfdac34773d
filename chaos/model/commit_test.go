package model

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/redtask/redtask/internal/store"
)

// item is one thing that a runner's task did.
type item struct {
	op, id, member string
	text           string   // emit: the event
	fields         []string // write
	leave          *store.Leave
	epoch          int64  // swap: of the next run
	data           string // swap: what it runs with; keep: what the old one runs with
	tried          string // keep
}

// batch is one commit as the model applies it.
type batch struct {
	*model
	runner  string
	owned   map[string]bool // before the batch
	left    map[string]bool // members whose claim an item of this batch ended
	joined  map[string]bool // members that a swap of this batch made
	gone    []string
	settled []string // IDs whose intent is done
	back    []string
	backOf  []string // their members
	result  *store.Result
}

func (m *model) commit(runner string, number int64, claim int, items []item) *store.Result {
	r := m.runners[runner]
	switch {
	case !r.has("batch"):
		return &store.Result{Outcome: store.Unregistered}
	case r.number("batch") >= number:
		return &store.Result{Outcome: store.Replayed, Now: m.told.now}
	}
	b := &batch{
		model: m, runner: runner, owned: map[string]bool{}, left: map[string]bool{}, joined: map[string]bool{},
		result: &store.Result{Now: m.told.now},
	}
	for member := range m.owned[runner] {
		b.owned[member] = true
	}
	for i := range items {
		b.apply(&items[i])
	}
	b.release()
	if claim > 0 {
		b.claim(claim)
	}
	r["batch"] = strconv.FormatInt(number, 10)
	return b.result
}

func (b *batch) apply(i *item) {
	if i.op == "emit" {
		e, err := parseEvent(i.text)
		if err != nil {
			panic(err)
		}
		b.publish(e)
		return
	}
	b.result.Codes = append(b.result.Codes, b.fenced(i))
}

// fenced applies an item if its member is still the runner's, and the record is still the member's.
func (b *batch) fenced(i *item) string {
	if b.left[i.member] || (!b.owned[i.member] && !b.joined[i.member]) {
		return "lost"
	}
	r := b.tasks[i.id]
	if r.has("epoch") && r.member(i.id) != i.member {
		b.left[i.member] = true
		b.gone = append(b.gone, i.member)
		return "lost"
	}
	if r == nil { // somebody deleted the hash
		r = record{}
		defer func() {
			if len(r) > 0 {
				b.tasks[i.id] = r
			}
		}()
	}
	switch i.op {
	case "write":
		r.set(i.fields...)
	case "leave":
		b.left[i.member] = true
		return b.leave(i, r)
	case "swap":
		b.left[i.member] = true
		return b.swap(i, r)
	case "keep":
		b.keep(i, r)
	}
	return "ok"
}

func (b *batch) intent(id string) string { return b.intents[b.runner][id] }

func (b *batch) letGo(i *item) {
	b.gone = append(b.gone, i.member)
	b.settled = append(b.settled, i.id)
}

func (b *batch) putBack(i *item) {
	b.back = append(b.back, i.id)
	b.backOf = append(b.backOf, i.member)
}

// say publishes what a run says last; other data than its own if there is any.
func (b *batch) say(kind, tail, data string) {
	e, err := parseEvent(`{"event":"` + strings.ToLower(kind) + `",` + tail)
	if err != nil {
		panic(err)
	}
	if data != "" {
		e.Data = json.RawMessage(data)
	}
	b.publish(e)
}

func (b *batch) leave(i *item, r record) string {
	l := i.leave
	if l.State == "REMOVED" {
		b.drop(i, r)
		return "ok"
	}
	r.set(l.Fields...)
	word := b.intent(i.id)
	switch {
	case l.State != "STOPPED" && word == store.Restart:
		r.remove("output", "error", "stack", "progress")
		r["attempt"] = "0"
		b.putBack(i)
		b.say("wait", l.Event, `{"reason":"restarted"}`)
	case isFinal(l.State):
		b.finish(i, r, l.State)
	case word == store.Stop:
		b.finish(i, r, "STOPPED")
		return "stopped"
	case l.State == "SCHEDULED":
		b.scheduled[i.id] = b.told.now + l.Delay
		r.set("state", "SCHEDULED", "due_at", strconv.FormatInt(b.scheduled[i.id], 10))
		r.remove("runner", "started_at", "recoveries")
		b.letGo(i)
		b.say("scheduled", l.Event, "")
	default:
		b.putBack(i)
		b.say("wait", l.Event, "")
	}
	return "ok"
}

func (b *batch) finish(i *item, r record, state string) {
	r.set("state", state, "ended_at", b.now())
	b.list(indexOf(state, i.leave.Keep), i.id)
	b.letGo(i)
	b.say(state, i.leave.Event, "")
}

// drop ends a local task.
func (b *batch) drop(i *item, r record) {
	clear(r)
	delete(b.tasks, i.id)
	b.letGo(i)
	b.say("removed", i.leave.Event, "")
}

func (b *batch) swap(i *item, r record) string {
	word := b.intent(i.id)
	switch {
	case word == store.Stop && i.leave.State == "REMOVED":
		b.drop(i, r)
		return "stopped"
	case word == store.Stop:
		b.finish(i, r, "STOPPED")
		return "stopped"
	}
	r.set("epoch", strconv.FormatInt(i.epoch, 10), "started_at", b.now())
	last := r["data"]
	if r.has("reload_data") {
		last = r["reload_data"]
		r["data"] = i.data
		if last == i.data {
			r.remove("reload_data")
		}
	}
	if last == "" {
		last = "null"
	}
	if last == i.data && word != store.Restart {
		b.settled = append(b.settled, i.id)
	}
	next := store.Member(i.epoch, i.id)
	b.own(b.runner, next)
	b.joined[next] = true
	b.gone = append(b.gone, i.member)
	return "ok"
}

func (b *batch) keep(i *item, r record) {
	asked, given := r["reload_data"]
	if given && asked != i.tried {
		return // newer data came meanwhile
	}
	if !given {
		asked = r["data"]
	}
	r.remove("reload_data")
	if r.has("data") && r["data"] == i.tried {
		r["data"] = i.data
	}
	if asked == i.tried && b.intent(i.id) == store.Reload {
		delete(b.intents[b.runner], i.id)
	}
}

func (b *batch) release() {
	for n, id := range b.back {
		b.pushBack(id)
		b.tasks[id].remove("state", "runner", "started_at", "recoveries")
		b.letGo(&item{id: id, member: b.backOf[n]})
	}
	for _, member := range b.gone {
		delete(b.model.owned[b.runner], member)
	}
	for _, id := range b.settled {
		delete(b.intents[b.runner], id)
	}
}

// claim takes first what woke the runner, then from the line. What is left in the inbox then goes back.
func (b *batch) claim(want int) {
	woken := lastOf(b.inboxes[b.runner], want)
	line := lastOf(b.line, want-len(woken))
	var found []string
	for _, id := range slices.Concat(woken, line) {
		switch {
		case slices.Contains(found, id):
			b.discard(id)
		case b.mayRun(id):
			found = append(found, id)
		}
	}
	for _, id := range found {
		b.run(id)
	}
	b.inboxes[b.runner] = b.inboxes[b.runner][:len(b.inboxes[b.runner])-len(woken)]
	b.line = b.line[:len(b.line)-len(line)]
	if dropped := len(b.result.Drops); dropped > 0 {
		b.counters["dropped"] += int64(dropped)
	}
	if len(woken) == want {
		b.returnInbox(b.runner)
	}
	b.result.More = len(woken)+len(line) == want
}

// lastOf returns the last n, the very last first.
func lastOf(ids []string, n int) []string {
	taken := slices.Clone(ids[len(ids)-min(n, len(ids)):])
	slices.Reverse(taken)
	return taken
}

func (b *batch) discard(id string) {
	b.result.Drops = append(b.result.Drops, store.Drop{ID: id})
}

// mayRun reports whether an ID in line is to be claimed; if not it is dropped.
func (b *batch) mayRun(id string) bool {
	r := b.tasks[id]
	switch {
	case len(r) == 0, r.state() != "WAIT":
	case b.runs(id):
		r["state"] = "RUNNING"
	case r.has("task"):
		return true
	default:
		text := "the hash has no field `task`: HSET it to the name of a task, then start the ID again"
		r.set("state", "EXCEPTION", "error", text, "epoch", b.draw(), "ended_at", b.now())
		b.list("EXCEPTION", id)
		b.announce(id, "exception", map[string]any{"error": text}, "", r["epoch"])
	}
	b.discard(id)
	return false
}

func (b *batch) run(id string) {
	r := b.tasks[id]
	if r.has("state") { // by hand: a final task again
		b.unlist(id)
		r.remove("ended_at", "error", "output", "stack", "progress", "recoveries", "reload_data")
	}
	attempt := r.number("attempt") + 1
	r.set("state", "RUNNING", "epoch", b.draw(), "runner", b.runner, "attempt", strconv.FormatInt(attempt, 10), "started_at", b.now())
	b.own(b.runner, r.member(id))
	b.result.Claims = append(b.result.Claims, store.Claim{
		ID: id, Task: r["task"], Data: r["data"], Epoch: b.epoch, Attempt: int(attempt), Keep: r["keep"] != "", Reload: r.has("reload_data"),
	})
}
