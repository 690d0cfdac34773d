package model

import (
	"slices"

	"github.com/redtask/redtask/internal/store"
)

// What the model makes of the calls of clients.

func (m *model) start(tasks []store.NewTask) []string {
	results := make([]string, len(tasks))
	for i := range tasks {
		results[i] = m.startOne(&tasks[i])
	}
	return results
}

func (m *model) startOne(task *store.NewTask) string {
	old := m.tasks[task.ID]
	if task.Nonce == "" { // a drawn ID: only a replay finds it there
		if !old.has("task") {
			m.write(task)
			m.push(task.ID)
		}
		return "ok"
	}
	switch {
	case old["nonce"] == task.Nonce:
		return "ok"
	case isFinal(old["state"]):
		m.unlist(task.ID)
		delete(m.tasks, task.ID)
	case old.has("state") || old.has("task"):
		return "exists:" + old.state()
	}
	m.write(task)
	m.push(task.ID)
	return "ok"
}

func (m *model) write(task *store.NewTask) {
	fields := record{}
	for field, value := range m.tasks[task.ID] {
		fields[field] = value
	}
	fields.set("task", task.Task, "data", task.Data, "created_at", m.now())
	if task.Nonce != "" {
		fields["nonce"] = task.Nonce
	}
	if task.Keep {
		fields["keep"] = "1"
	}
	m.tasks[task.ID] = fields
}

// push puts an ID at the far end of the line; pushBack where it comes next.
func (m *model) push(id string)     { m.line = slices.Insert(m.line, 0, id) }
func (m *model) pushBack(id string) { m.line = append(m.line, id) }

func (m *model) stop(id string) string {
	r, found := m.tasks[id]
	switch {
	case !found:
		return "missing"
	case r.state() == "STOPPED":
		return "stopped"
	case isFinal(r.state()):
		return "final:" + r.state()
	case r.state() == "RUNNING" && m.runs(id):
		m.intend(r["runner"], id, store.Stop)
		m.tell(id, store.Stop)
		return "told"
	}
	epoch := m.draw()
	r.set("state", "STOPPED", "epoch", epoch, "ended_at", m.now())
	m.list(indexOf("STOPPED", r["keep"] != ""), id)
	delete(m.scheduled, id)
	m.announce(id, "stopped", nil, r["task"], epoch)
	return "stopped"
}

func (m *model) reload(id, nonce string, data *string) string {
	r, found := m.tasks[id]
	switch {
	case !found:
		return "missing"
	case r["reload_nonce"] == nonce:
		return "ok"
	case isFinal(r.state()):
		return "final:" + r.state()
	case r.state() != "RUNNING":
		if data != nil {
			r.set("data", *data, "reload_nonce", nonce)
			r.remove("reload_data")
		}
		return "ok"
	}
	if data != nil {
		r["reload_data"] = *data
	}
	if m.runs(id) {
		if pending := m.intents[r["runner"]][id]; pending != store.Stop && pending != store.Restart {
			m.intend(r["runner"], id, store.Reload)
		}
		r["reload_nonce"] = nonce
		m.tell(id, store.Reload)
	}
	return "ok"
}

func (m *model) restart(id, nonce string) string {
	r, found := m.tasks[id]
	switch {
	case !found:
		return "missing"
	case r["nonce"] == nonce, r.state() == "WAIT", r.state() == "SCHEDULED":
		return "ok"
	case r.state() == "RUNNING" && m.runs(id):
		if m.intents[r["runner"]][id] == store.Stop {
			return "stopping"
		}
		r["nonce"] = nonce
		m.intend(r["runner"], id, store.Restart)
		m.tell(id, store.Restart)
		return "ok"
	}
	wasFinal, epoch := isFinal(r.state()), m.draw()
	m.push(id)
	r.set("nonce", nonce, "epoch", epoch)
	r.remove("state", "attempt", "runner", "started_at", "ended_at", "output", "error", "stack", "progress", "recoveries")
	if wasFinal {
		r.remove("reload_data")
	}
	m.unlist(id)
	m.announce(id, "wait", map[string]any{"reason": "restarted"}, r["task"], epoch)
	return "ok"
}

func (m *model) remove(id string) string {
	r, found := m.tasks[id]
	if r.state() == "RUNNING" && m.runs(id) {
		return "running"
	}
	m.unlist(id)
	delete(m.scheduled, id)
	delete(m.tasks, id)
	if found {
		m.announce(id, "removed", nil, r["task"], m.draw())
	}
	return "ok"
}

// hand is what somebody does with redis-cli.
func (m *model) hand(what, id, data string) {
	r := m.tasks[id]
	switch what {
	case "push":
		m.push(id)
	case "again":
		r["state"] = "WAIT"
		m.push(id)
	case "create", "nameless":
		if r == nil {
			m.tasks[id] = record{}
		}
		m.tasks[id]["data"] = data
		if what == "create" {
			m.tasks[id]["task"] = taskName
		}
		m.push(id)
	case "data":
		r["data"] = data
	case "keep":
		r["keep"] = "1"
	case "delete":
		delete(m.tasks, id)
	}
}
