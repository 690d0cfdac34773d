package main

import "context"

func emit(ctx context.Context, m *measurement) error {
	n, events := m.number(), m.pick(500, 100)
	watcher, err := m.launch(task{role: "watcher", mode: "count"})
	if err != nil {
		return err
	}
	defer watcher.kill()
	if _, err := watcher.next(ctx, eventUp); err != nil {
		return err
	}
	if err := m.fill(ctx, n, defaultSize); err != nil {
		return err
	}
	worker, err := m.launch(task{role: "worker", mode: "emit", concurrency: n, n: n, events: events})
	if err != nil {
		return err
	}
	defer worker.kill()
	if _, err := worker.next(ctx, eventAll); err != nil {
		return err
	}
	worker.tell(wordGo)
	sent, err := worker.next(ctx, eventDone)
	if err != nil {
		return err
	}
	watcher.tell(wordGo) // it ends when nothing comes any more
	got, err := watcher.next(ctx, eventDone)
	if err != nil {
		return err
	}
	switch {
	case got.Disordered > 0:
		return watcher.fault("events of a task came out of order")
	case got.Lost > 0 && got.Gaps == 0:
		return watcher.fault("events are missing, and it was not told")
	}
	all := float64(n * events)
	m.add(published, all/sent.Seconds)
	m.add(received, float64(got.Count)/got.Seconds)
	m.add(lostEvents, 100*(1-float64(got.Count)/all))
	return nil
}
