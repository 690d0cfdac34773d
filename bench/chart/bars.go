package chart

import "math"

// Bars is a chart of groups of bars: one group per situation, one bar per series.
type Bars struct {
	Title  string
	About  string // what was done, and how to read it
	Unit   string // of the values
	Log    bool   // on a logarithmic axis: for values whose sizes differ much
	Groups []Group
}

// Group is a situation in which all series were measured.
type Group struct {
	Label string
	Bars  []Bar
}

// Bar is what one series reached.
type Bar struct {
	Series
	Spread
}

const (
	rowHeight   = 23.0
	barHeight   = 15.0
	groupHeader = 36.0
	axisHeight  = 52.0
)

// SVG draws the chart: a row for each bar, with its name before it and its median behind.
func (b *Bars) SVG() []byte {
	var c canvas
	axis := b.axis()
	height := b.height()
	b.grid(&c, axis, height-axisHeight)
	y := header
	for i := range b.Groups {
		group := &b.Groups[i]
		c.text(margin, y+24, "group halo", "start", group.Label)
		y += groupHeader
		for j := range group.Bars {
			group.Bars[j].draw(&c, axis, y)
			y += rowHeight
		}
	}
	return c.document(b.Title, b.About, height)
}

func (b *Bars) height() float64 {
	height := header + axisHeight
	for i := range b.Groups {
		height += groupHeader + rowHeight*float64(len(b.Groups[i].Bars))
	}
	return height
}

func (b *Bars) axis() *scale {
	smallest, most, name := math.Inf(1), 0.0, 0
	for i := range b.Groups {
		for _, bar := range b.Groups[i].Bars {
			smallest, most, name = min(smallest, bar.Low), max(most, bar.High), max(name, len([]rune(bar.Name)))
		}
	}
	at, end := margin+20+glyph*float64(name), width-margin-56
	if b.Log && smallest > 0 {
		return decades(smallest, most, at, end)
	}
	return linear(most, at, end)
}

func (b *Bars) grid(c *canvas, axis *scale, bottom float64) {
	for _, tick := range axis.ticks() {
		x := math.Round(axis.place(tick)) + 0.5
		c.line("grid", x, header, x, bottom+4)
		c.text(x, bottom+20, "quiet", "middle", round(tick))
	}
	unit := b.Unit
	if axis.log {
		unit += ", logarithmic"
	}
	c.text((axis.at+axis.end)/2, bottom+39, "quiet", "middle", unit+"; bar: median, whisker: least to most")
}

func (b *Bar) draw(c *canvas, axis *scale, y float64) {
	middle := y + rowHeight/2
	weight := ""
	if b.Kind == Subject {
		weight = " strong"
	}
	c.text(axis.at-10, middle+4, "name"+weight, "end", b.Name)
	c.add(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" class="bar %s"/>`,
		axis.at, middle-barHeight/2, max(1, axis.place(b.Median)-axis.at), barHeight, b.class())
	low, high := axis.place(b.Low), axis.place(b.High)
	if high-low >= 1 {
		c.add(`<path d="M%.1f %.1fH%.1fM%.1f %.1fv6M%.1f %.1fv6" class="whisker"/>`, low, middle, high, low, middle-3, high, middle-3)
	}
	c.text(high+7, middle+4, "halo"+weight, "start", number(b.Median))
}
