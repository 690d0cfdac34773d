package main

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMedian(t *testing.T) {
	t.Parallel()
	require.InDelta(t, 2, median([]float64{9, 1, 2}), 0)
	require.InDelta(t, 3, median([]float64{4, 1, 2, 9}), 0)
	require.True(t, math.IsNaN(median(nil)))
}

func TestPercentile(t *testing.T) {
	t.Parallel()
	var values []float64
	for i := 100; i >= 1; i-- {
		values = append(values, float64(i))
	}
	require.InDelta(t, 50, percentile(values, 50), 0)
	require.InDelta(t, 99, percentile(values, 99), 0)
	require.InDelta(t, 7, percentile([]float64{7}, 99), 0)
	require.True(t, math.IsNaN(percentile(nil, 50)))
}

func TestShow(t *testing.T) {
	t.Parallel()
	for text, value := range map[string]float64{
		"0": 0, "0.45": 0.45, "1.00": 1, "9.99": 9.99, "12.3": 12.34, "545": 545.4, "1.00k": 999.6, "71.2k": 71_234, "123k": 123_456, "0.001": 0.0012,
		"1.50kk": 1_500_000, "-": math.Inf(1),
	} {
		require.Equal(t, text, show(value))
	}
}

func TestSampleShowsItsSpread(t *testing.T) {
	t.Parallel()
	require.Equal(t, "2.00k (1.00k-3.00k)", sample{3000, 1000, 2000}.String())
	require.Equal(t, "5.00", sample{5, 5}.String())
}

func TestRatioSaysHowMuchBetterTheFirstIs(t *testing.T) {
	t.Parallel()
	require.InDelta(t, 2, ratio(throughput, sample{20}, sample{10}), 0)
	require.InDelta(t, 0.5, ratio(redisCPU, sample{20}, sample{10}), 0)
	require.True(t, math.IsNaN(ratio(redisCPU, sample{20}, nil)))
}

func TestPayloadHasItsSize(t *testing.T) {
	t.Parallel()
	for _, i := range []int{0, 9, 10, 99_999} {
		require.Len(t, encodePayload(t, newPayload(i, 40)), 40)
	}
	require.Len(t, encodePayload(t, newPayload(7, defaultSize)), len(`{"i":7,"text":"hello world"}`))
}

func TestTally(t *testing.T) {
	t.Parallel()
	c, now := newTally(), time.Now()
	for _, event := range []seen{
		{id: "a", seq: 1}, {id: "a", seq: 2, own: true}, {id: "b", seq: 2, own: true}, {gap: true}, {id: "a", seq: 5, own: true}, {id: "a", seq: 4, own: true},
		{id: "a", seq: 6, end: true},
	} {
		c.add(event, now)
	}
	require.Equal(t, []int{4, 2, 1, 1, 1}, []int{c.received, c.lost, c.disordered, c.ended, c.gaps})
}

func TestChoose(t *testing.T) {
	t.Parallel()
	all := []entrant{{name: "a"}, {name: "b", missing: func() string { return "no node" }}, {name: "c", optional: true}}
	pick := func(wanted, flags []string) string {
		chosen, notes, err := choose(all, wanted, flags)
		if err != nil {
			return err.Error()
		}
		return strings.Join(append(names(chosen), notes...), "; ")
	}
	require.Equal(t, "a; b is left out: no node", pick(nil, nil))
	require.Equal(t, "a; c; b is left out: no node", pick(nil, []string{"c"}))
	require.Equal(t, "c", pick([]string{"c"}, nil))
	require.Equal(t, `unknown system "d": use a, b, c`, pick([]string{"d"}, nil))
}
