package main

import "context"

func drain(ctx context.Context, m *measurement) error {
	n := m.pick(50_000, 10_000)
	if m.entrant.outside {
		return drainOutside(ctx, m, n)
	}
	filler := task{role: "producer", mode: "start", concurrency: fillers, n: n, size: defaultSize}
	return m.drainLine(ctx, filler, task{role: "worker", mode: "drain", concurrency: m.number(), n: n})
}

// drainLine has one process put tasks in line, and then another drain all of them.
func (m *measurement) drainLine(ctx context.Context, filler, worker task) error {
	empty, err := m.server.counters(ctx)
	if err != nil {
		return err
	}
	if _, err := m.do(ctx, filler); err != nil {
		return err
	}
	full, err := m.server.counters(ctx)
	if err != nil {
		return err
	}
	r, err := m.do(ctx, worker)
	if err != nil {
		return err
	}
	drained, err := m.server.counters(ctx)
	if err != nil {
		return err
	}
	tasks, did := float64(worker.n), drained.since(full)
	startCPU := full.since(empty).cpu
	m.addDrain(worker.n, &r)
	m.add(redisCPU, (startCPU+did.cpu)/tasks*micro)
	m.add(redisCPUStart, startCPU/tasks*micro)
	m.add(redisCPUDrain, did.cpu/tasks*micro)
	m.add(commandsPerTask, did.commands/tasks)
	m.add(tripsPerTask, did.trips/tasks)
	return nil
}

func drainOutside(ctx context.Context, m *measurement, n int) error {
	if err := m.fill(ctx, n, defaultSize); err != nil {
		return err
	}
	r, err := m.do(ctx, task{role: "worker", mode: "drain", concurrency: m.number(), n: n})
	if err != nil {
		return err
	}
	m.addDrain(n, &r)
	return nil
}

func (m *measurement) addDrain(n int, r *report) {
	m.add(throughput, float64(n)/r.Seconds)
	m.add(processCPU, r.Usage.CPU/float64(n)*micro)
	m.addMemory(peakMemory, r.Usage.Peak, mebibyte)
}

func start(ctx context.Context, m *measurement) error {
	producers := m.number()
	n := m.pick(20_000, 5_000)
	if producers > 1 {
		n = m.pick(50_000, 20_000)
	}
	return m.produce(ctx, task{role: "producer", mode: "start", concurrency: producers, n: n})
}

func bulk(ctx context.Context, m *measurement) error {
	return m.produce(ctx, task{role: "producer", mode: "bulk", concurrency: 1, n: m.pick(200_000, 50_000)})
}

func (m *measurement) produce(ctx context.Context, t task) error {
	before, err := m.server.counters(ctx)
	if err != nil {
		return err
	}
	r, err := m.do(ctx, t)
	if err != nil {
		return err
	}
	after, err := m.server.counters(ctx)
	if err != nil {
		return err
	}
	did, tasks := after.since(before), float64(t.n) // the first start is not in the time, but in what Redis did
	m.add(throughput, float64(r.Count)/r.Seconds)
	m.add(processCPU, r.Usage.CPU/float64(r.Count)*micro)
	m.addRedis(redisCPU, did.cpu/tasks*micro)
	m.addRedis(commandsPerTask, did.commands/tasks)
	m.addRedis(tripsPerTask, did.trips/tasks)
	return nil
}
