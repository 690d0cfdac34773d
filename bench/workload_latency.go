package main

import (
	"context"
	"fmt"
	"math"
	"time"
)

func pickUp(ctx context.Context, m *measurement) error {
	worker, err := m.launch(task{role: "worker", mode: "latency", concurrency: 100})
	if err != nil {
		return err
	}
	defer worker.kill()
	if _, err := worker.next(ctx, eventUp); err != nil {
		return err
	}
	producer, err := m.launch(task{role: "producer", mode: "latency"})
	if err != nil {
		return err
	}
	defer producer.kill()
	if _, err := producer.next(ctx, eventUp); err != nil {
		return err
	}
	latencies, began := []float64{}, time.Now()
	for m.pickUpGoesOn(len(latencies), time.Since(began)) {
		producer.tell(wordNext)
		r, err := worker.nextBeside(ctx, eventHandled, producer)
		if err != nil {
			return err
		}
		if want := len(latencies); r.Count != want {
			return fmt.Errorf("task %d ran where task %d was started", r.Count, want)
		}
		latencies = append(latencies, r.Latency)
	}
	m.addLatencies(latencies[pickUpWarm:])
	return nil
}

const pickUpWarm = 3 // the first ones connect, and do not count

// pickUpGoesOn gives each system the same time, but less to one that takes so long for each task that more of them would not tell more.
func (m *measurement) pickUpGoesOn(n int, spent time.Duration) bool {
	longest := time.Duration(m.pick(9000, 5700)) * time.Millisecond
	if n < int(spent/(100*time.Millisecond)) {
		longest = time.Duration(m.pick(5000, 1500)) * time.Millisecond
	}
	return n <= pickUpWarm || n < pickUpWarm+m.pick(334, 200) && spent < longest
}

func (m *measurement) addLatencies(latencies []float64) {
	m.add(latencyMedian, percentile(latencies, 50))
	m.add(latencyHigh, percentile(latencies, 99))
	m.add(samples, float64(len(latencies)))
}

func delayed(ctx context.Context, m *measurement) error {
	n := m.number()
	worker, err := m.launch(task{role: "worker", mode: "latency", concurrency: 100})
	if err != nil {
		return err
	}
	defer worker.kill()
	if _, err := worker.next(ctx, eventUp); err != nil {
		return err
	}
	if _, err := m.do(ctx, task{role: "producer", mode: "delayed", n: n}); err != nil {
		return err
	}
	latencies := make([]float64, n)
	for i := range latencies {
		r, err := worker.next(ctx, eventHandled)
		if err != nil {
			return err
		}
		latencies[i] = math.Abs(r.Latency)
	}
	m.addLatencies(latencies)
	return nil
}
