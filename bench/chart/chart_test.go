package chart

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSpreadOf(t *testing.T) {
	t.Parallel()
	require.Equal(t, Spread{Low: 1, Median: 3, High: 9}, SpreadOf([]float64{9, 1, 3}))
	require.Equal(t, Spread{Low: 1, Median: 2, High: 9}, SpreadOf([]float64{9, 1, 3, 1}))
	require.Equal(t, Spread{Low: 5, Median: 5, High: 5}, SpreadOf([]float64{5}))
}

func TestNumber(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		value         float64
		number, round string
	}{
		{0, "0", "0"},
		{0.00012, "0.000120", "0.00012"},
		{0.42, "0.420", "0.42"},
		{5, "5.00", "5"},
		{10.5, "10.5", "10.5"},
		{100, "100", "100"},
		{99.96, "100", "100"},
		{999.6, "1,000", "1,000"},
		{1076, "1,076", "1,076"},
		{9_996, "10.0k", "10k"},
		{11_000, "11.0k", "11k"},
		{61_234, "61.2k", "61.2k"},
		{100_000, "100k", "100k"},
		{999_600, "1.00M", "1M"},
		{2_500_000, "2.50M", "2.5M"},
	} {
		require.Equal(t, c.number, number(c.value), c.value)
		require.Equal(t, c.round, round(c.value), c.value)
	}
	require.Equal(t, "40 B", byteSize(40))
	require.Equal(t, "1 KiB", byteSize(1024))
	require.Equal(t, "1.5 MiB", byteSize(1.5*(1<<20)))
}

func TestTicks(t *testing.T) {
	t.Parallel()
	require.Equal(t, []float64{0, 20, 40, 60, 80, 100}, linear(88, 0, 1).ticks())
	require.Equal(t, []float64{0, 50, 100, 150, 200, 250}, linear(212, 0, 1).ticks())
	require.InDelta(t, 1, linear(0, 0, 1).to, 0)
	require.InDeltaSlice(t, []float64{0.1, 1, 10, 100}, decades(0.42, 97, 0, 1).ticks(), 1e-9)
	require.InDeltaSlice(t, []float64{1, 10}, decades(1, 1, 0, 1).ticks(), 1e-9)
}

func TestSeparate(t *testing.T) {
	t.Parallel()
	places := []float64{10, 12, 100, 110, 112}
	separate(places, 115)
	require.Equal(t, []float64{10, 25, 85, 100, 115}, places)
}

func TestSVG(t *testing.T) {
	t.Parallel()
	series := Series{Name: `<a & "b">`, Kind: Subject}
	bars := Bars{Title: "t", Unit: "s", Groups: []Group{{"g", []Bar{{series, Spread{1, 2, 3}}}}}}
	lines := Lines{Title: "t", Unit: "s", Lines: []Line{{series, []Point{{1, Spread{1, 2, 3}}}}}}
	for name, draw := range map[string]func() []byte{"bars": bars.SVG, "lines": lines.SVG} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			svg := string(draw())
			require.Contains(t, svg, ">&lt;a &amp; &#34;b&#34;&gt;</text>")
			require.NotContains(t, svg, "NaN")
			require.NotContains(t, svg, "Inf")
			require.Equal(t, svg, string(draw()), "the same bytes again")
		})
	}
}
