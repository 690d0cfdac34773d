package model

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/redtask/redtask/internal/store"
)

// machine makes calls on a server and on the model, and compares.
type machine struct {
	server  *server
	model   *model
	last    snapshot // what Redis held after the last call
	history []call
	members []string // all that ever were, of live runs and of dead ones
	ends    map[string]string
	epoch   int64 // the last one drawn
	found   map[string][]store.Final
	byHand  bool             // somebody writes to Redis as well
	drawn   int              // IDs and nonces
	made    map[string]int64 // number of each runner's last batch
}

func newMachine(t *rapid.T, s *server, byHand bool) *machine {
	s.empty(t)
	m := &machine{server: s, model: newModel(), last: snapshot{}, ends: map[string]string{}, byHand: byHand, made: map[string]int64{}}
	for _, runner := range runners[:2] {
		m.make(t, m.register(runner))
	}
	return m
}

// make makes a call and remembers it, so that it may be made again.
func (m *machine) make(t *rapid.T, c call) any {
	m.history = append(m.history, c)
	return m.do(t, c)
}

// do makes a call, on Redis first: its clock, and what it drew at random, are told to the model.
func (m *machine) do(t *rapid.T, c call) any {
	t.Logf("%T %+v", c, c)
	m.settleClock(t, c)
	ctx, cancel := m.server.ctx()
	defer cancel()
	before := m.server.clock(t)
	got, err := c.send(ctx, m.server)
	require.NoError(t, err)
	published := m.server.messages(t)
	now := m.server.read(t)
	m.model.told = m.hear(got, published, now, before)
	require.LessOrEqual(t, m.model.told.now, m.server.clock(t), "a time that is yet to come")
	if o, ok := c.(*takeOverCall); ok {
		m.model.told.left = map[string]bool{}
		for _, member := range now.values("running:" + o.dead) {
			m.model.told.left[member] = true
		}
	}

	m.model.published = nil
	want := c.apply(m.model)
	m.model.prune()
	require.Empty(t, differences(m.model.snapshot(), now), "keys")
	require.Equal(t, m.model.published, published, "messages")
	require.True(t, same(want, got), "answer: want %+v, got %+v", want, got)
	m.require(t, c, got, published, now)
	m.last = now
	return got
}

// same takes nil and empty as one.
func same(want, got any) bool {
	return reflect.DeepEqual(want, got) || fmt.Sprintf("%+v", deref(want)) == fmt.Sprintf("%+v", deref(got))
}

func deref(value any) any {
	if result, ok := value.(*store.Result); ok {
		return *result
	}
	return value
}

// prune forgets hashes without a field: Redis has no such keys.
func (m *model) prune() {
	for id, r := range m.tasks {
		if len(r) == 0 {
			delete(m.tasks, id)
		}
	}
}

// hear finds out what only Redis knew. The latest time that it tells is that of the call, if the call stored any.
func (m *machine) hear(got any, published []message, now snapshot, before int64) told {
	heard := told{now: max(before, now.latest())}
	switch got := got.(type) {
	case *store.Result:
		heard.now = max(heard.now, got.Now)
	case store.Renewal:
		heard.now = max(heard.now, got.Now)
	}
	for runner := range now.fields("runners") { // who registers has the latest lease
		heard.now = max(heard.now, now.fields("runners").number(runner)-lease.Milliseconds())
	}
	for _, message := range published {
		if e, ok := announced(message); ok {
			heard.now = max(heard.now, e.At)
			heard.ids = append(heard.ids, e.ID)
		}
	}
	return heard
}

// announced parses the event of a change that no run made: those of runs carry runAt.
func announced(message message) (event, bool) {
	if !strings.HasPrefix(message.channel, "events:") {
		return event{}, false
	}
	e, err := parseEvent(message.text)
	return e, err == nil && e.At != runAt
}

// settleClock sees to it that a moment that decides a call's answer does not come while the call is under way.
func (m *machine) settleClock(t *rapid.T, c call) {
	timed, ok := c.(interface{ moments(m *model) []int64 })
	if !ok || m.server.mini != nil {
		return
	}
	now := m.server.clock(t)
	near := func(moment int64) bool { return moment > now && moment <= now+2*patience.Milliseconds() }
	for slices.ContainsFunc(timed.moments(m.model), near) {
		m.pass(t, 3*patience.Milliseconds())
		now = m.server.clock(t)
	}
}

// pass lets time go by.
func (m *machine) pass(t *rapid.T, ms int64) {
	if !m.server.pass(t, ms) {
		return
	}
	m.model.shift(ms)
	for _, c := range m.history {
		if timed, ok := c.(interface{ shift(ms int64) }); ok {
			timed.shift(ms)
		}
	}
	sweeps := &sweepCall{}
	for _, sweeps.tasks = range m.found {
		sweeps.shift(ms)
	}
	m.last = m.server.read(t)
	require.Empty(t, differences(m.model.snapshot(), m.last), "keys after a while")
}
