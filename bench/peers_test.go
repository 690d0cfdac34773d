package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

const (
	peerTasks       = 500
	peerConcurrency = 10
)

// onEachPeer runs a test on each peer that can run here, with a Redis server of its own.
func onEachPeer(t *testing.T, test func(t *testing.T, s system)) {
	t.Helper()
	t.Parallel()
	for _, e := range []entrant{asynqEntrant(), asynqFastEntrant(), taskqEntrant(), gocraftEntrant(), bullmqEntrant(), riverEntrant()} {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			if reason := e.missing(); reason != "" {
				t.Skip(reason)
			}
			s, err := e.open(t.Context(), redistest.Start(t).Addr, peerConcurrency)
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, s.close()) })
			test(t, s)
		})
	}
}

func TestPeerWorksEachTaskOnce(t *testing.T) {
	onEachPeer(t, func(t *testing.T, s system) {
		want := map[payload]int{}
		for i := range peerTasks {
			data := peerPayload(i)
			require.NoError(t, s.start(t.Context(), data))
			want[data] = 1
		}
		requireWorked(t, s, want)
	})
}

func TestPeerStartsInBulk(t *testing.T) {
	onEachPeer(t, func(t *testing.T, s system) {
		bulk, ok := s.(bulkStarter)
		if !ok {
			t.Skip("starts one by one only")
		}
		want := map[payload]int{}
		var data []payload
		for i := range peerTasks {
			data = append(data, peerPayload(i))
			want[data[i]] = 1
		}
		require.NoError(t, bulk.startMany(t.Context(), data))
		requireWorked(t, s, want)
	})
}

func TestPeerStartsLater(t *testing.T) {
	const early = time.Second // asynq cuts off the fraction of a second
	onEachPeer(t, func(t *testing.T, s system) {
		later, ok := s.(delayer)
		if !ok {
			t.Skip("starts at once only")
		}
		handled := make(chan time.Time, 1)
		wait, stop := workPeer(t, s, func(context.Context, json.RawMessage) error {
			handled <- time.Now()
			return nil
		})
		at := time.Now().Add(1500 * time.Millisecond)
		require.NoError(t, later.startAt(t.Context(), at, peerPayload(1)))
		select {
		case when := <-handled:
			assert.Greater(t, when, at.Add(-early))
		case <-time.After(30 * time.Second):
			t.Error("the task is not handled 30 s later")
		}
		stop()
		wait()
	})
}

func TestPeerEndsRunningTasks(t *testing.T) {
	onEachPeer(t, func(t *testing.T, s system) {
		require.NoError(t, s.start(t.Context(), peerPayload(1)))
		running, ended := make(chan struct{}, 1), make(chan struct{})
		wait, stop := workPeer(t, s, func(ctx context.Context, _ json.RawMessage) error {
			running <- struct{}{}
			<-ctx.Done()
			close(ended)
			return nil
		})
		<-running
		count, err := s.finished(t.Context())
		require.NoError(t, err)
		assert.Zero(t, count, "a running task is not finished")
		stop()
		<-ended
		wait()
	})
}

// requireWorked works the tasks that have started, and compares how often each was handled with what is wanted.
func requireWorked(t *testing.T, s system, want map[payload]int) {
	t.Helper()
	count, err := s.finished(t.Context())
	require.NoError(t, err)
	require.Zero(t, count, "tasks that wait are not finished")

	var mu sync.Mutex
	handled := map[payload]int{}
	wait, stop := workPeer(t, s, func(_ context.Context, encoded json.RawMessage) error {
		var data payload
		err := json.Unmarshal(encoded, &data)
		mu.Lock()
		defer mu.Unlock()
		handled[data]++
		return err
	})
	require.Eventually(t, func() bool {
		count, err := s.finished(t.Context())
		assert.NoError(t, err)
		mu.Lock()
		defer mu.Unlock()
		total := 0
		for _, times := range handled {
			total += times
		}
		assert.LessOrEqual(t, count, total, "a task is finished only after its handler")
		return count >= len(want)
	}, 30*time.Second, time.Millisecond)
	stop()
	wait()
	count, err = s.finished(t.Context())
	require.NoError(t, err)
	assert.Equal(t, len(want), count)
	assert.Equal(t, want, handled)
}

func workPeer(t *testing.T, s system, handle handler) (wait, stop func()) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	wait, err := s.work(ctx, peerConcurrency, handle)
	if err != nil {
		stop()
		t.Fatal(err)
	}
	return wait, stop
}

// peerPayload has a Sent as today's, beyond 2^53, which a float64 holds and prints exactly, and every hundredth a long text.
func peerPayload(i int) payload {
	data := payload{I: i, Text: fmt.Sprintf("hello \"world\" %d", i), Sent: 1_700_000_000_000_000_000 + int64(i)*32_000}
	if i%100 == 99 {
		data.Text += strings.Repeat(" and more", 200)
	}
	return data
}
