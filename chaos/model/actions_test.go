package model

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/redtask/redtask/internal/store"
)

// Few of each, so that calls meet.
var (
	ids     = []string{"a", "b:1", `c "q" \ {ü}`, "d"}
	runners = []string{"r1", "r2", `r"3`}
	data    = []string{`1`, `{"a":1,"id":2}`, `null`, ``}
)

// runAt is the time in the events of runs, which is the runner's: no server has it.
const runAt = 1

// actions names them in the order of their weight: rapid draws the first ones more often, and of one that stands there several times each.
func (m *machine) actions() map[string]func(t *rapid.T) {
	actions := map[string]func(t *rapid.T){}
	add := func(times int, name string, action func(t *rapid.T)) {
		kind := len(actions)
		for n := range times {
			actions[fmt.Sprintf("%d %03d %s", n, kind, name)] = action
		}
	}
	add(6, "work", m.work)
	add(4, "claim", m.claim)
	add(3, "start", m.start)
	for _, what := range []string{"reload", "stop", "restart"} {
		add(3, what, m.tell(what))
	}
	add(3, "crash", m.crash)
	add(3, "replay", m.replay)
	add(3, "promote", m.promote)
	add(2, "wake", m.wake)
	add(1, "start drawn", m.startDrawn)
	add(1, "again", m.again)
	add(1, "pass", m.wait)
	add(1, "expire", m.expire)
	add(1, "reap", m.reap)
	if m.byHand {
		for _, what := range []string{"push", "again", "create", "nameless", "data", "keep", "delete"} {
			add(1, "by hand: "+what, m.hand(what))
		}
	}
	add(1, "remove", m.tell("remove"))
	add(2, "expired", m.expired)
	add(2, "sweep", m.sweep)
	add(1, "unlock", m.unlock)
	for _, what := range []string{"register", "renew", "unregister", "adopt"} {
		add(1, what, m.runner(what))
	}
	return actions
}

func pick[V any](t *rapid.T, label string, values []V) V {
	return rapid.SampledFrom(values).Draw(t, label)
}

// seldom is true in fewer than one of five.
func seldom(t *rapid.T, label string) bool { return below(t, label, 5) == 4 }

func below(t *rapid.T, label string, n int) int { return rapid.IntRange(0, n-1).Draw(t, label) }

// fresh makes an ID or a nonce that was never used.
func (m *machine) fresh(kind string) string {
	m.drawn++
	return kind + strconv.Itoa(m.drawn)
}

// known lists the IDs of the pool, and those that clients drew, local tasks among them.
func (m *machine) known() []string {
	return slices.Concat(ids, keysOf(m.model.tasks), []string{"missing"})
}

func (m *machine) newTasks(t *rapid.T) []store.NewTask {
	tasks := make([]store.NewTask, 1+below(t, "tasks", 3))
	for i := range tasks {
		tasks[i] = store.NewTask{
			ID: pick(t, "id", ids), Nonce: m.fresh("n"), Task: taskName, Data: pick(t, "data", data), Keep: rapid.Bool().Draw(t, "keep"),
		}
	}
	return tasks
}

func (m *machine) start(t *rapid.T) { m.make(t, startCall{m.newTasks(t)}) }

// startDrawn starts tasks whose IDs the client draws.
func (m *machine) startDrawn(t *rapid.T) {
	if len(m.model.tasks) > 3*len(ids) {
		t.Skip("enough of them")
	}
	m.make(t, startCall{append(m.newTasks(t), m.drawnTask(t))})
}

func (m *machine) drawnTask(t *rapid.T) store.NewTask {
	return store.NewTask{ID: m.fresh("drawn"), Task: taskName, Data: pick(t, "data", data), Keep: rapid.Bool().Draw(t, "keep")}
}

// wake is a start while a runner waits for an ID.
func (m *machine) wake(t *rapid.T) {
	live := m.live()
	if len(live) == 0 {
		t.Skip("no runner")
	}
	start := startCall{append(m.newTasks(t), m.drawnTask(t))} // so that there is one to be moved
	m.history = append(m.history, start)
	m.do(t, wakeCall{start, pick(t, "runner", live)})
}

// running lists the IDs of tasks that run.
func (m *machine) running() []string {
	var running []string
	for _, id := range keysOf(m.model.tasks) {
		if m.model.tasks[id].state() == "RUNNING" {
			running = append(running, id)
		}
	}
	return running
}

// live lists runners that have a lease, though it may be past.
func (m *machine) live() []string {
	var live []string
	for _, runner := range keysOf(m.model.leases) {
		if m.model.leases[runner] != 0 {
			live = append(live, runner)
		}
	}
	return live
}

func (m *machine) claim(t *rapid.T) { m.commit(t, m.anyRunner(t), 1+below(t, "claim", 4), nil) }

// anyRunner most often has a lease.
func (m *machine) anyRunner(t *rapid.T) string {
	if live := m.live(); len(live) > 0 && !seldom(t, "any") {
		return pick(t, "runner", live)
	}
	return pick(t, "runner", runners)
}

func (m *machine) commit(t *rapid.T, runner string, claim int, items []item) {
	m.made[runner] = max(m.made[runner], m.model.runners[runner].number("batch")) + 1
	m.make(t, commitCall{runner, m.made[runner], claim, items})
}

// register says what a runner does: that no batch which it made before is to be taken any more.
func (m *machine) register(runner string) runnerCall {
	return runnerCall{what: "register", runner: runner, made: m.made[runner]}
}

// tell is what a client asks of one task.
func (m *machine) tell(what string) func(t *rapid.T) {
	return func(t *rapid.T) {
		known := m.known()
		if running := m.running(); len(running) > 0 && rapid.Bool().Draw(t, "running") {
			known = running
		}
		c := taskCall{what: what, id: pick(t, "id", known)}
		if what == "reload" || what == "restart" {
			c.nonce = m.fresh("n")
		}
		if what == "reload" && !seldom(t, "without data") {
			given := pick(t, "data", data)
			c.data = &given
		}
		m.make(t, c)
	}
}

func (m *machine) runner(what string) func(t *rapid.T) {
	return func(t *rapid.T) {
		c := runnerCall{what: what, runner: pick(t, "runner", runners)}
		switch what {
		case "adopt":
			c.id = "local " + c.runner
		case "unregister":
			c.open = rapid.Bool().Draw(t, "open")
		case "register":
			c.made = m.made[c.runner]
		}
		if got := m.make(t, c); what == "adopt" && got.(int64) > 0 {
			m.members = append(m.members, store.Member(got.(int64), c.id))
		}
	}
}

func (m *machine) wait(t *rapid.T) {
	m.pass(t, pick(t, "time", []time.Duration{time.Second, 30 * time.Second, 5 * time.Minute}).Milliseconds())
}

// expire lets time go by until a lease is past, or a millisecond less.
func (m *machine) expire(t *rapid.T) {
	m.passLease(t, pick(t, "runner", runners), int64(below(t, "early", 2)))
}

func (m *machine) passLease(t *rapid.T, runner string, early int64) {
	if rest := m.model.leases[runner] - early - m.server.clock(t); m.model.leases[runner] != 0 && rest > 0 {
		m.pass(t, rest)
	}
}

// crash is a runner that claims, dies and is taken over.
func (m *machine) crash(t *rapid.T) {
	runner := m.anyRunner(t)
	m.commit(t, runner, 1+below(t, "claim", 4), nil)
	m.takeOver(t, runner)
	if !seldom(t, "gone") {
		m.make(t, m.register(runner))
	}
}

// reap takes over from a runner, most often one whose lease is past.
func (m *machine) reap(t *rapid.T) { m.takeOver(t, pick(t, "dead", runners)) }

func (m *machine) takeOver(t *rapid.T, dead string) {
	if !seldom(t, "alive") {
		m.passLease(t, dead, 0)
	}
	c := &takeOverCall{dead, store.Recovery{
		Most: 3 - below(t, "most", 3), First: time.Second, Longest: 3 * time.Second, Stable: pick(t, "stable", []time.Duration{time.Hour, time.Hour, lease}),
		Limit: pick(t, "limit", []int{1, 3, store.MaxBatch}), Jitter: below(t, "jitter", 1000), LeaseEnd: m.model.leases[dead],
		Watched: seldom(t, "watched"),
	}}
	if seldom(t, "seen before") {
		c.bounds.LeaseEnd -= 5000
	}
	m.make(t, c)
}

func (m *machine) promote(t *rapid.T) {
	if next := m.model.nextDue() - m.server.clock(t); len(m.model.scheduled) > 0 && next > 0 && !seldom(t, "early") {
		m.pass(t, next)
	}
	m.make(t, promoteCall{1 + below(t, "limit", 3)})
}

// expired looks for final tasks to sweep, which is kept for a sweep to come.
func (m *machine) expired(t *rapid.T) {
	c := expiredCall{runner: pick(t, "runner", runners), limit: 1 + below(t, "limit", 3)}
	if m.model.cleaner != "" && !seldom(t, "without the lock") {
		c.runner = m.model.cleaner
	}
	for _, state := range finalStates {
		c.keep = append(c.keep, store.Retention{
			State: state, Age: pick(t, "age", []time.Duration{0, time.Minute}), Count: below(t, "count", 4), Skip: below(t, "skip", 2),
		})
	}
	m.found = m.make(t, c).(map[string][]store.Final)
}

func (m *machine) sweep(t *rapid.T) {
	states := finalStates
	if some := slices.DeleteFunc(keysOf(m.model.final), func(index string) bool {
		return index == "kept" || len(m.model.final[index]) == 0
	}); len(some) > 0 {
		states = some
	}
	c := &sweepCall{state: pick(t, "state", states)}
	switch {
	case m.found != nil && rapid.Bool().Draw(t, "of those found"):
		c.tasks = append(c.tasks, m.found[c.state]...)
	default:
		c.tasks = m.model.ends(c.state)
	}
	if len(c.tasks) > 0 && seldom(t, "ended anew since") {
		end, _ := strconv.ParseInt(c.tasks[0].EndedAt, 10, 64)
		c.tasks[0].EndedAt = strconv.FormatInt(end-1, 10)
	}
	m.make(t, c)
}

func (m *machine) unlock(t *rapid.T) { m.do(t, handCall{what: "unlock"}) }

// replay makes a call again that was made at any time before: its answer was lost, or the network kept it.
func (m *machine) replay(t *rapid.T) { m.do(t, pick(t, "call", m.history)) }

// again makes the last call again, whose answer was lost: nothing may change.
func (m *machine) again(t *rapid.T) {
	c := m.history[len(m.history)-1]
	switch c := c.(type) {
	case startCall, commitCall, taskCall, *sweepCall:
	default:
		t.Skip("this one may do more:", c)
	}
	m.do(t, c)
	before := m.last
	m.do(t, c)
	require.Empty(t, differences(before, m.last), "what a replay changed")
}

// hand is what somebody does with redis-cli.
func (m *machine) hand(what string) func(t *rapid.T) {
	return func(t *rapid.T) {
		c := handCall{what, pick(t, "id", m.known()), pick(t, "data", data)}
		exists := m.model.tasks[c.id] != nil
		if (what == "nameless" && exists) || (!exists && (what == "again" || what == "data" || what == "keep")) {
			t.Skip("not with this ID")
		}
		m.do(t, c)
	}
}
