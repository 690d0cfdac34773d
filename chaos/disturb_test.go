package chaos

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redtask/redtask/chaos/ledger"
	"github.com/redtask/redtask/internal/redistest"
)

// disturb injects faults until the world is to be quiet: one after the other of each part, the parts side by side.
func disturb(w *world, faults []fault, disturbing *sync.WaitGroup) *atomic.Int64 {
	injected := new(atomic.Int64)
	parts := map[part][]fault{}
	for _, f := range faults {
		parts[f.part] = append(parts[f.part], f)
	}
	for _, of := range parts {
		disturbing.Go(func() {
			for w.wait(w.between(200*time.Millisecond, time.Second)) {
				of[w.intN(len(of))].inject(w)
				injected.Add(1)
				if len(faults) > 1 && !w.wait(w.between(0, 2*time.Second)) {
					return
				}
			}
		})
	}
	return injected
}

func (w *world) lines() []ledger.Line {
	lines, err := ledger.Read(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	return lines
}

// aofPath is the file that a server appends to at present.
func aofPath(s *redistest.Server) (string, error) {
	paths, err := filepath.Glob(filepath.Join(s.Dir(), "appendonlydir", "*.incr.aof"))
	if err != nil || len(paths) == 0 {
		return "", fmt.Errorf("no append-only file in %s: %w", s.Dir(), err)
	}
	return paths[len(paths)-1], nil
}

func aofSize(s *redistest.Server) (int64, error) {
	path, err := aofPath(s)
	if err != nil {
		return 0, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func truncate(path string, size int64) error {
	info, err := os.Stat(path)
	if err != nil || info.Size() <= size {
		return err
	}
	return os.Truncate(path, size)
}
