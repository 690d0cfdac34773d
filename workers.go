package redtask

import "sync"

// maxIdleWorkers is how many goroutines wait for the next task at most: as many as one claim may bring.
const maxIdleWorkers = 64

// workers are the goroutines that run an engine's tasks. Some wait for the next one: their stacks have grown to what tasks need, and growing
// that of a new goroutine costs more than all else that a short task does here.
type workers struct {
	idle sync.WaitGroup // those in waiting

	mu      sync.Mutex
	waiting []chan func() // the last one waited least: its stack and what it holds are still in the caches
	closed  bool
}

// run calls a function in a goroutine of its own.
func (w *workers) run(work func()) {
	w.mu.Lock()
	n := len(w.waiting)
	if n == 0 {
		w.mu.Unlock()
		go w.serve(work)
		return
	}
	next := w.waiting[n-1]
	w.waiting = w.waiting[:n-1]
	w.mu.Unlock()
	next <- work
}

func (w *workers) serve(work func()) {
	var next chan func() // made when needed: a task that runs for months does not
	for ok := true; ok; {
		work() // runtime.Goexit in it ends this worker
		if next = w.wait(next); next == nil {
			return
		}
		work, ok = <-next
		w.idle.Done()
	}
}

// wait puts the worker among those in waiting, and returns where its next work will come; nil if there are enough of them.
func (w *workers) wait(next chan func()) chan func() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || len(w.waiting) >= maxIdleWorkers {
		return nil
	}
	if next == nil {
		next = make(chan func(), 1) // who brings work does not wait for a worker that has just begun to wait
	}
	w.idle.Add(1)
	w.waiting = append(w.waiting, next)
	return next
}

// close ends those that wait, and waits for them; others end with their task.
func (w *workers) close() {
	w.mu.Lock()
	for _, next := range w.waiting {
		close(next)
	}
	w.waiting, w.closed = nil, true
	w.mu.Unlock()
	w.idle.Wait()
}
