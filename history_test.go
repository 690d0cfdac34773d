package redtask

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/store"
)

// However often a task is retried, its record has the last ten attempts, in order, each with the beginning of its error.
func TestHistoryIsBounded(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.RegisterWith("test/flaky", Func(func(ctx context.Context, _ any) error {
			return fmt.Errorf("error %d %s", FromContext(ctx).Attempt(), strings.Repeat("x", maxHistoryError+10))
		}), TaskOptions{Retry: &Retry{Attempts: 13, Backoff: Constant(0)}})
		e.runner(t, registry, nil)
		client := e.client(t)
		record := wait(t, client, start(t, client, "test/flaky", nil))
		require.Equal(t, 13, record.Attempt)
		require.Greater(t, len(record.Error), maxHistoryError+10, "the last error is whole")
		require.Len(t, record.History, 10)
		for i, a := range record.History {
			require.Equal(t, 3+i, a.Number)
			require.True(t, strings.HasPrefix(a.Error, fmt.Sprintf("error %d x", a.Number)))
			require.LessOrEqual(t, len(a.Error), maxHistoryError+len("… (cut)"))
		}
		fields, err := e.rdb.HKeys(testContext(t), e.key("task:"+record.ID)).Result()
		require.NoError(t, err)
		n := 0
		for _, field := range fields {
			if strings.HasPrefix(field, "history") {
				n++
			}
		}
		require.Equal(t, 10, n)
	})
}

// The order is that in which they ran: a restart counts attempts anew, and two of one millisecond are told apart by their number, also where
// the ring begins anew.
func TestHistoryIsInOrder(t *testing.T) {
	t.Parallel()
	hash := map[string]string{"history5": "junk", "history3": ""}
	for field, a := range map[string]attemptRecord{
		"history8": {Attempt: 8, StartedAt: 100}, "history9": {Attempt: 9, StartedAt: 200},
		"history0": {Attempt: 10, StartedAt: 200}, "history2": {Attempt: 2, StartedAt: 300}, "history1": {Attempt: 1, StartedAt: 300},
	} {
		text, err := json.Marshal(a)
		require.NoError(t, err)
		hash[field] = string(text)
	}
	var order []int
	for _, a := range newHistory(hash) {
		order = append(order, a.Number)
	}
	require.Equal(t, []int{8, 9, 10, 1, 2}, order)
}

// What a run that is not the last one leaves: when it began and ended by the clock of Redis, what it would have ended in, and all that its
// record, its index and its places need.
func TestAttemptIsLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := loneEngine(RunnerOptions{})
		e.runnerID = "runner"
		e.clockOffset.Store(time.Hour.Milliseconds())
		r := e.newRun(&store.Claim{ID: "42", Task: "test/x", Epoch: 7, Attempt: 12, Keep: true, Extra: &store.Extra{Options: `{"key":"k"}`}})
		began := e.now()
		time.Sleep(3 * time.Second) // of the bubble
		leave := r.later(&next{
			reason: reasonRetry, delay: 90 * time.Second, state: StateError, err: errors.New(strings.Repeat("x", 2*maxErrorText)), fields: []string{"restarts", "1 2"},
		})
		require.Equal(t, "SCHEDULED", leave.State)
		require.EqualValues(t, 90_000, leave.Delay)
		require.True(t, leave.Keep, "its record stays")
		require.True(t, leave.Holds, "what it holds goes")
		fields := map[string]string{}
		for i := 0; i < len(leave.Fields); i += 2 {
			fields[leave.Fields[i]] = leave.Fields[i+1]
		}
		require.Len(t, fields, 3)
		require.Equal(t, "1 2", fields["restarts"])
		require.LessOrEqual(t, len(fields["error"]), maxErrorText+len("… (cut)"))
		var left attemptRecord
		require.NoError(t, json.Unmarshal([]byte(fields["history2"]), &left))
		require.LessOrEqual(t, len(left.Error), maxHistoryError+len("… (cut)"))
		left.Error = ""
		require.Equal(t, attemptRecord{Attempt: 12, State: StateError, Runner: "runner", StartedAt: began, EndedAt: began + 3000}, left)
	})
}
