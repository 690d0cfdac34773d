package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// outcome is what a run found, ready to be shown.
type outcome struct {
	machine  string
	settings string
	notes    []string // systems that took part, and those that did not
	verdicts grid
	tables   []grid
}

func (o *outcome) text(w io.Writer) {
	fmt.Fprintf(w, "%s\n%s\n", o.machine, o.settings)
	for i := range o.tables {
		o.tables[i].text(w)
	}
	if len(o.verdicts.rows) > 0 {
		o.verdicts.text(w)
	}
	fmt.Fprintf(w, "\n")
	for _, note := range o.notes {
		fmt.Fprintf(w, "%s\n", note)
	}
}

func (o *outcome) markdown(w io.Writer) {
	fmt.Fprintf(w, "Measured on %s. %s\n\n", o.machine, o.settings)
	if len(o.verdicts.rows) > 0 {
		o.verdicts.markdown(w)
	}
	for i := range o.tables {
		o.tables[i].markdown(w)
	}
	for _, note := range o.notes {
		fmt.Fprintf(w, "- %s\n", note)
	}
}

// What is between the markers is written anew by each run; all else in the document stays.
const (
	beginMarker = "<!-- bench -->"
	endMarker   = "<!-- /bench -->"
)

func (o *outcome) publish(path string) error {
	old, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		old, err = []byte("# Benchmarks\n\n"+beginMarker+"\n"+endMarker+"\n"), nil
	}
	if err != nil {
		return err
	}
	var text strings.Builder
	o.markdown(&text)
	changed, err := between(string(old), text.String())
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, []byte(changed), 0o644)
}

// between puts text where the markers are.
func between(document, text string) (string, error) {
	before, rest, found := strings.Cut(document, beginMarker)
	_, after, closed := strings.Cut(rest, endMarker)
	if !found || !closed {
		return "", fmt.Errorf("no %s with a %s behind it", beginMarker, endMarker)
	}
	return before + beginMarker + "\n\n" + strings.TrimSpace(text) + "\n\n" + endMarker + after, nil
}
