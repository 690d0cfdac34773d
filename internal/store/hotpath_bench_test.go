package store

import (
	"fmt"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

// What one commit and one start cost this side of the wire: a real call's answer is played back, so no server's time is in the figures.

const (
	benchTasks = 64 // in one call; of its own, so that figures of all times compare
	benchData  = `{"i":12345,"text":"hello world"}`
	benchEvent = `"data":` + benchData + `,"id":"0123456789abcde","task":"bench/nothing","epoch":123456,"seq":2,"at":1790000000000}`

	benchEmitted = `{"event":"running",` + benchEvent
)

// BenchmarkHotCommit is the steady state: as many tasks end as are claimed, and each has published that it runs.
func BenchmarkHotCommit(b *testing.B) {
	for _, bench := range []struct {
		name string
		fill func(b *Batch, claims []Claim)
	}{
		{"leaves", addLeaves},
		{"emits", addEmits},
		{"leaves+emits", func(b *Batch, claims []Claim) { addEmits(b, claims); addLeaves(b, claims) }},
		{"writes", addWrites},
		{"claims", nil},
		{"leaves+emits+claims", func(b *Batch, claims []Claim) { addEmits(b, claims); addLeaves(b, claims); b.Claim = benchTasks }},
	} {
		b.Run(bench.name, func(b *testing.B) { benchCommit(b, bench.fill) })
	}
}

// benchCommit fills each batch with what benchTasks running tasks have to say, or only claims as many.
func benchCommit(b *testing.B, fill func(b *Batch, claims []Claim)) {
	e, freeze := onReplay(b)
	e.register("r")
	var claims []Claim
	if fill != nil {
		e.startDrawn("first", benchTasks)
		claims = e.commit("r", benchTasks, nil).Claims
		require.Len(b, claims, benchTasks)
	}
	e.startDrawn("second", benchTasks)
	next := func() *Batch {
		e.numbers["r"]++
		batch := &Batch{Number: e.numbers["r"]}
		if fill == nil {
			batch.Claim = benchTasks
		} else {
			fill(batch, claims)
		}
		return batch
	}
	batch := next()
	result, err := e.queue.Commit(b.Context(), "r", batch)
	require.NoError(b, err)
	require.Len(b, result.Claims, batch.Claim)
	freeze()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.queue.Commit(b.Context(), "r", next()); err != nil {
			b.Fatal(err)
		}
	}
}

func addLeaves(b *Batch, claims []Claim) {
	for i := range claims {
		b.Leave(claims[i].ID, Member(claims[i].Epoch, claims[i].ID), &Leave{State: "ENDED", Event: benchEvent, Fields: []string{"output", benchData}})
	}
}

func addEmits(b *Batch, claims []Claim) {
	for i := range claims {
		b.Emit(claims[i].ID, benchEmitted)
	}
}

func addWrites(b *Batch, claims []Claim) {
	for i := range claims {
		b.Write(claims[i].ID, Member(claims[i].Epoch, claims[i].ID), "progress", benchData)
	}
}

// BenchmarkHotStart puts tasks in line whose IDs the client drew.
func BenchmarkHotStart(b *testing.B) {
	for _, n := range []int{1, 128} {
		b.Run(fmt.Sprintf("tasks=%d", n), func(b *testing.B) {
			e, freeze := onReplay(b)
			tasks := e.startDrawn("0123456789ab", n)
			freeze()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.queue.Start(b.Context(), tasks); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// startDrawn starts tasks as if the client had drawn their IDs.
func (e *env) startDrawn(prefix string, n int) []NewTask {
	e.t.Helper()
	tasks := make([]NewTask, n)
	for i, id := range numbered(prefix, n) {
		tasks[i] = NewTask{ID: id, Task: "bench/nothing", Data: benchData}
	}
	faults, err := e.queue.Start(e.ctx(), tasks)
	require.NoError(e.t, err)
	for _, fault := range faults {
		require.NoError(e.t, fault)
	}
	return tasks
}

func onReplay(b *testing.B) (e *env, freeze func()) {
	b.Helper()
	e = newEnv(b, miniredis.RunT(b).Addr(), "bench")
	e.rdb, freeze = redistest.Replay(b, e.rdb.Options().Addr)
	e.store = New(e.rdb, "bench")
	e.queue = e.store.Queue("q")
	return e, freeze
}
