package main

import (
	"math"
	"slices"
	"strconv"
	"strings"
)

// percentile is the smallest value that so many percent of the values do not exceed (nearest rank).
func percentile(values []float64, percent float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(percent / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	switch {
	case n == 0:
		return math.NaN()
	case n%2 == 0:
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return sorted[n/2]
}

// sample is what the repeats of one cell found.
type sample []float64

func (s sample) median() float64 { return median(s) }
func (s sample) least() float64  { return slices.Min(s) }
func (s sample) most() float64   { return slices.Max(s) }

// show writes a number with three significant digits, thousands as k.
func show(value float64) string {
	size := math.Abs(value)
	switch {
	case math.IsNaN(value) || math.IsInf(value, 0):
		return "-"
	case size >= 999.5:
		return show(value/1000) + "k"
	case size >= 99.95:
		return strconv.FormatFloat(value, 'f', 0, 64)
	case size >= 9.995:
		return strconv.FormatFloat(value, 'f', 1, 64)
	case size >= 0.005 || size == 0:
		return trimZeros(strconv.FormatFloat(value, 'f', 2, 64))
	}
	return strconv.FormatFloat(value, 'g', 1, 64)
}

func trimZeros(text string) string {
	if text == "0.00" {
		return "0"
	}
	return text
}

// String is the median, with the spread if there is one.
func (s sample) String() string {
	text := show(s.median())
	least, most := show(s.least()), show(s.most())
	if least == most {
		return text
	}
	return text + " (" + least + "-" + most + ")"
}

// results are the samples of all cells.
type results map[cell]sample

type cell struct{ workload, parameter, system, metric string }

func collect(rows []row) results {
	r := results{}
	for _, x := range rows {
		at := cell{x.workload, x.parameter, x.system, x.metric}
		r[at] = append(r[at], x.value)
	}
	return r
}

// ratio says how many times better one is than the other; NaN if one is missing.
func ratio(what metric, one, other sample) float64 {
	if len(one) == 0 || len(other) == 0 {
		return math.NaN()
	}
	if what.more {
		return one.median() / other.median()
	}
	return other.median() / one.median()
}

const limitPrefix = "limit-"

func isLimit(system string) bool { return strings.HasPrefix(system, limitPrefix) }

// isPeer excludes the limits and the variants of a peer, which are named like it: `asynq-10ms`.
func isPeer(system string) bool {
	return system != subject && !isLimit(system) && !strings.Contains(system, "-")
}
