package redtask

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOutput(t *testing.T) {
	t.Parallel()
	record := func(state State, output, reason string) *Record {
		r := &Record{ID: "42", Task: "test/x", State: state, Error: reason}
		if output != "" {
			r.Output = json.RawMessage(output)
		}
		return r
	}
	cases := map[string]struct {
		record *Record
		want   int
		fault  string // "" for none
		ended  bool   // the fault is an EndError
	}{
		"ended":                       {record(StateEnded, "5", ""), 5, "", false},
		"ended with null":             {record(StateEnded, "null", ""), 0, "", false},
		"ended without":               {record(StateEnded, "", ""), 0, `redtask: task "42" (ENDED) has no output`, false},
		"ended with another type":     {record(StateEnded, `"x"`, ""), 0, `redtask: decode output of task "42": `, false},
		"not final":                   {record(StateRunning, "", ""), 0, `redtask: task "42" (RUNNING) has no output`, false},
		"error":                       {record(StateError, "", "no card"), 0, `redtask: task test/x, ID "42", ended in ERROR: no card`, true},
		"exception":                   {record(StateException, "", "boom"), 0, `redtask: task test/x, ID "42", ended in EXCEPTION: boom`, true},
		"stopped":                     {record(StateStopped, "", ""), 0, `redtask: task test/x, ID "42", ended in STOPPED`, true},
		"error with a partial output": {record(StateError, "5", "half"), 0, `redtask: task test/x, ID "42", ended in ERROR: half`, true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Output[int](c.record)
			require.Equal(t, c.want, got)
			if c.fault == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.fault)
			end, ok := errors.AsType[*EndError](err)
			require.Equal(t, c.ended, ok)
			if ok {
				require.Same(t, c.record, end.Record)
				require.Equal(t, c.fault, err.Error())
			}
		})
	}
}

func TestAwait(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.Register("test/half", FuncOut(func(_ context.Context, n int) (map[string]int, error) {
			switch {
			case n < 0:
				return nil, Failf("%d is negative", n)
			case n%2 == 1:
				panic("odd")
			}
			return map[string]int{"half": n / 2}, nil
		}))
		e.runner(t, registry, nil)
		client := e.client(t)
		half, err := Await[map[string]int](testContext(t), client, start(t, client, "test/half", 8))
		require.NoError(t, err)
		require.Equal(t, map[string]int{"half": 4}, half)

		_, err = Await[map[string]int](testContext(t), client, start(t, client, "test/half", -1))
		end, ok := errors.AsType[*EndError](err)
		require.True(t, ok, err)
		require.Equal(t, StateError, end.Record.State)
		require.Equal(t, "-1 is negative", end.Record.Error)

		_, err = Await[map[string]int](testContext(t), client, start(t, client, "test/half", 7))
		end, ok = errors.AsType[*EndError](err)
		require.True(t, ok, err)
		require.Equal(t, StateException, end.Record.State)
		require.Contains(t, end.Record.Stack, "result_test.go")

		ctx, cancel := context.WithCancel(testContext(t))
		cancel()
		_, err = Await[int](ctx, client, "nobody")
		require.ErrorIs(t, err, context.Canceled)
		_, err = Await[int](testContext(t), client, "")
		require.ErrorIs(t, err, ErrInvalid)
	})
}
