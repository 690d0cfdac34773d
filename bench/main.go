// Package main measures redtask beside its peers, and beside limits that nothing with its duties can pass, on one machine in one run.
// See README.md.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 && isRole(os.Args[1]) {
		os.Exit(runChild(os.Args[1:], os.Stdin, os.Stdout))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := runBench(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// settings are the flags.
type settings struct {
	quick    bool
	scale    bool
	repeats  int
	only     string
	systems  string
	csv      string
	markdown string
	charts   string
	optional map[string]*bool
}

func parseFlags(args []string) (*settings, error) {
	s := &settings{optional: map[string]*bool{}}
	set := flag.NewFlagSet("bench", flag.ContinueOnError)
	set.BoolVar(&s.quick, "quick", false, "measure less: the main rows, fewer tasks, once")
	set.BoolVar(&s.scale, "scale", false, "measure instead how what redtask drains depends on sizes")
	set.IntVar(&s.repeats, "repeats", 0, "how often each measurement is repeated (default 3, with -quick 1)")
	set.StringVar(&s.only, "only", "", "measure only workloads that match this `regexp`, as drain/100")
	set.StringVar(&s.systems, "systems", "", "measure only these systems, separated by commas")
	set.StringVar(&s.csv, "csv", "", "write what was measured to this `file`")
	set.StringVar(&s.markdown, "markdown", "", "write the tables into this `file`, between its markers")
	set.StringVar(&s.charts, "charts", "", "draw the charts of -csv into this `directory`")
	for _, e := range entrants() {
		if e.optional {
			s.optional[e.name] = set.Bool(e.name, false, "measure "+e.name+" as well")
		}
	}
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	if s.repeats == 0 {
		s.repeats = 3
		if s.quick {
			s.repeats = 1
		}
	}
	if s.charts != "" && s.csv == "" {
		return nil, fmt.Errorf("-charts draws what -csv holds: give both")
	}
	if s.repeats < 1 || set.NArg() > 0 {
		return nil, fmt.Errorf("-repeats %d, further arguments %q: use at least 1, and none", s.repeats, set.Args())
	}
	return s, nil
}

func (s *settings) plan() (*plan, []string, error) {
	only, err := regexp.Compile(s.only)
	if err != nil {
		return nil, nil, fmt.Errorf("-only: %w", err)
	}
	var wanted, flags []string
	if s.systems != "" {
		wanted = strings.Split(s.systems, ",")
	}
	for name, on := range s.optional {
		if *on {
			flags = append(flags, name)
		}
	}
	chosen, notes, err := choose(entrants(), wanted, flags)
	if err != nil {
		return nil, nil, err
	}
	all := workloads()
	if s.scale {
		all = scaleWorkloads()
		chosen = slices.DeleteFunc(chosen, func(e entrant) bool { return e.name != subject })
		notes = nil // of systems that have no part in it
	}
	p := &plan{workloads: chooseWorkloads(all, only, s.quick), scale: s.scale, entrants: chosen, repeats: s.repeats, quick: s.quick, progress: os.Stderr}
	if len(p.workloads) == 0 || len(p.entrants) == 0 {
		return nil, notes, fmt.Errorf("nothing to measure: -only %q, -systems %q%s", s.only, s.systems, strings.Join(notes, "; "))
	}
	return p, notes, nil
}

func runBench(ctx context.Context, args []string) error {
	s, err := parseFlags(args)
	if err != nil {
		return err
	}
	p, notes, err := s.plan()
	if err != nil {
		return err
	}
	where, err := machine(ctx, time.Now())
	if err != nil {
		return err
	}
	rows, err := p.run(ctx)
	if err != nil {
		return err
	}
	o := p.outcome(rows, where, notes)
	o.text(os.Stdout)
	if s.csv != "" {
		if err := writeCSV(s.csv, rows); err != nil {
			return err
		}
	}
	if s.charts != "" {
		if err := drawCharts(s.csv, s.charts); err != nil {
			return err
		}
	}
	if s.markdown != "" {
		return o.publish(s.markdown)
	}
	return nil
}

func (p *plan) outcome(rows []row, where string, notes []string) *outcome {
	o := &outcome{
		machine: where, settings: fmt.Sprintf("Medians of %d repeats, with the least and the most. Nx: so many times better is redtask.", p.repeats),
		verdicts: verdicts(collect(rows)), tables: tables(rows, p.workloads, names(p.entrants)),
	}
	if p.scale {
		o.settings = fmt.Sprintf("Medians of %d repeats, with the least and the most.", p.repeats)
		o.verdicts, o.tables = grid{}, scaleTables(rows, p.workloads)
	}
	for _, e := range p.entrants {
		o.notes = append(o.notes, e.name+": "+e.about)
	}
	o.notes = append(o.notes, notes...)
	if p.quick {
		o.notes = append(o.notes, "A quick run: fewer tasks, once. Its numbers are no more than a hint.")
	}
	return o
}
