package model

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/redtask/redtask/internal/store"
)

// What the model makes of the calls of runners and monitors, but for commits.

const (
	lease    = time.Minute
	lock     = time.Hour
	taskName = "test/a"
)

func (m *model) register(runner string, made int64) bool {
	if end, found := m.leases[runner]; found && end == 0 {
		return false
	}
	r := m.runners[runner]
	if r == nil {
		r = record{}
		m.runners[runner] = r
	}
	r.set("batch", strconv.FormatInt(max(made, r.number("batch")), 10), "host", "", "pid", "0", "version", "", "names", taskName, "started_at", "0",
		"lease_ms", strconv.FormatInt(lease.Milliseconds(), 10), "silence_ms", "0")
	m.leases[runner] = m.told.now + lease.Milliseconds()
	return true
}

func (m *model) renew(runner string) store.Renewal {
	if m.leases[runner] == 0 || m.runners[runner] == nil {
		return store.Renewal{Now: m.told.now}
	}
	m.leases[runner] = m.told.now + lease.Milliseconds()
	return store.Renewal{
		Held: true, Now: m.told.now, Owned: len(m.owned[runner]), Intents: len(m.intents[runner]), NextDue: m.nextDue(),
	}
}

func (m *model) nextDue() int64 {
	if len(m.scheduled) == 0 {
		return 0
	}
	return slices.Min(slices.Collect(maps.Values(m.scheduled)))
}

func (m *model) unregister(runner string, open bool) int {
	m.returnInbox(runner)
	if len(m.owned[runner]) == 0 && !open {
		m.forget(runner)
	}
	return len(m.owned[runner])
}

func (m *model) returnInbox(runner string) {
	inbox := m.inboxes[runner]
	slices.Reverse(inbox)
	m.line = append(m.line, inbox...)
	delete(m.inboxes, runner)
}

func (m *model) forget(runner string) {
	delete(m.runners, runner)
	delete(m.intents, runner)
	delete(m.leases, runner)
}

func (m *model) adopt(runner, id string) int64 {
	if !m.runners[runner].has("batch") {
		return 0
	}
	r := m.tasks[id]
	if r.has("epoch") && m.owned[runner][r.member(id)] {
		return r.number("epoch")
	}
	if r == nil {
		r = record{}
		m.tasks[id] = r
	}
	r.set("task", taskName, "data", "null", "state", "RUNNING", "epoch", m.draw(), "runner", runner, "local", "1", "started_at", m.now())
	m.own(runner, r.member(id))
	return m.epoch
}

// wake moves the next ID to an idle runner's inbox.
func (m *model) wake(runner string) string {
	id := m.line[len(m.line)-1]
	m.line = m.line[:len(m.line)-1]
	m.inboxes[runner] = slices.Insert(m.inboxes[runner], 0, id)
	return id
}

func (m *model) promote(limit int) (moved int, next int64) {
	due := slices.Sorted(maps.Keys(m.scheduled))
	slices.SortStableFunc(due, func(a, b string) int { return int(m.scheduled[a] - m.scheduled[b]) })
	due = slices.DeleteFunc(due, func(id string) bool { return m.scheduled[id] > m.told.now })
	for _, id := range due[:min(limit, len(due))] {
		if r := m.tasks[id]; r["state"] == "SCHEDULED" {
			m.push(id)
			r.remove("state", "due_at")
			moved++
		}
		delete(m.scheduled, id)
	}
	return moved, m.nextDue()
}

func (m *model) takeOver(dead string, r *store.Recovery) store.TakenOver {
	end, found := m.leases[dead]
	if !found || (end != 0 && (end != r.LeaseEnd || end > m.told.now && !r.Watched)) {
		return store.TakenOver{Renewed: true}
	}
	m.leases[dead] = 0
	if m.runners[dead] == nil {
		m.runners[dead] = record{}
	}
	m.runners[dead].remove("batch")
	if end != 0 {
		m.runners[dead].set("renewed_at", strconv.FormatInt(end-m.runners[dead].number("lease_ms"), 10))
	}
	m.returnInbox(dead)
	done := store.TakenOver{}
	jitter := r.Jitter
	for _, member := range m.drawn(dead, r.Limit) {
		m.recover(dead, member, r, &jitter, &done)
		delete(m.owned[dead], member)
	}
	if moved := done.Back + done.Delayed + done.Stopped + done.Poisoned; moved > 0 {
		m.counters["recovered"] += int64(moved)
	}
	if done.Left = len(m.owned[dead]); done.Left == 0 {
		m.forget(dead)
	}
	return done
}

// drawn lists the members that the call took: which, and in which order, is Redis' choice, seen from the events. Those of runs that are
// no more have none.
func (m *model) drawn(dead string, limit int) []string {
	var members, silent []string
	for _, id := range m.told.ids {
		members = append(members, m.tasks[id].member(id))
	}
	for member := range m.owned[dead] {
		if !m.told.left[member] && !slices.Contains(members, member) {
			silent = append(silent, member)
		}
	}
	members = append(members, silent...)
	if want := min(limit, len(m.owned[dead])); len(members) != want {
		panic(fmt.Sprintf("the takeover took %q, not %d of %v", members, want, m.owned[dead]))
	}
	return members
}

func (m *model) recover(dead, member string, bounds *store.Recovery, jitter *int, done *store.TakenOver) {
	_, id, _ := store.ParseMember(member)
	r := m.tasks[id]
	if r["state"] != "RUNNING" || r.member(id) != member {
		return
	}
	kept := r["keep"] != ""
	if r.has("local") {
		delete(m.tasks, id)
		m.announce(id, "removed", map[string]any{"reason": "runner gone"}, r["task"], m.draw())
		return
	}
	if m.intents[dead][id] == store.Stop {
		r.set("state", "STOPPED", "epoch", m.draw(), "ended_at", m.now())
		m.list(indexOf("STOPPED", kept), id)
		m.announce(id, "stopped", nil, r["task"], r["epoch"])
		done.Stopped++
		return
	}
	recoveries := r.number("recoveries") + 1
	if m.runners[dead].number("renewed_at")-r.number("started_at") >= bounds.Stable.Milliseconds() {
		recoveries = 1
	}
	r.set("epoch", m.draw(), "attempt", strconv.FormatInt(max(0, r.number("attempt")-1), 10))
	if recoveries > int64(bounds.Most) {
		text := fmt.Sprintf("its runner died %d times while it ran: recovery given up; find out what kills the process, then restart the task", recoveries)
		r.set("state", "EXCEPTION", "ended_at", m.now(), "error", text)
		m.list(indexOf("EXCEPTION", kept), id)
		m.announce(id, "exception", map[string]any{"error": text}, r["task"], r["epoch"])
		done.Poisoned++
		return
	}
	r.set("recoveries", strconv.FormatInt(recoveries, 10))
	r.remove("runner", "started_at")
	data := map[string]any{"reason": "recovered", "recoveries": recoveries, "runner": dead}
	if recoveries == 1 {
		r.remove("state")
		m.pushBack(id)
		m.announce(id, "wait", data, r["task"], r["epoch"])
		done.Back++
		return
	}
	m.scheduled[id] = m.told.now + delay(recoveries, bounds, jitter)
	r.set("state", "SCHEDULED", "due_at", strconv.FormatInt(m.scheduled[id], 10))
	m.announce(id, "scheduled", data, r["task"], r["epoch"])
	done.Delayed++
}

// delay is in ms: doubled with each recovery, spread over half to one and a half of that.
func delay(recoveries int64, bounds *store.Recovery, jitter *int) int64 {
	whole := min(float64(bounds.Longest.Milliseconds()), float64(bounds.First.Milliseconds())*math.Pow(2, float64(recoveries-2)))
	spread := whole * float64(500+*jitter) / 1000
	*jitter = (*jitter*31 + 17) % 1000
	return int64(math.RoundToEven(spread))
}

func (m *model) expired(runner string, limit int, keep []store.Retention) map[string][]store.Final {
	due := map[string][]store.Final{}
	if m.cleaner != "" && m.cleaner != runner {
		return due
	}
	m.cleaner = runner
	for _, r := range keep {
		ends := m.ends(r.State)
		last := 0
		if excess := len(ends) - r.Count; excess > r.Skip {
			last = min(excess, r.Skip+limit)
		} else {
			for last < min(len(ends), r.Skip+limit) && m.final[r.State][ends[last].ID] <= m.told.now-r.Age.Milliseconds() {
				last++
			}
		}
		if last > r.Skip {
			due[r.State] = ends[r.Skip:last]
		}
	}
	return due
}

func (m *model) sweep(state string, tasks []store.Final) int {
	removed := 0
	for _, task := range tasks {
		end, found := m.final[state][task.ID]
		if !found || strconv.FormatInt(end, 10) != task.EndedAt {
			continue
		}
		r := m.tasks[task.ID]
		switch {
		case r["state"] != state:
		case r["keep"] != "":
			inner(m.final, "kept")[task.ID] = r.number("ended_at")
		default:
			delete(m.tasks, task.ID)
			removed++
		}
		delete(m.final[state], task.ID)
	}
	return removed
}
