package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"
)

// process is a child as its parent sees it.
type process struct {
	task    task
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	reports chan report // closed when the child has ended
	stderr  *tail
	ended   chan struct{}
}

// reportTimeout is what a child has for each of its reports.
const reportTimeout = 3 * time.Minute

func startProcess(t *task) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{task: *t, cmd: exec.Command(self, t.args()...), reports: make(chan report, 64), stderr: &tail{}, ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), childVariable+"=1")
	p.cmd.Stderr = p.stderr
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go p.read(stdout)
	return p, nil
}

// childVariable is set in the environment of children: the program of the tests is one of these as well.
const childVariable = "REDTASK_BENCH_CHILD"

func (p *process) read(stdout io.Reader) {
	defer close(p.ended)
	defer close(p.reports)
	decoder := json.NewDecoder(stdout)
	for {
		var r report
		if err := decoder.Decode(&r); err != nil {
			if !errors.Is(err, io.EOF) {
				p.reports <- report{Error: fmt.Sprintf("its output is not one of reports: %v", err)}
				_, _ = io.Copy(io.Discard, stdout)
			}
			break
		}
		p.reports <- r
	}
	_ = p.cmd.Wait() // a report has told why, or next will
}

// next waits for a report of this kind.
func (p *process) next(ctx context.Context, event string) (report, error) {
	timer := time.NewTimer(reportTimeout)
	defer timer.Stop()
	select {
	case r, ok := <-p.reports:
		switch {
		case !ok:
			return r, p.fault("it ended without a report")
		case r.Unsupported:
			return r, errUnsupported
		case r.Error != "":
			return r, p.fault(r.Error)
		case r.Event != event:
			return r, p.fault(fmt.Sprintf("it reports %q, not %q", r.Event, event))
		}
		return r, nil
	case <-ctx.Done():
		return report{}, context.Cause(ctx)
	case <-timer.C:
		return report{}, p.fault(fmt.Sprintf("no report %q after %s", event, reportTimeout))
	}
}

// nextBeside is next, and also fails when another child does.
func (p *process) nextBeside(ctx context.Context, event string, other *process) (report, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	over := make(chan struct{})
	go func() {
		select {
		case r := <-other.reports:
			if r.Error == "" {
				r.Error = "it ended early"
			}
			cancel(other.fault(r.Error))
		case <-over:
		}
	}()
	defer close(over)
	return p.next(ctx, event)
}

// alive returns what a child that should go on has complained of.
func (p *process) alive() error {
	select {
	case r := <-p.reports:
		if r.Error == "" {
			r.Error = "it ended early"
		}
		return p.fault(r.Error)
	default:
		return nil
	}
}

func (p *process) fault(text string) error {
	return fmt.Errorf("%s of %s (%s): %s%s", p.task.role, p.task.system, p.task.mode, text, p.stderr)
}

// tell says a word to the child. One that has ended shows at the next report.
func (p *process) tell(word string) { _, _ = io.WriteString(p.stdin, word+"\n") }

// finish lets the child end in order, and kills it if it takes long.
func (p *process) finish() {
	_ = p.stdin.Close()
	p.reap(10 * time.Second)
}

// kill ends a child whose server is thrown away next.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	p.reap(time.Minute)
}

func (p *process) reap(patience time.Duration) {
	timer := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	for range p.reports { // none is wanted any more
	}
	<-p.ended
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailSize = 4096

func (t *tail) Write(text []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, text...)
	t.text = t.text[max(0, len(t.text)-tailSize):]
	return len(text), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := bytes.TrimSpace(t.text)
	if len(text) == 0 {
		return ""
	}
	return "\n" + string(text)
}
