package chart

import (
	"cmp"
	"math"
	"slices"
	"strings"
)

// Lines is a chart of values over a size.
type Lines struct {
	Title string
	About string // what was done, and how to read it
	Unit  string // of the values
	Size  string // what the lines go over
	Bytes bool   // sizes are numbers of bytes, to be written in KiB and MiB
	Lines []Line
}

// Line is what one series reached, by size.
type Line struct {
	Series
	Points []Point
}

// Point is what was measured at one size.
type Point struct {
	Size float64
	Spread
}

const (
	plotHeight  = 300.0
	nearby      = 15.0 // labels nearer than this would overlap
	logFrom     = 20   // times the smallest size: then sizes stand on a logarithmic axis
	tickSpacing = 46.0
)

// SVG draws the chart: a line through the medians within a band of all that was measured, its name at its end.
func (l *Lines) SVG() []byte {
	var c canvas
	x, y := l.axes()
	l.grid(&c, x, y)
	for i := len(l.Lines) - 1; i >= 0; i-- { // the first ends up on top
		l.Lines[i].draw(&c, x, y)
	}
	l.labels(&c, x, y)
	return c.document(l.Title, l.About, header+plotHeight+axisHeight+12)
}

func (l *Lines) axes() (x, y *scale) {
	smallest, biggest, most, name := math.Inf(1), 0.0, 0.0, 0
	for i := range l.Lines {
		name = max(name, len([]rune(l.Lines[i].Name)))
		for _, p := range l.Lines[i].Points {
			smallest, biggest, most = min(smallest, p.Size), max(biggest, p.Size), max(most, p.High)
		}
	}
	x = &scale{from: smallest, to: biggest, at: margin + 66, end: width - margin - 24 - glyph*float64(name)}
	x.log = smallest > 0 && biggest/smallest >= logFrom
	if smallest == biggest {
		x.from, x.to = smallest-1, biggest+1
	}
	return x, linear(most, header+plotHeight, header+24)
}

func (l *Lines) grid(c *canvas, x, y *scale) {
	for _, tick := range y.ticks() {
		at := math.Round(y.place(tick)) + 0.5
		c.line("grid", x.at-22, at, x.end+14, at)
		c.text(x.at-28, at+4, "quiet", "end", round(tick))
	}
	c.text(margin, header+6, "quiet", "start", l.Unit)
	write := round
	if l.Bytes {
		write = byteSize
	}
	last := math.Inf(-1)
	for _, size := range l.sizes() {
		at := math.Round(x.place(size)) + 0.5
		c.line("axis", at, y.at, at, y.at+5)
		if at-last >= tickSpacing {
			c.text(at, y.at+21, "quiet", "middle", write(size))
			last = at
		}
	}
	name := l.Size
	if x.log {
		name += ", logarithmic"
	}
	c.text((x.at+x.end)/2, y.at+43, "quiet", "middle", name)
}

// sizes are those that were measured.
func (l *Lines) sizes() []float64 {
	var sizes []float64
	for i := range l.Lines {
		for _, p := range l.Lines[i].Points {
			sizes = append(sizes, p.Size)
		}
	}
	slices.Sort(sizes)
	return slices.Compact(sizes)
}

func (l *Line) draw(c *canvas, x, y *scale) {
	slices.SortFunc(l.Points, func(a, b Point) int { return cmp.Compare(a.Size, b.Size) })
	var upper, lower, medians strings.Builder
	path := func(b *strings.Builder, p Point, value float64) {
		b.WriteString(place(x.place(p.Size), y.place(value)))
	}
	for i, p := range l.Points {
		path(&medians, p, p.Median)
		path(&upper, p, p.High)
		back := l.Points[len(l.Points)-1-i]
		path(&lower, back, back.Low)
	}
	dashed := ""
	if l.Kind == Limit {
		dashed = " dashed"
	}
	c.add(`<polygon points="%s" class="band %s"/>`, strings.TrimSpace(upper.String()+lower.String()), l.class())
	c.add(`<polyline points="%s" class="line %s%s"/>`, strings.TrimSpace(medians.String()), l.class(), dashed)
	for _, p := range l.Points {
		c.add(`<circle cx="%.1f" cy="%.1f" r="3.5" class="dot %s"/>`, x.place(p.Size), y.place(p.Median), l.class())
	}
}

// labels name the lines at their ends, and write the subject's values at its points.
func (l *Lines) labels(c *canvas, x, y *scale) {
	lines := slices.Clone(l.Lines)
	slices.SortStableFunc(lines, func(a, b Line) int { return cmp.Compare(b.last(), a.last()) })
	limited := slices.ContainsFunc(lines, func(l Line) bool { return l.Kind == Limit })
	places := make([]float64, len(lines))
	for i := range lines {
		places[i] = y.place(lines[i].last())
	}
	separate(places, y.at)
	for i := range lines {
		weight := ""
		if lines[i].Kind == Subject {
			weight = " strong"
			lines[i].values(c, x, y, limited)
		}
		c.text(x.end+22, places[i]+4, "name"+weight, "start", lines[i].Name)
	}
}

func (l *Line) last() float64 { return l.Points[len(l.Points)-1].Median }

// separate moves places that are too near to each other apart: down, but not beyond the lowest, then up.
func separate(places []float64, lowest float64) {
	for i := 1; i < len(places); i++ {
		places[i] = max(places[i], places[i-1]+nearby)
	}
	for i := len(places) - 1; i >= 0; i-- {
		places[i] = min(places[i], lowest)
		lowest = places[i] - nearby
	}
}

// values stand under a line that has limits over it.
func (l *Line) values(c *canvas, x, y *scale, under bool) {
	last := math.Inf(-1)
	for _, p := range l.Points {
		at, top := x.place(p.Size), y.place(p.High)-9
		if under {
			top = y.place(p.Low) + 18
		}
		if at-last >= tickSpacing {
			c.text(at, top, "halo strong", "middle", number(p.Median))
			last = at
		}
	}
}
