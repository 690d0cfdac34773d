package chaos

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redtask/redtask"
	"github.com/redtask/redtask/chaos/ledger"
)

var soakFor = flag.Duration("soak", 0, "run TestSoak for so long")

// TestSoak watches what workers and Redis use while nothing breaks: it must not grow.
func TestSoak(t *testing.T) {
	if *soakFor == 0 {
		t.Skip("make soak runs this")
	}
	for name, work := range map[string]func(*world){
		"idle":      func(w *world) { <-w.quiet.Done() },
		"busy":      func(w *world) { newLoad(w, nil).run() },
		"saturated": saturate,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			soak(t, work)
		})
	}
}

// samples are what one thing used over time.
type samples []int64

// gauges are what a world used.
type gauges struct {
	goroutines, resident, memory, clients, keys samples
}

func soak(t *testing.T, work func(*world)) {
	w := newWorld(t, single, *seed)
	defer w.close()
	w.binary, w.settling = workerBinary, time.Minute
	quiet, calm := context.WithTimeout(context.Background(), *soakFor)
	defer calm()
	w.quiet = quiet
	for _, p := range w.places {
		p.set(func(s *settings) { s.Retention = 500 }) // cleanup has to keep up
	}
	w.begin()
	var sampling sync.WaitGroup
	g := &gauges{}
	sampling.Go(func() { g.ofRedis(w) })
	work(w)
	sampling.Wait()
	w.end()
	g.ofWorkers(w)
	ended := "?"
	if values, err := w.direct.Get(context.Background(), w.key("epoch")).Result(); err == nil {
		ended = values
	}
	t.Logf("%s epochs", ended)
	flat(t, "goroutines of a worker", g.goroutines, 10)
	flat(t, "RSS of a worker, bytes", g.resident, 16<<20)
	flat(t, "memory of Redis, bytes", g.memory, 2<<20)
	flat(t, "connections", g.clients, 6)
	flat(t, "keys", g.keys, 300)
	for _, problem := range w.problems {
		t.Error(problem)
	}
}

func (g *gauges) ofRedis(w *world) {
	for w.wait(*soakFor / 100) {
		ctx, cancel := bounded()
		info, err := w.direct.Info(ctx, "memory", "clients").Result()
		keys, keysErr := w.direct.DBSize(ctx).Result()
		cancel()
		if err != nil || keysErr != nil {
			w.problem("sample redis: %v, %v", err, keysErr)
			continue
		}
		g.memory = append(g.memory, field(info, "used_memory:"))
		g.clients = append(g.clients, field(info, "connected_clients:"))
		g.keys = append(g.keys, keys)
	}
}

func field(info, name string) int64 {
	_, rest, _ := strings.Cut(info, name)
	text, _, _ := strings.Cut(rest, "\r\n")
	n, _ := strconv.ParseInt(text, 10, 64)
	return n
}

func (g *gauges) ofWorkers(w *world) {
	lines := w.lines()
	slices.SortFunc(lines, func(a, b ledger.Line) int { return int(a.At - b.At) })
	for _, l := range lines {
		if l.Kind == ledger.Gauge {
			g.goroutines = append(g.goroutines, int64(l.Goroutines))
			g.resident = append(g.resident, l.N)
		}
	}
}

// flat compares the second fifth, after the warm-up, with the last: medians may differ by a tenth and a slack.
func flat(t *testing.T, what string, s samples, slack int64) {
	fifth := len(s) / 5
	if fifth == 0 {
		t.Errorf("%s: only %d samples", what, len(s))
		return
	}
	early, late := median(s[fifth:2*fifth]), median(s[len(s)-fifth:])
	t.Logf("%-24s median %d, then %d; highest %d", what, early, late, slices.Max(s))
	if late > early+early/10+slack {
		t.Errorf("%s grow: from %d to %d", what, early, late)
	}
}

func median(s samples) int64 {
	sorted := slices.Sorted(slices.Values(s))
	return sorted[len(sorted)/2]
}

// saturate keeps more tasks in line than the workers can take.
func saturate(w *world) {
	batch := make([]redtask.StartRequest, 128)
	for i := range batch {
		batch[i] = redtask.StartRequest{Task: "chaos/job", Data: map[string]any{"emits": 1, "note": fmt.Sprint(i)}}
	}
	for w.quiet.Err() == nil {
		ctx, cancel := bounded()
		waiting, err := w.direct.LLen(ctx, w.key("wait")).Result()
		if err == nil && waiting < 2000 {
			_, err = w.client.StartMany(ctx, batch)
		}
		cancel()
		if err != nil {
			w.problem("saturate: %v", err)
		}
		if waiting >= 2000 {
			w.wait(5 * time.Millisecond)
		}
	}
	w.insist("an empty line", func(ctx context.Context) error {
		waiting, err := w.direct.LLen(ctx, w.key("wait")).Result()
		if err == nil && waiting > 0 {
			err = fmt.Errorf("%d are in line", waiting)
		}
		return err
	})
}
