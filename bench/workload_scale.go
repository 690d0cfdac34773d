package main

import (
	"context"
	"fmt"
	"sync"
)

// scaleWorkloads show how what redtask drains depends on sizes; no other system takes part.
func scaleWorkloads() []workload {
	return []workload{
		{
			name: "scale-concurrency", noun: "tasks at once", run: scaleConcurrency,
			parameters: []string{"1", "2", "5", "10", "20", "50", "100", "200", "500", "1000", "5000"}, quick: []string{"10", "1000"},
			about: "One runner empties a full line of no-op tasks.",
		},
		{
			name: "scale-payload", noun: "bytes of data", parameters: []string{"40", "1024", "65536"}, quick: []string{"1024"}, run: scalePayload,
			about: "The same with 100 at once; Init gets the data.",
		},
		{
			name: "scale-queues", noun: "queues", parameters: []string{"1", "2", "4", "8"}, quick: []string{"2"}, run: scaleQueues,
			about: "One runner serves several queues of one server, each with its share of 50,000 tasks and of 128 at once.",
		},
		{
			name: "scale-processes", noun: "runners", parameters: []string{"1", "2", "3", "4"}, quick: []string{"2"}, run: scaleProcesses,
			about: "Runner processes share a line; each runs 100 at once.",
		},
		{
			name: "scale-waiting", noun: "tasks in line", parameters: []string{"1000", "10000", "100000", "1000000", "2000000"},
			quick: []string{"10000"}, once: true, run: scaleWaiting,
			about: "The first 20,000 tasks of a long line, or all of a short one, 100 at once.",
		},
		{
			name: "scale-running", noun: "tasks that run beside", parameters: []string{"10", "1000", "10000", "100000"}, quick: []string{"1000"}, run: scaleRunning,
			about: "20,000 no-op tasks, 100 at once, while another runner on the queue has as many tasks that do not end.",
		},
	}
}

const scaleAtOnce = 100

// drainLine empties a line that is full, and adds how fast that was.
func (m *measurement) drainLine(ctx context.Context, concurrency, n int) error {
	before, err := m.server.counters(ctx)
	if err != nil {
		return err
	}
	r, err := m.do(ctx, task{role: "worker", mode: "drain", concurrency: concurrency, n: n})
	if err != nil {
		return err
	}
	after, err := m.server.counters(ctx)
	if err != nil {
		return err
	}
	did := after.since(before)
	m.addDrain(n, &r)
	m.add(redisCPUDrain, did.cpu/float64(n)*micro)
	m.add(commandsPerTask, did.commands/float64(n))
	m.add(tripsPerTask, did.trips/float64(n))
	return nil
}

func scaleConcurrency(ctx context.Context, m *measurement) error {
	n := m.pick(50_000, 10_000)
	if m.number() < 10 {
		n = m.pick(20_000, 5_000)
	}
	if err := m.fill(ctx, n, defaultSize); err != nil {
		return err
	}
	return m.drainLine(ctx, m.number(), n)
}

func scalePayload(ctx context.Context, m *measurement) error {
	n, size := m.pick(50_000, 10_000), m.number()
	if size > 10_000 {
		n = m.pick(5_000, 1_000)
	}
	if err := m.fill(ctx, n, size); err != nil {
		return err
	}
	return m.drainLine(ctx, scaleAtOnce, n)
}

func scaleWaiting(ctx context.Context, m *measurement) error {
	if err := m.fill(ctx, m.number(), defaultSize); err != nil {
		return err
	}
	return m.drainLine(ctx, scaleAtOnce, min(m.number(), 20_000))
}

func scaleRunning(ctx context.Context, m *measurement) error {
	if err := m.fill(ctx, m.number(), defaultSize); err != nil {
		return err
	}
	worker, err := m.holdAll(ctx, m.number())
	if err != nil {
		return err
	}
	defer worker.kill()
	n := m.pick(20_000, 5_000)
	if err := m.fill(ctx, n, defaultSize); err != nil {
		return err
	}
	if err := m.drainLine(ctx, scaleAtOnce, n); err != nil {
		return err
	}
	return worker.alive()
}

// scaleProcesses takes the time of the process that began first.
func scaleProcesses(ctx context.Context, m *measurement) error {
	n := m.pick(100_000, 20_000)
	if err := m.fill(ctx, n, defaultSize); err != nil {
		return err
	}
	reports, faults := make([]report, m.number()), make([]error, m.number())
	var all sync.WaitGroup
	for i := range reports {
		all.Go(func() {
			reports[i], faults[i] = m.do(ctx, task{role: "worker", mode: "share", concurrency: scaleAtOnce, n: n})
		})
	}
	all.Wait()
	longest := 0.0
	for i, r := range reports {
		if faults[i] != nil {
			return faults[i]
		}
		longest = max(longest, r.Seconds)
	}
	m.add(throughput, float64(n)/longest)
	return nil
}

func scaleQueues(ctx context.Context, m *measurement) error {
	n := m.pick(50_000, 10_000)
	r, err := m.do(ctx, task{role: "worker", mode: "queues", concurrency: 128, n: n, queues: m.number()})
	if err != nil {
		return err
	}
	if r.Seconds <= 0 {
		return fmt.Errorf("a drain that took %v s", r.Seconds)
	}
	m.addDrain(n, &r)
	return nil
}
