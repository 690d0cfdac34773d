package chart

import (
	"fmt"
	"html"
	"strings"
)

const (
	width  = 840.0
	margin = 24.0
	header = 76.0 // height of title and explanation
	glyph  = 6.6  // width of a letter, about: who reads it has fonts that are not known here
)

// canvas collects the parts of a picture. Coordinates are pixels from the top left corner.
type canvas struct{ strings.Builder }

func (c *canvas) add(format string, args ...any) { fmt.Fprintf(&c.Builder, format+"\n", args...) }

// text writes a line; anchor is start, middle or end.
func (c *canvas) text(x, y float64, class, anchor, text string) {
	c.add(`<text x="%.1f" y="%.1f" class="%s" text-anchor="%s">%s</text>`, x, y, class, anchor, html.EscapeString(text))
}

func (c *canvas) line(class string, x1, y1, x2, y2 float64) {
	c.add(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="%s"/>`, x1, y1, x2, y2, class)
}

// document puts what was drawn under a title, on a card of its own colour.
func (c *canvas) document(title, about string, height float64) []byte {
	var d canvas
	d.add(`<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" viewBox="0 0 %.0f %.0f" role="img" aria-labelledby="title">`,
		width, height, width, height)
	d.add(`<title id="title">%s</title>`, html.EscapeString(title))
	d.add("<style>%s</style>", style())
	d.add(`<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">` +
		`<line x1="0" y1="0" x2="0" y2="6" class="hatch"/></pattern></defs>`)
	d.add(`<rect x="0.5" y="0.5" width="%.0f" height="%.0f" rx="6" class="card"/>`, width-1, height-1)
	d.text(margin, 36, "title", "start", title)
	d.text(margin, 57, "quiet", "start", about)
	d.WriteString(c.String())
	d.add("</svg>")
	return []byte(d.String())
}

// shades is how many peers have a colour of their own.
const shades = 6

// palette is how a chart looks on a page of one kind.
type palette struct {
	card, border, text, quiet, grid, subject, limit string
	peers                                           [shades]string
}

var (
	light = palette{
		card: "#ffffff", border: "#d1d9e0", text: "#1f2328", quiet: "#59636e", grid: "#e4e8ec", subject: "#d92d20", limit: "#6e7781",
		peers: [shades]string{"#3f78b5", "#93a1b1", "#86b6e2", "#5c6b7b", "#bccad8", "#274c77"},
	}
	dark = palette{
		card: "#0d1117", border: "#3d444d", text: "#f0f6fc", quiet: "#9198a1", grid: "#262c36", subject: "#f04438", limit: "#9198a1",
		peers: [shades]string{"#4f8fd0", "#8793a1", "#9cc7ee", "#65768a", "#c5d2df", "#3a679c"},
	}
)

// style is what both pages share, then the light page's colours, then the dark one's where the reader's page is dark.
func style() string {
	return `
text{font:12px -apple-system,BlinkMacSystemFont,"Segoe UI","Noto Sans",Helvetica,Arial,"DejaVu Sans",sans-serif}
.title{font-size:18px;font-weight:600}
.group{font-size:13px;font-weight:600}
.strong{font-weight:600}
.grid,.axis,.whisker{stroke-width:1}
.whisker{stroke-opacity:.75}
.hatch{stroke-width:2.5}
.line{fill:none;stroke-width:2}
.dashed{stroke-dasharray:6 4}
.bar.limit{fill:url(#hatch);stroke-dasharray:4 2}
.band{fill-opacity:.16}
.halo{paint-order:stroke;stroke-width:4px;stroke-linejoin:round}
` + light.rules() + "@media (prefers-color-scheme:dark){\n" + dark.rules() + "}\n"
}

func (p *palette) rules() string {
	var c canvas
	c.add("text{fill:%s}", p.text)
	c.add(".card{fill:%s;stroke:%s}", p.card, p.border)
	c.add(".halo{stroke:%s}", p.card)
	c.add(".quiet{fill:%s}", p.quiet)
	c.add(".grid{stroke:%s}.axis{stroke:%s}.whisker{stroke:%s}", p.grid, p.quiet, p.text)
	c.add(".hatch,.bar.limit,.line.limit{stroke:%s}.dot.limit,.band.limit{fill:%s}", p.limit, p.limit)
	c.colour("subject", p.subject)
	for i, colour := range p.peers {
		c.colour(fmt.Sprintf("peer%d", i), colour)
	}
	return c.String()
}

func (c *canvas) colour(class, colour string) {
	c.add(".bar.%[1]s,.dot.%[1]s,.band.%[1]s{fill:%[2]s}.line.%[1]s{stroke:%[2]s}", class, colour)
}

func place(x, y float64) string { return fmt.Sprintf("%.1f,%.1f ", x, y) }
