package main

import (
	"context"
	"slices"
)

const (
	scaleSize        = 40        // bytes of data where that is not what changes
	scaleConcurrency = 100       // in each queue of each process, where that is not what changes
	scaleBytes       = 256 << 20 // of data in line at most
	scaleSome        = 20_000    // tasks of a line that is longer
)

// scaleWorkloads are of redtask alone: what changes with one size, all else the same.
func scaleWorkloads() []workload {
	return []workload{
		{
			name: "scale-concurrency", noun: "concurrency", run: overConcurrency, quick: []string{"1", "100"},
			parameters: []string{"1", "2", "5", "10", "20", "50", "100", "200", "500", "1000", "5000"},
			about:      "One worker process drains a line of no-op tasks with 40 bytes of data.",
		},
		{
			name: "scale-payload", noun: "bytes of data", run: overPayload, quick: []string{"40", "65536"},
			parameters: []string{"40", "1024", "65536"},
			about:      "The same at a concurrency of 100, each task with so many bytes of data, which the task gets.",
		},
		{
			name: "scale-queues", noun: "queues", run: overQueues, quick: []string{"2"}, parameters: []string{"1", "2", "4", "8"},
			about: "One runner drains the same number of tasks from so many queues, each with a concurrency of 100.",
		},
		{
			name: "scale-processes", noun: "worker processes", run: overProcesses, quick: []string{"2"}, parameters: []string{"1", "2", "3", "4"},
			about: "So many runner processes drain one queue together, each with a concurrency of 100.",
		},
		{
			name: "scale-waiting", noun: "tasks in line", run: overWaiting, quick: []string{"1000", "100000"},
			parameters: []string{"1000", "10000", "100000", "1000000", "2000000"},
			about: "One worker process, at a concurrency of 100, drains the first 20,000 tasks of a line that is so long. A line of 1,000 is over while " +
				"the process still starts.",
		},
		{
			name: "scale-running", noun: "running tasks", run: besideRunning, quick: []string{"1000"}, parameters: []string{"10", "1000", "10000", "100000"},
			about: "One worker process holds so many tasks that do not end: how soon all run, and what Redis does a second while nothing else happens. Then " +
				"another drains no-op tasks from the same queue, at a concurrency of 100.",
		},
	}
}

func (m *measurement) line(n, size int) task {
	return task{role: "producer", mode: "bulk", concurrency: 1, n: n, size: size}
}

func (m *measurement) drainScaled(ctx context.Context, n, size, concurrency, queues int) error {
	filler := m.line(n, size)
	filler.queues = queues
	return m.drainLine(ctx, filler, task{role: "worker", mode: "drain", concurrency: concurrency, n: n, queues: queues})
}

// overConcurrency has few tasks for few at once, which take long.
func overConcurrency(ctx context.Context, m *measurement) error {
	return m.drainScaled(ctx, min(m.pick(50_000, 5_000), 10_000*m.number()), scaleSize, m.number(), 1)
}

func overPayload(ctx context.Context, m *measurement) error {
	n := min(m.pick(50_000, 1_000), scaleBytes/m.number())
	return m.drainScaled(ctx, n, m.number(), scaleConcurrency, 1)
}

func overQueues(ctx context.Context, m *measurement) error {
	return m.drainScaled(ctx, m.pick(50_000, 10_000), scaleSize, scaleConcurrency, m.number())
}

func overProcesses(ctx context.Context, m *measurement) error {
	n := m.pick(100_000, 10_000)
	return m.drainSome(ctx, n, n, m.number())
}

func overWaiting(ctx context.Context, m *measurement) error {
	return m.drainSome(ctx, m.number(), min(m.number(), m.pick(scaleSome, 5_000)), 1)
}

func besideRunning(ctx context.Context, m *measurement) error {
	if _, err := m.do(ctx, m.line(m.number(), scaleSize)); err != nil {
		return err
	}
	worker, err := m.holdAll(ctx, m.number())
	if err != nil {
		return err
	}
	defer worker.kill()
	pause(ctx, settle)
	if err := m.addSteady(ctx, worker); err != nil {
		return err
	}
	n := m.pick(scaleSome, 5_000)
	if err := m.drainSome(ctx, n, n, 1); err != nil {
		return err
	}
	return worker.alive()
}

// drainSome fills a line, has several processes drain it until n tasks are finished, and kills them then.
func (m *measurement) drainSome(ctx context.Context, inLine, n, processes int) error {
	if _, err := m.do(ctx, m.line(inLine, scaleSize)); err != nil {
		return err
	}
	full, err := m.server.counters(ctx)
	if err != nil {
		return err
	}
	reports, err := m.drainTogether(ctx, task{role: "worker", mode: "drain-some", concurrency: scaleConcurrency, n: n}, processes)
	if err != nil {
		return err
	}
	after, err := m.server.counters(ctx)
	if err != nil {
		return err
	}
	done, err := m.finished(ctx)
	if err != nil {
		return err
	}
	first, cpu := &reports[0], 0.0
	for i := range reports {
		cpu += reports[i].Usage.CPU
	}
	m.add(throughput, float64(first.Count)/first.Seconds)
	m.add(processCPU, cpu/float64(first.Count)*micro)
	m.add(redisCPUDrain, after.since(full).cpu/float64(done)*micro)
	return nil
}

// drainTogether starts processes, lets them all go at once, and returns what each says when there is enough.
func (m *measurement) drainTogether(ctx context.Context, t task, processes int) ([]report, error) {
	var workers []*process
	defer func() {
		for _, worker := range workers {
			worker.kill()
		}
	}()
	for range processes {
		worker, err := m.launch(t)
		if err != nil {
			return nil, err
		}
		workers = append(workers, worker)
		if _, err := worker.next(ctx, eventUp); err != nil {
			return nil, err
		}
	}
	for _, worker := range workers {
		worker.tell(wordGo)
	}
	reports := make([]report, processes)
	for i, worker := range workers {
		var err error
		if reports[i], err = worker.next(ctx, eventDone); err != nil {
			return nil, err
		}
	}
	// The first has seen enough with the least count.
	slices.SortFunc(reports, func(a, b report) int { return a.Count - b.Count })
	return reports, nil
}

// finished asks as a worker does.
func (m *measurement) finished(ctx context.Context) (int, error) {
	s, err := m.entrant.open(ctx, m.server.addr, 1)
	if err != nil {
		return 0, err
	}
	defer func() { _ = s.close() }()
	return s.finished(ctx)
}
