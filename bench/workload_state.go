package main

import (
	"context"
	"fmt"
	"time"
)

func memory(ctx context.Context, m *measurement) error {
	if m.entrant.outside {
		return errUnsupported
	}
	n := m.pick(100_000, 20_000)
	const first = 1000 // a server has scripts, buffers and the like once
	if err := m.fill(ctx, first, m.number()); err != nil {
		return err
	}
	before, err := m.server.awaitClients(ctx)
	if err != nil {
		return err
	}
	if err := m.fill(ctx, n, m.number()); err != nil {
		return err
	}
	after, err := m.server.awaitClients(ctx)
	if err != nil {
		return err
	}
	m.add(taskMemory, after.since(before).memory/float64(n))
	return nil
}

// awaitClients waits until only the bench itself is connected: connections have buffers.
func (s *server) awaitClients(ctx context.Context) (counters, error) {
	for range 1000 {
		c, err := s.counters(ctx)
		if err != nil || c.clients <= 1 {
			return c, err
		}
		time.Sleep(5 * time.Millisecond)
	}
	return counters{}, fmt.Errorf("connections of a process that has ended are still open")
}

// settle is what a worker has to register and look around before it counts as idle, or busy.
const settle = 1500 * time.Millisecond

func idle(ctx context.Context, m *measurement) error {
	if m.entrant.outside {
		return errUnsupported
	}
	worker, err := m.launch(task{role: "worker", mode: "hold", concurrency: 100})
	if err != nil {
		return err
	}
	defer worker.kill()
	if _, err := worker.next(ctx, eventUp); err != nil {
		return err
	}
	pause(ctx, settle)
	before, err := m.server.counters(ctx)
	if err != nil {
		return err
	}
	watch, err := m.server.monitor(ctx)
	if err != nil {
		return err
	}
	defer watch.close()
	calls, err := watch.calls(ctx, time.Duration(m.pick(20, 5))*time.Second)
	if err != nil {
		return err
	}
	after, err := m.server.counters(ctx)
	if err != nil {
		return err
	}
	const monitor = 1 // MONITOR itself is a command, and a read
	did, seconds := after.since(before), after.at.Sub(before.at).Seconds()
	m.add(commandsRate, (did.commands-monitor)/seconds)
	m.add(callsRate, float64(calls)/seconds)
	m.add(redisLoad, did.cpu/seconds*micro)
	return worker.alive()
}

// few tasks are for comparison: what many cost redtask should be no more.
const few = 10

func running(ctx context.Context, m *measurement) error {
	n := m.number()
	if n == few && m.entrant.name != subject {
		return errUnsupported
	}
	if err := m.fill(ctx, n, defaultSize); err != nil {
		return err
	}
	worker, err := m.holdAll(ctx, n)
	if err != nil {
		return err
	}
	defer worker.kill()
	pause(ctx, settle)
	worker.tell(wordNext)
	r, err := worker.next(ctx, eventDone)
	if err != nil {
		return err
	}
	m.addMemory(runningMemory, r.Usage.RSS, mebibyte)
	return m.addSteady(ctx, worker)
}

// holdAll starts a worker with n tasks in line, and returns it when all of them run.
func (m *measurement) holdAll(ctx context.Context, n int) (*process, error) {
	worker, err := m.launch(task{role: "worker", mode: "hold", concurrency: n, n: n})
	if err != nil {
		return nil, err
	}
	if _, err = worker.next(ctx, eventUp); err == nil {
		var r report
		if r, err = worker.next(ctx, eventAll); err == nil {
			m.add(allStarted, r.Seconds)
			return worker, nil
		}
	}
	worker.kill()
	return nil, err
}

// addSteady adds what the tasks that run cost Redis while nothing happens, over whole periods of what systems do each second, or each five.
// Repeats would not differ.
func (m *measurement) addSteady(ctx context.Context, worker *process) error {
	if m.entrant.outside || m.repeat > 1 {
		return worker.alive()
	}
	if err := m.server.resetSlow(ctx); err != nil {
		return err
	}
	before, err := m.server.counters(ctx)
	if err != nil {
		return err
	}
	pause(ctx, time.Duration(m.pick(10, 5))*time.Second)
	after, err := m.server.counters(ctx)
	if err != nil {
		return err
	}
	slowest, err := m.server.slowest(ctx)
	if err != nil {
		return err
	}
	did, seconds := after.since(before), after.at.Sub(before.at).Seconds()
	m.add(commandsRate, did.commands/seconds)
	m.add(tripsRate, did.trips/seconds)
	m.add(redisLoad, did.cpu/seconds*micro)
	m.add(slowestCommand, slowest)
	return worker.alive()
}

func crowd(ctx context.Context, m *measurement) error {
	if m.entrant.name != subject {
		return errUnsupported
	}
	n := m.number()
	before, err := m.idleMemory(ctx, n)
	if err != nil {
		return err
	}
	if err := m.fill(ctx, n, defaultSize); err != nil {
		return err
	}
	worker, err := m.holdAll(ctx, n)
	if err != nil {
		return err
	}
	defer worker.kill()
	pause(ctx, settle)
	worker.tell(wordNext)
	r, err := worker.next(ctx, eventDone)
	if err != nil {
		return err
	}
	m.addMemory(runningMemory, r.Usage.RSS, mebibyte)
	m.addMemory(memoryPerTask, r.Usage.RSS-before, float64(n))
	return m.addSteady(ctx, worker)
}

// idleMemory is the RSS of a worker with nothing to do.
func (m *measurement) idleMemory(ctx context.Context, concurrency int) (int64, error) {
	worker, err := m.launch(task{role: "worker", mode: "hold", concurrency: concurrency})
	if err != nil {
		return 0, err
	}
	defer worker.finish()
	if _, err := worker.next(ctx, eventUp); err != nil {
		return 0, err
	}
	pause(ctx, settle)
	worker.tell(wordNext)
	r, err := worker.next(ctx, eventDone)
	return r.Usage.RSS, err
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
