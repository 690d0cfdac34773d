package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestCountersLeaveOutTheBench: what the bench asks itself is not what a system did.
func TestCountersLeaveOutTheBench(t *testing.T) {
	t.Parallel()
	ctx, s := t.Context(), testServer(t)
	before, err := s.counters(ctx)
	require.NoError(t, err)
	after, err := s.counters(ctx)
	require.NoError(t, err)
	did := after.since(before)
	require.Zero(t, did.commands)
	require.Zero(t, did.trips)
	require.NoError(t, s.client.Eval(ctx, "redis.call('TIME') return redis.call('TIME')", nil).Err())
	last, err := s.counters(ctx)
	require.NoError(t, err)
	did = last.since(after)
	require.InDelta(t, 3, did.commands, 0, "those within the script as well")
	require.InDelta(t, 1, did.trips, 0)
}

func TestCallsLeaveOutScripts(t *testing.T) {
	t.Parallel()
	ctx, s := t.Context(), testServer(t)
	m, err := s.monitor(ctx)
	require.NoError(t, err)
	defer m.close()
	require.NoError(t, s.client.Eval(ctx, "return redis.call('TIME')", nil).Err())
	require.NoError(t, s.client.Ping(ctx).Err())
	calls, err := m.calls(ctx, 500*time.Millisecond)
	require.NoError(t, err)
	require.Equal(t, 2, calls)
}

func TestSlowest(t *testing.T) {
	t.Parallel()
	ctx, s := t.Context(), testServer(t)
	require.NoError(t, s.resetSlow(ctx))
	slowest, err := s.slowest(ctx)
	require.NoError(t, err)
	require.Less(t, slowest, 5.0)
	busy := "local t = redis.call('TIME') repeat local n = redis.call('TIME') until (n[1] - t[1]) * 1000000 + n[2] - t[2] > 20000 return 1"
	require.NoError(t, s.client.Eval(ctx, busy, nil).Err())
	slowest, err = s.slowest(ctx)
	require.NoError(t, err)
	require.Greater(t, slowest, 19.0)
}

func TestParseCounters(t *testing.T) {
	t.Parallel()
	text := "# CPU\r\nused_cpu_sys:1.5\r\nused_cpu_user:2.25\r\nused_memory:1000\r\nconnected_clients:3\r\n" +
		"total_commands_processed:10\r\ntotal_reads_processed:4\r\n"
	c, err := parseCounters(text)
	require.NoError(t, err)
	require.Equal(t, counters{at: c.at, cpu: 3.75, commands: 10, trips: 4, memory: 1000, clients: 3}, c)
	_, err = parseCounters("used_memory:1\r\n")
	require.ErrorContains(t, err, "INFO lacks fields")
	_, err = parseCounters("used_memory:much\r\n")
	require.ErrorContains(t, err, `used_memory is "much"`)
}

func TestIsClientCall(t *testing.T) {
	t.Parallel()
	require.True(t, isClientCall(`+1790000000.123456 [0 127.0.0.1:50000] "PING"`))
	require.True(t, isClientCall(`+1790000000.123456 [0 127.0.0.1:50000] "SET" "a" "x lua] [0 lua]"`))
	require.False(t, isClientCall(`+1790000000.123456 [0 lua] "GET" "x"`))
	require.False(t, isClientCall("junk"))
}

func TestUsage(t *testing.T) {
	t.Parallel()
	require.EqualValues(t, 2048, kibibytes([]byte("Name:\tx\nVmHWM:\t    2 kB\nVmRSS:\t 1 kB\n"), "VmHWM:"))
	require.Zero(t, kibibytes([]byte("Name:\tx\n"), "VmHWM:"))
}
