package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// plan is one run of the bench.
type plan struct {
	workloads []workload
	entrants  []entrant
	repeats   int
	quick     bool
	scale     bool // there are no targets
	progress  io.Writer
}

// run measures everything: in each repeat each parameter of each workload, and there each system in turn, so that what else the machine does
// meets all of them. The order of the systems rotates between repeats.
func (p *plan) run(ctx context.Context) ([]row, error) {
	var rows []row
	for repeat := 1; repeat <= p.repeats; repeat++ {
		for i := range p.workloads {
			w := &p.workloads[i]
			if w.once && repeat > 1 {
				continue
			}
			for _, parameter := range w.parameters {
				found, err := p.measureAll(ctx, w, parameter, repeat)
				rows = append(rows, found...)
				if err != nil {
					return rows, err
				}
			}
		}
	}
	return rows, nil
}

func (p *plan) measureAll(ctx context.Context, w *workload, parameter string, repeat int) ([]row, error) {
	began := time.Now()
	var measurements []*measurement
	for i := range p.entrants {
		e := &p.entrants[(i+repeat-1)%len(p.entrants)]
		if w.takes(e, p.quick) {
			measurements = append(measurements, &measurement{workload: w, parameter: parameter, entrant: e, repeat: repeat, quick: p.quick})
		}
	}
	measure := inTurn
	if w.together {
		measure = atOnce
	}
	err := measure(ctx, measurements)
	var rows []row
	for _, m := range measurements {
		rows = append(rows, m.rows...)
	}
	fmt.Fprintf(p.progress, "repeat %d of %d: %s: %s\n", repeat, p.repeats, w.title(parameter), time.Since(began).Round(100*time.Millisecond))
	return rows, err
}

func inTurn(ctx context.Context, measurements []*measurement) error {
	for _, m := range measurements {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := m.run(ctx); err != nil {
			return err
		}
	}
	return nil
}

func atOnce(ctx context.Context, measurements []*measurement) error {
	faults := make([]error, len(measurements))
	var all sync.WaitGroup
	for i, m := range measurements {
		all.Go(func() { faults[i] = m.run(ctx) })
	}
	all.Wait()
	return errors.Join(slices.DeleteFunc(faults, func(err error) bool { return err == nil })...)
}
