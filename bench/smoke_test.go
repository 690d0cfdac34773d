package main

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDrain runs some tasks with every entrant that can run here, in processes as the bench does.
func TestDrain(t *testing.T) {
	t.Parallel()
	for _, e := range available(t) {
		if !e.takesPart("drain") {
			continue
		}
		for _, concurrency := range []int{1, 10} {
			t.Run(fmt.Sprintf("%s/%d", e.name, concurrency), func(t *testing.T) {
				t.Parallel()
				ctx, m := testContext(t), newMeasurement(testServer(t), &e)
				const n = 300
				require.NoError(t, m.fill(ctx, n, defaultSize))
				r, err := m.do(ctx, task{role: "worker", mode: "drain", concurrency: concurrency, n: n})
				require.NoError(t, err)
				require.Positive(t, r.Seconds)
				require.Positive(t, r.Usage.CPU)
			})
		}
	}
}

// TestPickUp has tasks wake an idle worker, and checks that its handler gets the data that was sent.
func TestPickUp(t *testing.T) {
	t.Parallel()
	for _, e := range available(t) {
		if !e.takesPart("pick-up") {
			continue
		}
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			ctx, m := testContext(t), newMeasurement(testServer(t), &e)
			worker, err := m.launch(task{role: "worker", mode: "latency", concurrency: 10})
			require.NoError(t, err)
			defer worker.kill()
			_, err = worker.next(ctx, eventUp)
			require.NoError(t, err)
			producer, err := m.launch(task{role: "producer", mode: "latency"})
			require.NoError(t, err)
			defer producer.kill()
			for i := range 3 {
				producer.tell(wordNext)
				r, err := worker.next(ctx, eventHandled)
				require.NoError(t, err)
				require.Equal(t, i, r.Count)
				require.Positive(t, r.Latency)
			}
		})
	}
}

// TestHold: a task's ctx ends with the worker, which then ends in order.
func TestHold(t *testing.T) {
	t.Parallel()
	for _, e := range available(t) {
		if !e.takesPart("running") {
			continue
		}
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			ctx, m := testContext(t), newMeasurement(testServer(t), &e)
			require.NoError(t, m.fill(ctx, 20, defaultSize))
			worker, err := m.holdAll(ctx, 20)
			require.NoError(t, err)
			worker.tell(wordNext)
			r, err := worker.next(ctx, eventDone)
			require.NoError(t, err)
			require.Positive(t, r.Usage.RSS)
			worker.kill()
		})
	}
}

func TestEmit(t *testing.T) {
	t.Parallel()
	e := redtaskEntrant()
	ctx, m := testContext(t), newMeasurement(testServer(t), &e)
	watcher, err := m.launch(task{role: "watcher", mode: "count"})
	require.NoError(t, err)
	defer watcher.kill()
	_, err = watcher.next(ctx, eventUp)
	require.NoError(t, err)
	const n, events = 10, 5
	require.NoError(t, m.fill(ctx, n, defaultSize))
	worker, err := m.launch(task{role: "worker", mode: "emit", concurrency: n, n: n, events: events})
	require.NoError(t, err)
	defer worker.kill()
	_, err = worker.next(ctx, eventAll)
	require.NoError(t, err)
	worker.tell(wordGo)
	_, err = worker.next(ctx, eventDone)
	require.NoError(t, err)
	watcher.tell(wordGo)
	got, err := watcher.next(ctx, eventDone)
	require.NoError(t, err)
	require.Equal(t, report{Event: eventDone, Count: n * events, Ended: n, Seconds: got.Seconds, Usage: got.Usage}, got)
}

func TestDelayed(t *testing.T) {
	t.Parallel()
	e := redtaskEntrant()
	m := newMeasurement(testServer(t), &e)
	m.parameter = "5"
	require.NoError(t, delayed(testContext(t), m))
	require.Len(t, m.rows, 3)
}

func TestFaultsOfChildrenAreTold(t *testing.T) {
	t.Parallel()
	e := redtaskEntrant()
	ctx, m := testContext(t), newMeasurement(testServer(t), &e)
	_, err := m.do(ctx, task{role: "worker", mode: "rest"})
	require.ErrorContains(t, err, `worker of redtask (rest): worker has no mode "rest"`)
	m.server.end()
	_, err = m.do(ctx, task{role: "producer", mode: "start", concurrency: 1, n: 1})
	require.ErrorContains(t, err, "producer of redtask (start)")
}
