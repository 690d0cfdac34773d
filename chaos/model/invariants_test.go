package model

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/redtask/redtask/internal/store"
)

// What must hold whatever the model says: it and the store might share a mistake.

// require checks what Redis holds after a call.
func (m *machine) require(t *rapid.T, c call, got any, published []message, now snapshot) {
	m.requireNewEpochs(t, c, got, published)
	m.requireOneEnd(t, now)
	if commit, ok := c.(commitCall); ok {
		m.requireFence(t, &commit, got.(*store.Result), now)
	}
	for _, id := range now.named("task:") {
		requirePlace(t, id, now, m.byHand)
	}
	if !m.byHand {
		requireNoStrays(t, now)
	}
}

// requireNewEpochs: each epoch that a call drew is larger than all before it.
func (m *machine) requireNewEpochs(t *rapid.T, c call, got any, published []message) {
	var drawn []int64
	for _, message := range published {
		if e, ok := announced(message); ok {
			drawn = append(drawn, e.Epoch)
		}
	}
	switch got := got.(type) {
	case *store.Result:
		for i := range got.Claims {
			drawn = append(drawn, got.Claims[i].Epoch)
			m.members = append(m.members, store.Member(got.Claims[i].Epoch, got.Claims[i].ID))
		}
	case int64: // adopt, which may find its task, and reserve
		if own, ok := c.(runnerCall); ok && (own.what == "reserve" || got > m.epoch) {
			drawn = append(drawn, got)
		}
	}
	for _, epoch := range drawn {
		require.Greater(t, epoch, m.epoch, "epochs %v", drawn)
		m.epoch = epoch
	}
}

// requireOneEnd: what a run ended with stays, as long as the record has its epoch.
func (m *machine) requireOneEnd(t *rapid.T, now snapshot) {
	for _, id := range now.named("task:") {
		r := now.fields("task:" + id)
		if !isFinal(r.state()) || !r.has("epoch") { // what a run wrote after somebody deleted its record has none
			continue
		}
		end := r.state() + " " + r["output"] + r["error"]
		if before, ok := m.ends[r.member(id)]; ok {
			require.Equal(t, before, end, "the end of %s", r.member(id))
		}
		m.ends[r.member(id)] = end
	}
}

// requireFence: only what the runner owned before, or made in this batch, may write.
func (m *machine) requireFence(t *rapid.T, c *commitCall, got *store.Result, now snapshot) {
	if got.Outcome != store.Applied {
		require.Empty(t, differences(m.last, now), "a batch that was not applied")
		return
	}
	owned := slices.Clone(m.last.values("running:" + c.runner))
	n := 0
	for _, i := range c.items {
		if i.op == "emit" {
			continue
		}
		code := got.Codes[n]
		n++
		if code == "lost" {
			continue
		}
		require.Contains(t, owned, i.member, "%s by a run that is no more: %s", i.op, code)
		if i.op == "swap" && code == "ok" {
			owned = append(owned, store.Member(i.epoch, i.id))
		}
	}
}

// place is where a task is.
type place struct {
	line, scheduled, final int
	owners, indexes        []string
}

func find(id string, now snapshot) place {
	var p place
	in := now.values("wait")
	for _, runner := range now.named("inbox:") {
		in = slices.Concat(in, now.values("inbox:"+runner))
	}
	for _, other := range in {
		if other == id {
			p.line++
		}
	}
	if now.fields("scheduled").has(id) {
		p.scheduled++
	}
	for _, index := range now.named("final:") {
		if now.fields("final:" + index).has(id) {
			p.final++
			p.indexes = append(p.indexes, index)
		}
	}
	member := now.fields("task:" + id).member(id)
	for _, runner := range now.named("running:") {
		if slices.Contains(now.values("running:"+runner), member) {
			p.owners = append(p.owners, runner)
		}
	}
	return p
}

// requirePlace: a task is on the one key where its state says that it is. An ID may stand in line more often, and be dropped there. Edits by
// hand may leave more behind; lost it must not be all the same.
func requirePlace(t *rapid.T, id string, now snapshot, byHand bool) {
	r, p := now.fields("task:"+id), find(id, now)
	want := place{line: p.line}
	switch state := r.state(); {
	case state == "WAIT":
		if byHand && !r.has("task") && p.line == 0 {
			return // what an end wrote of a record that was deleted
		}
		require.Positive(t, p.line, "%s waits, and is not in line: %v", id, r)
	case state == "SCHEDULED":
		want.scheduled = 1
	case state == "RUNNING":
		want.owners = []string{r["runner"]}
	case isFinal(state):
		want.final, want.indexes = 1, []string{indexOf(state, r["keep"] != "")}
	}
	if !byHand {
		require.Equal(t, want, p, "%s: %v", id, r)
		return
	}
	require.GreaterOrEqual(t, p.scheduled, want.scheduled, "%s: %v", id, r)
	require.Subset(t, p.owners, want.owners, "%s: %v", id, r)
	require.GreaterOrEqual(t, p.final, want.final, "%s: %v", id, r)
}

// requireNoStrays: what the keys of the queue name is there, and what belongs to a runner has one that monitors see.
func requireNoStrays(t *rapid.T, now snapshot) {
	for _, runner := range now.named("running:") {
		for _, member := range now.values("running:" + runner) {
			_, id, _ := strings.Cut(member, ":")
			r := now.fields("task:" + id)
			require.Equal(t, []string{"RUNNING", member, runner}, []string{r.state(), r.member(id), r["runner"]}, member)
		}
	}
	for id, due := range now.fields("scheduled") {
		r := now.fields("task:" + id)
		require.Equal(t, []string{"SCHEDULED", due}, []string{r.state(), r["due_at"]}, id)
	}
	for _, index := range now.named("final:") {
		for id, end := range now.fields("final:" + index) {
			r := now.fields("task:" + id)
			require.Equal(t, []string{index, end}, []string{indexOf(r.state(), r["keep"] != ""), r["ended_at"]}, id)
		}
	}
	for _, runner := range now.named("control:") {
		for id, word := range now.fields("control:" + runner) {
			r := now.fields("task:" + id)
			taken := now.fields("runners")[runner] == "0" // its intents go with its last task
			require.True(t, taken || slices.Contains(now.values("running:"+runner), r.member(id)), "%s tells %s of %s", runner, word, id)
		}
	}
	for _, kind := range []string{"running:", "inbox:", "control:", "runner:"} {
		for _, runner := range now.named(kind) {
			require.Contains(t, now.fields("runners"), runner, "%s%s has no lease: nobody takes it over", kind, runner)
		}
	}
	counter, _ := strconv.ParseInt(fmt.Sprint(now["epoch"]), 10, 64)
	for _, id := range now.named("task:") {
		require.LessOrEqual(t, now.fields("task:"+id).number("epoch"), counter, "the epoch of %s", id)
	}
}
