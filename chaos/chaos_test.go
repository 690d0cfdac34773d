// Package chaos shows that no task is lost and none runs twice, whatever breaks: real workers, real Redis servers, a ledger of what
// really ran, and faults.
package chaos

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redtask/redtask"
	"github.com/redtask/redtask/internal/redistest"
)

var (
	duration    = flag.Duration("duration", 3*time.Minute, "how long all faults together take")
	seed        = flag.Uint64("seed", 1, "of the faults; 0 draws one")
	only        = flag.String("faults", "", "names of faults, separated by commas; default all, then mixes of them")
	atOnce      = flag.Int("worlds", 4, "how many episodes run side by side")
	keep        = flag.String("keep", "", "a directory for ledgers and logs; default one that is removed")
	table       = flag.String("table", "", "a Markdown file whose table between the marks of chaos is replaced by the result")
	breaking    = flag.Bool("break", false, "run TestBreak")
	raceWorkers = flag.Bool("race-workers", false, "build the workers with the race detector")
)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	flag.Parse()
	dir, err := os.MkdirTemp("", "chaos")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	workerBinary, err = buildWorker(dir, ".")
	if err := errors.Join(err, buildClock(dir)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	redis.SetLogger(silent{})
	if err := flag.Set("test.parallel", strconv.Itoa(*atOnce)); err != nil { // they wait more than they work
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if *keep != "" {
		if *keep, err = filepath.Abs(*keep); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	code := m.Run()
	for _, complaint := range complaints { // where one looks first: at the end of a long output
		fmt.Println(complaint)
	}
	return code
}

// complaints are the problems of all episodes.
var complaints []string

// silent drops what go-redis would say of each dial that fails: many are meant to.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

// episode is a world with one fault, or several at a time.
type episode struct {
	name   string
	faults []fault
	seed   uint64
	length time.Duration
	binary string        // of the workers
	settle time.Duration // what tasks have to end when nothing breaks any more
}

// TestChaos breaks things for a while, in many ways, singly and together, and checks after each that all is well.
func TestChaos(t *testing.T) {
	redistest.Binary(t)
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("seed %d", *seed)
	var mu sync.Mutex
	var verdicts []*verdict
	t.Cleanup(func() { report(t, verdicts) })
	for _, e := range plan(rand.New(rand.NewPCG(*seed, 0))) {
		e.binary, e.settle = workerBinary, time.Minute
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			v := live(t, &e)
			for _, problem := range v.problems[:min(len(v.problems), 25)] {
				t.Error(problem)
			}
			if len(v.problems) > 0 {
				t.Errorf("%d problems; again: make chaos FAULTS=%s SEED=%d DURATION=%s", len(v.problems), e.name, *seed, *duration)
			}
			mu.Lock()
			defer mu.Unlock()
			verdicts = append(verdicts, v)
			for _, problem := range v.problems {
				complaints = append(complaints, e.name+": "+problem)
			}
		})
	}
}

// share is the part of the time that mixes of faults get.
const share = 0.35

// plan gives each fault its time, and the rest to random mixes.
func plan(rng *rand.Rand) []episode {
	all := faults()
	if *only != "" {
		return chosen(all, rng)
	}
	budget := time.Duration(float64(*duration) * float64(*atOnce))
	weight := 0.0
	for i := range all {
		weight += all[i].weight()
	}
	const around = 5 * time.Second // begin, settle, check, end
	unit := float64(budget)*(1-share)/weight - float64(around)*float64(len(all))/weight
	var episodes []episode
	for i := range all {
		least := time.Duration(all[i].weight() * float64(3*time.Second))
		length := max(least, time.Duration(unit*all[i].weight()))
		episodes = append(episodes, episode{name: all[i].name, faults: all[i : i+1], seed: rng.Uint64(), length: length})
	}
	mixes := *atOnce
	for i := range mixes {
		length := max(5*time.Second, time.Duration(float64(*duration)*share)-2*around)
		episodes = append(episodes, episode{name: fmt.Sprintf("mix-%d", i+1), faults: mix(all, i), seed: rng.Uint64(), length: length})
	}
	return episodes
}

func (f *fault) weight() float64 {
	if f.slow {
		return 2
	}
	return 1
}

func chosen(all []fault, rng *rand.Rand) []episode {
	var episodes []episode
	for _, name := range strings.Split(*only, ",") {
		for i := range all {
			if all[i].name == name {
				episodes = append(episodes, episode{name: name, faults: all[i : i+1], seed: rng.Uint64(), length: *duration})
			}
		}
		if strings.HasPrefix(name, "mix") {
			episodes = append(episodes, episode{name: name, faults: mix(all, len(episodes)), seed: rng.Uint64(), length: *duration})
		}
	}
	return episodes
}

// mix returns the faults of one kind of world: most mixes have a single server, where most faults are.
func mix(all []fault, number int) []fault {
	wanted := []kind{single, single, sentinel, cluster}[number%4]
	var found []fault
	for _, f := range all {
		fits := f.kind == wanted || f.kind == single && (f.part == inWorkers || f.part == inTasks)
		if fits && f.name != "protocol" && f.name != "versions" { // what these need others would take away
			found = append(found, f)
		}
	}
	return found
}

// together is what a mix of faults may do, as one fault.
func (e *episode) together() *fault {
	if len(e.faults) == 1 {
		return &e.faults[0]
	}
	f := &fault{name: e.name, what: "all of these at random, several at a time"}
	for i := range e.faults {
		one := &e.faults[i]
		f.kind = max(f.kind, one.kind)
		f.breaksRedis = f.breaksRedis || one.breaksRedis
		f.loses = f.loses || one.loses
		f.wishes = append(f.wishes, one.wishes...)
		f.exits = append(f.exits, one.exits...)
	}
	return f
}

// live lives one episode from a world's begin to its end.
func live(t *testing.T, e *episode) *verdict {
	f := e.together()
	w := newWorld(t, f.kind, e.seed)
	defer w.close()
	quiet, calm := context.WithTimeout(context.Background(), e.length)
	defer calm()
	w.quiet, w.binary, w.settling = quiet, e.binary, e.settle
	for _, code := range f.exits {
		w.allowExit(code)
	}
	if f.part == inRedis || f.part == inWires || len(e.faults) > 1 {
		w.allowExit(exitStuck) // a shutdown may meet a Redis that is away
	}
	for i := range e.faults {
		if begin := e.faults[i].begin; begin != nil {
			begin(w)
		}
	}
	l := newLoad(w, f.wishes)
	w.begin()
	var disturbing sync.WaitGroup
	injected := disturb(w, e.faults, &disturbing)
	l.run()
	disturbing.Wait()
	l.settle()
	c := examine(w, l, f)
	c.injected = int(injected.Load())
	w.end()
	c.finish()
	return c.verdict
}

// finish looks at what is left when the workers have ended.
func (c *check) finish() {
	c.history = newHistory(c.world.lines())
	c.leftovers()
	c.emptied()
	c.world.mu.Lock()
	defer c.world.mu.Unlock()
	c.problems = append(c.problems, c.world.problems...)
	for _, problem := range c.world.problems {
		if strings.HasPrefix(problem, "LOST") {
			c.lost++
		}
	}
}

func isNotFound(err error) bool { return errors.Is(err, redtask.ErrNotFound) }
