package model

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/redtask/redtask/internal/store"
)

// record is a task's, or a runner's, hash.
type record map[string]string

func (r record) set(fields ...string) {
	for ; len(fields) > 0; fields = fields[2:] {
		r[fields[0]] = fields[1]
	}
}

func (r record) remove(fields ...string) {
	for _, field := range fields {
		delete(r, field)
	}
}

func (r record) has(field string) bool {
	_, ok := r[field]
	return ok
}

func (r record) number(field string) int64 {
	n, _ := strconv.ParseInt(r[field], 10, 64)
	return n
}

// state is WAIT where the field is absent.
func (r record) state() string {
	if r.has("state") {
		return r["state"]
	}
	return "WAIT"
}

func (r record) member(id string) string { return r["epoch"] + ":" + id }

// model is what a queue holds, in plain Go: what docs/protocol.md says that each call makes of it.
type model struct {
	tasks     map[string]record
	line      []string            // the next to run stands last
	inboxes   map[string][]string // runner -> IDs, likewise
	scheduled map[string]int64
	final     map[string]map[string]int64  // index -> ID -> end
	owned     map[string]map[string]bool   // runner -> members
	intents   map[string]map[string]string // runner -> ID -> word
	leases    map[string]int64
	runners   map[string]record
	counters  map[string]int64
	epoch     int64
	cleaner   string

	told      told
	published []message
}

// told is what only Redis knows of a call: its clock, and which of a dead runner's tasks it drew, in which order.
type told struct {
	now  int64
	ids  []string        // whose events came, in order
	left map[string]bool // members that the dead runner still has
}

func newModel() *model {
	return &model{
		tasks: map[string]record{}, inboxes: map[string][]string{}, scheduled: map[string]int64{}, final: map[string]map[string]int64{},
		owned: map[string]map[string]bool{}, intents: map[string]map[string]string{}, leases: map[string]int64{},
		runners: map[string]record{}, counters: map[string]int64{},
	}
}

func (m *model) now() string { return strconv.FormatInt(m.told.now, 10) }

// draw takes the next epoch.
func (m *model) draw() string {
	m.epoch++
	return strconv.FormatInt(m.epoch, 10)
}

// own and the functions after it make the inner map on first use.
func (m *model) own(runner, member string) { inner(m.owned, runner)[member] = true }

func (m *model) intend(runner, id, word string) { inner(m.intents, runner)[id] = word }

func (m *model) list(index, id string) { inner(m.final, index)[id] = m.told.now }

func inner[V any](outer map[string]map[string]V, key string) map[string]V {
	if outer[key] == nil {
		outer[key] = map[string]V{}
	}
	return outer[key]
}

func (m *model) unlist(id string) {
	for _, index := range m.final {
		delete(index, id)
	}
}

// runs reports whether the runner that a record names owns its epoch.
func (m *model) runs(id string) bool {
	r := m.tasks[id]
	return m.owned[r["runner"]][r.member(id)]
}

var finalStates = []string{"ENDED", "ERROR", "EXCEPTION", "STOPPED"}

func isFinal(state string) bool { return slices.Contains(finalStates, state) }

func indexOf(state string, kept bool) string {
	if kept {
		return "kept"
	}
	return state
}

// message is what subscribers get: an event, or a word of control.
type message struct{ channel, text string }

// event has the fields in the order in which every event has them.
type event struct {
	Event string          `json:"event"`
	Data  json.RawMessage `json:"data"`
	ID    string          `json:"id"`
	Task  string          `json:"task"`
	Epoch int64           `json:"epoch"`
	Seq   int64           `json:"seq"`
	At    int64           `json:"at"`
}

func parseEvent(text string) (event, error) {
	var e event
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&e)
	return e, err
}

func (m *model) publish(e event) {
	m.published = append(m.published, message{"events:" + e.ID, plain(e)})
}

// plain is one form for all that mean the same: servers quote differently.
func plain(e event) string {
	var data any
	if err := json.Unmarshal(e.Data, &data); err != nil {
		panic(err)
	}
	e.Data, _ = json.Marshal(data)
	text, _ := json.Marshal(e)
	return string(text)
}

// announce publishes the event of a change that no run made.
func (m *model) announce(id, kind string, data any, task, epoch string) {
	text, _ := json.Marshal(data)
	n, _ := strconv.ParseInt(epoch, 10, 64)
	m.publish(event{Event: kind, Data: text, ID: id, Task: task, Epoch: n, Seq: 1, At: m.told.now})
}

func (m *model) tell(id, word string) {
	m.published = append(m.published, message{"control:" + id, word})
}

// snapshot is what the queue's keys hold, by their names after `P:{Q}:`. Scores are decimal, sets sorted.
type snapshot map[string]any

// snapshot renders the model as Redis must have it: what is empty has no key.
func (m *model) snapshot() snapshot {
	s := snapshot{}
	s.list("wait", m.line)
	s.scores("scheduled", m.scheduled)
	s.scores("runners", m.leases)
	for id, r := range m.tasks {
		s.hash("task:"+id, r)
	}
	for runner, r := range m.runners {
		s.hash("runner:"+runner, r)
	}
	for runner, ids := range m.inboxes {
		s.list("inbox:"+runner, ids)
	}
	for runner, words := range m.intents {
		s.hash("control:"+runner, words)
	}
	for runner, members := range m.owned {
		s.list("running:"+runner, slices.Sorted(maps.Keys(members)))
	}
	for index, ends := range m.final {
		s.scores("final:"+index, ends)
	}
	counters := map[string]string{}
	for name, n := range m.counters {
		counters[name] = strconv.FormatInt(n, 10)
	}
	s.hash("counters", counters)
	if m.epoch > 0 {
		s["epoch"] = strconv.FormatInt(m.epoch, 10)
	}
	if m.cleaner != "" {
		s["cleaner"] = m.cleaner
	}
	return s
}

func (s snapshot) list(key string, values []string) {
	if len(values) > 0 {
		s[key] = slices.Clone(values)
	}
}

func (s snapshot) hash(key string, fields map[string]string) {
	if len(fields) > 0 {
		s[key] = maps.Clone(fields)
	}
}

func (s snapshot) scores(key string, scores map[string]int64) {
	fields := map[string]string{}
	for id, score := range scores {
		fields[id] = strconv.FormatInt(score, 10)
	}
	s.hash(key, fields)
}

// Readers of a snapshot; an absent key is empty.
func (s snapshot) fields(key string) record {
	switch fields := s[key].(type) {
	case map[string]string:
		return fields
	default:
		return nil
	}
}

func (s snapshot) values(key string) []string {
	values, _ := s[key].([]string)
	return values
}

// named lists what follows a key's prefix: the IDs of `task:`, the runners of `running:`.
func (s snapshot) named(prefix string) []string {
	var names []string
	for _, key := range slices.Sorted(maps.Keys(s)) {
		if name, ok := strings.CutPrefix(key, prefix); ok {
			names = append(names, name)
		}
	}
	return names
}

// differences says where two snapshots differ, a line for each key.
func differences(want, got snapshot) string {
	keys := map[string]bool{}
	for _, s := range []snapshot{want, got} {
		for key := range s {
			keys[key] = true
		}
	}
	var lines []string
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if w, g := fmt.Sprint(want[key]), fmt.Sprint(got[key]); w != g {
			lines = append(lines, fmt.Sprintf("%s\n    want %s\n    got  %s", key, w, g))
		}
	}
	return strings.Join(lines, "\n")
}

// shift moves every time of the model back, as the server does with those in Redis.
func (m *model) shift(ms int64) {
	for runner, end := range m.leases {
		if end != 0 {
			m.leases[runner] = end - ms
		}
	}
	for id := range m.scheduled {
		m.scheduled[id] -= ms
	}
	for _, ends := range m.final {
		for id := range ends {
			ends[id] -= ms
		}
	}
	for _, r := range m.tasks {
		r.shift(ms, timeFields...)
	}
	for _, r := range m.runners {
		r.shift(ms, "renewed_at")
	}
}

func (r record) shift(ms int64, fields ...string) {
	for _, field := range fields {
		if r.has(field) {
			r[field] = strconv.FormatInt(r.number(field)-ms, 10)
		}
	}
}

// timeFields are the fields of a task that hold times.
var timeFields = []string{"created_at", "started_at", "ended_at", "due_at"}

// ends lists an index as Expired does: the oldest first, then by ID.
func (m *model) ends(index string) []store.Final {
	ids := slices.Sorted(maps.Keys(m.final[index]))
	slices.SortStableFunc(ids, func(a, b string) int { return int(m.final[index][a] - m.final[index][b]) })
	ends := make([]store.Final, len(ids))
	for i, id := range ids {
		ends[i] = store.Final{ID: id, EndedAt: strconv.FormatInt(m.final[index][id], 10)}
	}
	return ends
}
