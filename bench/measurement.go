package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
)

// measurement is one workload with one parameter for one system, on a server of its own.
type measurement struct {
	workload  *workload
	parameter string
	entrant   *entrant
	repeat    int
	quick     bool
	server    *server
	rows      []row
}

// run measures; nil rows without an error say that the system cannot do this.
func (m *measurement) run(ctx context.Context) error {
	s, err := startServer(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	m.server = s
	err = m.workload.run(ctx, m)
	if errors.Is(err, errUnsupported) {
		m.rows = nil
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s of %s: %w", m.workload.title(m.parameter), m.entrant.name, err)
	}
	return nil
}

func (m *measurement) add(what metric, value float64) {
	m.rows = append(m.rows, row{m.workload.name, m.parameter, m.entrant.name, m.repeat, what.name, value, what.unit})
}

// addRedis adds what Redis did, unless the system's tasks are elsewhere.
func (m *measurement) addRedis(what metric, value float64) {
	if !m.entrant.outside {
		m.add(what, value)
	}
}

// addMemory adds memory where the platform tells it.
func (m *measurement) addMemory(what metric, bytes int64, unit float64) {
	if bytes > 0 {
		m.add(what, float64(bytes)/unit)
	}
}

func (m *measurement) number() int {
	n, err := strconv.Atoi(m.parameter)
	if err != nil {
		panic(fmt.Sprintf("parameter %q of %s is not a number", m.parameter, m.workload.name))
	}
	return n
}

// pick chooses between a full run and a quick one.
func (m *measurement) pick(full, quick int) int {
	if m.quick {
		return quick
	}
	return full
}

func (m *measurement) launch(t task) (*process, error) {
	t.system, t.addr = m.entrant.name, m.server.addr
	return startProcess(&t)
}

// do runs a child that reports once.
func (m *measurement) do(ctx context.Context, t task) (report, error) {
	p, err := m.launch(t)
	if err != nil {
		return report{}, err
	}
	defer p.kill()
	return p.next(ctx, eventDone)
}

// fillers is how many goroutines put tasks in line where that is not what is measured.
const fillers = 32

// fill puts n tasks in line.
func (m *measurement) fill(ctx context.Context, n, size int) error {
	_, err := m.do(ctx, task{role: "producer", mode: "start", concurrency: fillers, n: n, size: size})
	return err
}
