// Package chart draws what a benchmark measured as SVG that reads well in a README, on a light page and on a dark one, and that is the
// same bytes for the same figures.
package chart

import (
	"math"
	"regexp"
	"slices"
	"strconv"
)

// Kind says what a series stands for, and so how it looks.
type Kind int

// The kinds of series: what the chart is about, what it is compared with, and what nothing can surpass.
const (
	Peer Kind = iota
	Subject
	Limit
)

// Series is one thing that was measured. Shade tells peers apart: it is the number of a colour, from 0.
type Series struct {
	Name  string
	Kind  Kind
	Shade int
}

// class is the series' style; each letter before it says what part of the style is meant.
func (s *Series) class() string {
	switch s.Kind {
	case Subject:
		return "subject"
	case Limit:
		return "limit"
	default:
		return "peer" + strconv.Itoa(s.Shade%shades)
	}
}

// Spread is what several measurements of one thing have in common.
type Spread struct{ Low, Median, High float64 }

// SpreadOf needs at least one value.
func SpreadOf(values []float64) Spread {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return Spread{Low: sorted[0], Median: (sorted[(n-1)/2] + sorted[n/2]) / 2, High: sorted[n-1]}
}

// scale maps values to places on an axis.
type scale struct {
	from, to float64 // values
	at, end  float64 // places
	log      bool
}

func (s *scale) place(value float64) float64 {
	from, to := s.from, s.to
	if s.log {
		from, to, value = math.Log(from), math.Log(to), math.Log(max(value, from))
	}
	return s.at + (value-from)/(to-from)*(s.end-s.at)
}

// linear reaches from 0 to the first tick at or over the largest value.
func linear(largest, at, end float64) *scale {
	step := tickStep(largest)
	return &scale{from: 0, to: max(1, math.Ceil(largest/step-1e-9)) * step, at: at, end: end}
}

// decades reaches from the power of ten below the smallest value to the one over the largest.
func decades(smallest, largest, at, end float64) *scale {
	from := math.Floor(math.Log10(smallest) + 1e-9)
	to := max(from+1, math.Ceil(math.Log10(largest)-1e-9))
	return &scale{from: math.Pow(10, from), to: math.Pow(10, to), at: at, end: end, log: true}
}

func (s *scale) ticks() []float64 {
	var ticks []float64
	if s.log {
		for v := s.from; v <= s.to*1.001; v *= 10 {
			ticks = append(ticks, v)
		}
		return ticks
	}
	step := tickStep(s.to)
	for i := 0.0; i*step <= s.to*1.001; i++ {
		ticks = append(ticks, i*step)
	}
	return ticks
}

// tickStep is 1, 2 or 5 times a power of ten, for four to eight ticks.
func tickStep(largest float64) float64 {
	if largest <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(largest/4)))
	for _, factor := range []float64{5, 2} {
		if largest/(power*factor) >= 4 {
			return power * factor
		}
	}
	return power
}

// number writes a value with three digits, or four for thousands.
func number(v float64) string {
	rounded, _ := strconv.ParseFloat(strconv.FormatFloat(v, 'g', 3, 64), 64)
	switch {
	case rounded >= 1e6:
		return short(rounded/1e6) + "M"
	case rounded >= 1e4:
		return short(rounded/1e3) + "k"
	case rounded >= 1e3:
		text := strconv.FormatFloat(v, 'f', 0, 64)
		return text[:len(text)-3] + "," + text[len(text)-3:]
	default:
		return short(rounded)
	}
}

func short(v float64) string {
	decimals := 0
	if v > 0 {
		decimals = max(0, 2-int(math.Floor(math.Log10(v)+1e-9)))
	}
	return strconv.FormatFloat(v, 'f', decimals, 64)
}

var zeros = regexp.MustCompile(`\.0*($|[^0-9])|(\.[0-9]*[1-9])0+`)

// round writes a value that was chosen, not measured: without the zeros that would say how exact it is.
func round(v float64) string { return zeros.ReplaceAllString(number(v), "$1$2") }

// byteSize writes a number of bytes in the units that sizes are chosen in.
func byteSize(v float64) string {
	switch {
	case v >= 1<<20:
		return round(v/(1<<20)) + " MiB"
	case v >= 1<<10:
		return round(v/(1<<10)) + " KiB"
	default:
		return round(v) + " B"
	}
}
