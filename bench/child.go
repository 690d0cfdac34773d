package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// child is the process that this program starts of itself for each worker, producer and watcher, so that what it uses is that one's alone.
type child struct {
	task
	system system
	words  chan string // from standard input; closed with it

	mu  sync.Mutex // one report at a time
	out *json.Encoder
}

func isRole(word string) bool { return word == "worker" || word == "producer" || word == "watcher" }

// runChild returns the exit code.
func runChild(args []string, stdin io.Reader, stdout io.Writer) int {
	c := &child{task: task{role: args[0]}, words: make(chan string, 16), out: json.NewEncoder(stdout)}
	if err := c.flags().Parse(args[1:]); err != nil {
		return 2
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		defer cancel()
		defer close(c.words)
		for lines := bufio.NewScanner(stdin); lines.Scan(); {
			c.words <- lines.Text()
		}
	}()
	err := c.run(ctx)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errUnsupported):
		c.say(report{Unsupported: true})
	default:
		c.say(report{Error: err.Error()})
	}
	return 1
}

func (c *child) run(ctx context.Context) error {
	e, err := findEntrant(c.task.system)
	if err != nil {
		return err
	}
	c.system, err = e.open(ctx, c.addr, c.concurrency)
	if err != nil {
		return fmt.Errorf("open %s: %w", e.name, err)
	}
	defer func() { _ = c.system.close() }() // all is said by then
	if c.queues > 1 {
		s, ok := c.system.(spreader)
		if !ok {
			return errUnsupported
		}
		s.spread(c.queues)
	}
	roles := map[string]func(context.Context) error{
		"worker drain": c.drain, "worker drain-some": c.drainSome, "worker hold": c.hold, "worker latency": c.tellLatencies, "worker emit": c.emitEvents,
		"producer start": c.startAll, "producer bulk": c.startBulk, "producer latency": c.startOnDemand, "producer delayed": c.startDelayed,
		"watcher count": c.countEvents,
	}
	do := roles[c.role+" "+c.mode]
	if do == nil {
		return fmt.Errorf("%s has no mode %q", c.role, c.mode)
	}
	return do(ctx)
}

func (c *child) say(r report) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.out.Encode(r); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// span measures what this process uses from now on.
type span struct {
	child  *child
	before usage
	began  time.Time
}

func (c *child) span() (*span, error) {
	before, err := readUsage(c.system)
	return &span{child: c, before: before, began: time.Now()}, err
}

// end returns a report of the span.
func (s *span) end(event string) (report, error) {
	took := time.Since(s.began)
	used, err := readUsage(s.child.system)
	used.CPU -= s.before.CPU
	return report{Event: event, Seconds: took.Seconds(), Usage: used}, err
}

// heard waits for a word; it reports false when the parent is gone, or asks for the end.
func (c *child) heard(word string) bool {
	for got := range c.words {
		if got == wordEnd {
			return false
		}
		if got == word {
			return true
		}
	}
	return false
}
