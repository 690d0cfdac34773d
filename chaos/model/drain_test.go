package model

import (
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/redtask/redtask/internal/store"
)

// drain lets all runners die and another one do what is left: whatever happened before, each task must come to an end.
func (m *machine) drain(t *rapid.T) {
	m.pass(t, time.Hour.Milliseconds())
	for _, dead := range keysOf(m.model.leases) {
		bounds := store.DefaultRecovery()
		bounds.LeaseEnd = m.model.leases[dead]
		done := m.do(t, &takeOverCall{dead, bounds}).(store.TakenOver)
		require.Zero(t, done.Left, "fewer tasks than one call moves")
	}
	m.pass(t, time.Hour.Milliseconds())
	for m.do(t, promoteCall{store.MaxBatch}).(promotion).Moved > 0 {
	}
	m.do(t, runnerCall{what: "register", runner: "last"})
	for {
		ran := m.do(t, commitCall{"last", m.model.runners["last"].number("batch") + 1, store.MaxBatch, nil}).(*store.Result)
		items := make([]item, len(ran.Claims))
		for i, claim := range ran.Claims {
			items[i] = item{op: "leave", id: claim.ID, member: store.Member(claim.Epoch, claim.ID), leave: &store.Leave{
				State: "ENDED", Keep: claim.Keep, Event: tail(claim.ID, claim.Epoch, claim.Data),
			}}
		}
		m.do(t, commitCall{"last", m.model.runners["last"].number("batch") + 1, 0, items})
		if !ran.More {
			break
		}
	}
	for _, id := range m.last.named("task:") {
		r := m.last.fields("task:" + id)
		require.True(t, isFinal(r.state()) || (m.byHand && !r.has("task")), "%s is left over: %v", id, r)
	}
	require.Empty(t, m.last.values("wait"))
	require.Empty(t, m.last.fields("scheduled"))
	require.Empty(t, m.last.named("inbox:"))
	require.Empty(t, m.last.named("running:"))
}
