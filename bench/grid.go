package main

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// grid is a table, for a terminal or a document.
type grid struct {
	title  string
	about  string
	header []string
	rows   [][]string
}

func (g *grid) text(w io.Writer) {
	widths := make([]int, len(g.header))
	for _, line := range append([][]string{g.header}, g.rows...) {
		for i, word := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(word))
		}
	}
	fmt.Fprintf(w, "\n%s\n", g.title)
	for _, line := range append([][]string{g.header}, g.rows...) {
		var padded strings.Builder
		for i, word := range line {
			padded.WriteString("  " + word + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(word)))
		}
		fmt.Fprintf(w, "%s\n", strings.TrimRight(padded.String(), " "))
	}
}

func (g *grid) markdown(w io.Writer) {
	fmt.Fprintf(w, "### %s\n\n", g.title)
	if g.about != "" {
		fmt.Fprintf(w, "%s\n\n", g.about)
	}
	fmt.Fprintf(w, "| %s |\n", strings.Join(g.header, " | "))
	fmt.Fprintf(w, "|%s\n", strings.Repeat("---|", len(g.header)))
	for _, line := range g.rows {
		fmt.Fprintf(w, "| %s |\n", strings.Join(line, " | "))
	}
	fmt.Fprintf(w, "\n")
}
