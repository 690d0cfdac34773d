package model

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/redtask/redtask/internal/store"
)

// What a runner's tasks did, drawn for a batch.

// work is a batch of what a runner's tasks did, and of what runs did that are no more.
func (m *machine) work(t *rapid.T) {
	if len(m.members) == 0 {
		t.Skip("no task ever ran")
	}
	runner := pick(t, "runner", runners)
	for _, busy := range runners {
		if len(m.model.owned[runner]) == 0 {
			runner = busy
		}
	}
	members := m.membersOf(t, runner)
	if len(members) == 0 || seldom(t, "strange") {
		members = append(members, m.members...)
	}
	items := make([]item, 0, 5)
	for range 1 + below(t, "items", 4) {
		i := m.item(t, pick(t, "member", members))
		items = append(items, i)
		if i.op == "swap" { // its next run may have something to say in the same batch
			members = append(members, store.Member(i.epoch, i.id))
		}
	}
	m.commit(t, runner, below(t, "claim", 3), items)
}

// membersOf are what a runner owns; sometimes those alone that are told something.
func (m *machine) membersOf(t *rapid.T, runner string) []string {
	var told []string
	members := keysOf(m.model.owned[runner])
	for _, member := range members {
		if _, id, _ := store.ParseMember(member); m.model.intents[runner][id] != "" {
			told = append(told, member)
		}
	}
	if len(told) > 0 && rapid.Bool().Draw(t, "told") {
		return told
	}
	return members
}

func (m *machine) item(t *rapid.T, member string) item {
	epoch, id, ok := store.ParseMember(member)
	require.True(t, ok, member)
	r := m.model.tasks[id]
	ops := []string{"leave", "write", "swap", "leave", "keep", "emit", "leave"}
	if m.model.intents[r["runner"]][id] == store.Reload {
		ops = append(ops, "swap", "swap", "keep", "keep")
	}
	i := item{op: pick(t, "op", ops), id: id, member: member}
	local := r.has("local")
	switch i.op {
	case "emit":
		i.text = `{"event":"text",` + tail(id, epoch, pick(t, "of event", data))
	case "write":
		i.fields = []string{pick(t, "field", []string{"checkpoint", "progress", "output"}), pick(t, "data", data)}
	case "leave":
		i.leave = leave(t, id, epoch, local, r)
		if m.byHand && seldom(t, "kept since its claim") {
			i.leave.Keep = false
		}
	case "swap":
		i.epoch, i.data = m.reserve(t), m.reloadData(t, r)
		m.members = append(m.members, store.Member(i.epoch, id))
		i.leave = &store.Leave{State: "STOPPED", Keep: r["keep"] != "", Event: tail(id, epoch, "null")}
		if local {
			i.leave.State = "REMOVED"
		}
	case "keep":
		i.tried, i.data = m.reloadData(t, r), pick(t, "old", data)
	}
	return i
}

func (m *machine) reserve(t *rapid.T) int64 {
	return m.do(t, runnerCall{what: "reserve"}).(int64)
}

// reloadData is what a reload found, or something older.
func (m *machine) reloadData(t *rapid.T, r record) string {
	given, found := r["reload_data"]
	if !found {
		given = r["data"]
	}
	if seldom(t, "older") {
		return pick(t, "older data", data)
	}
	if given == "" {
		return "null"
	}
	return given
}

func leave(t *rapid.T, id string, epoch int64, local bool, r record) *store.Leave {
	l := &store.Leave{State: pick(t, "state", append([]string{"WAIT", "SCHEDULED"}, finalStates...)), Keep: r["keep"] != ""}
	said := pick(t, "of event", data)
	switch {
	case local:
		l.State = "REMOVED"
	case l.State == "WAIT":
		l.Fields = []string{"attempt", strconv.FormatInt(max(0, r.number("attempt")-1), 10)}
	case l.State == "SCHEDULED":
		l.Delay = int64(below(t, "delay", 3)) * 1000
	case l.State == "ENDED":
		l.Fields = []string{"output", said}
	case l.State != "STOPPED":
		l.Fields = []string{"error", "why " + id}
	}
	l.Event = tail(id, epoch, said)
	return l
}

// tail is a run's event after its kind.
func tail(id string, epoch int64, said string) string {
	if said == "" {
		said = "null"
	}
	quoted, _ := json.Marshal(id)
	return fmt.Sprintf(`"data":%s,"id":%s,"task":%q,"epoch":%d,"seq":2,"at":%d}`, said, quoted, taskName, epoch, runAt)
}
