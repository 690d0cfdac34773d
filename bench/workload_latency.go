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
	const warm = 3 // the first ones connect
	wanted := warm + m.pick(340, 200)
	var latencies []float64
	for deadline := time.Now().Add(time.Duration(m.pick(9, 3)) * time.Second); len(latencies) < wanted && time.Now().Before(deadline); {
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
	if len(latencies) <= warm {
		return fmt.Errorf("only %d tasks were picked up in time", len(latencies))
	}
	m.addLatencies(latencies[warm:])
	return nil
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
