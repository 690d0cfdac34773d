package main

import (
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestScale runs each scaled drain with a small size.
func TestScale(t *testing.T) {
	t.Parallel()
	e := redtaskEntrant()
	for _, w := range scaleWorkloads() {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			m := newMeasurement(testServer(t), &e)
			m.workload, m.parameter, m.repeat = &w, "2", 2 // the steady state is measured once
			if w.name == "scale-payload" || w.name == "scale-waiting" {
				m.parameter = "3000"
			}
			require.NoError(t, w.run(testContext(t), m))
			require.NotEmpty(t, m.rows)
			for _, r := range m.rows {
				require.Positive(t, r.value, "%s, %s", w.name, r.metric)
			}
		})
	}
}

func TestSpread(t *testing.T) {
	t.Parallel()
	e := redtaskEntrant()
	ctx, m := testContext(t), newMeasurement(testServer(t), &e)
	filler := m.line(3*bulkSize, scaleSize)
	filler.queues = 3
	_, err := m.do(ctx, filler)
	require.NoError(t, err)
	opened, err := e.open(ctx, m.server.addr, 1)
	require.NoError(t, err)
	defer func() { require.NoError(t, opened.close()) }()
	s := opened.(*redtaskSystem)
	s.spread(3)
	for _, queue := range s.queues {
		counts, err := queue.Counts(ctx)
		require.NoError(t, err)
		require.InDelta(t, bulkSize, counts.Wait, 1, queue.Queue())
	}
}

func TestScaleTables(t *testing.T) {
	t.Parallel()
	rows := []row{
		{"scale-concurrency", "100", subject, 1, throughput.name, 50_000, throughput.unit},
		{"scale-concurrency", "100", subject, 1, redisCPU.name, 20, redisCPU.unit},
		{"scale-concurrency", "100", subject, 1, processCPU.name, 10, processCPU.unit},
	}
	found := scaleTables(rows, chooseWorkloads(scaleWorkloads(), regexp.MustCompile("concurrency/100$"), false))
	require.Len(t, found, 2)
	require.Equal(t, [][]string{{"100", "50.0k", "20.0", "10.0"}}, found[0].rows)
	require.Equal(t, []string{"3", "150k", "1.50", "150k"}, found[1].rows[2])
	_, ok := cluster(nil)
	require.False(t, ok)
}
