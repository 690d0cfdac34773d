package chaos

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redtask/redtask/chaos/ledger"
)

// How a worker exits; worker/main.go has the same.
const (
	exitStuck    = 66
	exitProtocol = 67
	exitTask     = 68
)

// settings are what a worker gets; worker/main.go says what they mean.
type settings struct {
	Addrs     []string          `json:"addrs"`
	Master    string            `json:"master"`
	Through   map[string]string `json:"through"`
	Prefix    string            `json:"prefix"`
	Ledger    string            `json:"ledger"`
	Version   string            `json:"version"`
	Lease     time.Duration     `json:"lease"`
	Renew     time.Duration     `json:"renew"`
	Margin    time.Duration     `json:"margin"`
	Interval  time.Duration     `json:"interval"`
	Capacity  int               `json:"capacity"`
	Recover   int               `json:"recover"`
	Retention int               `json:"retention"`
}

// place is where one worker process runs, and the next one after it died, until it is closed.
type place struct {
	world *world
	index int
	log   *os.File

	mu       sync.Mutex
	settings settings
	skew     time.Duration // of its wall clock
	closed   bool
	held     bool // no new process for now
	current  *process
	change   *sync.Cond
}

// process is one worker process.
type process struct {
	cmd    *exec.Cmd
	stdin  io.Closer     // the worker ends when it is closed: none outlives the test
	ended  chan struct{} // closed when it is
	code   int           // read after ended; -1 if a signal ended it
	killed bool
	told   bool // SIGTERM
	frozen bool
}

func newPlace(w *world, index int, s settings) *place {
	log, err := os.Create(filepath.Join(w.dir, fmt.Sprintf("worker-%d.log", index)))
	if err != nil {
		w.t.Fatal(err)
	}
	p := &place{world: w, index: index, log: log, settings: s}
	p.change = sync.NewCond(&p.mu)
	return p
}

// serve keeps a process running until the place is closed.
func (p *place) serve() {
	defer p.log.Close()
	for {
		p.mu.Lock()
		for p.held && !p.closed {
			p.change.Wait()
		}
		if p.closed {
			p.mu.Unlock()
			return
		}
		running, err := p.launch()
		p.current = running
		p.mu.Unlock()
		if err != nil {
			p.world.problem("worker %d does not start: %v", p.index, err)
			return
		}
		p.await(running)
		time.Sleep(50 * time.Millisecond) // what supervises workers in production takes longer
	}
}

func (p *place) launch() (*process, error) {
	text, err := json.Marshal(p.settings)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(p.world.binary)
	cmd.Env = append(os.Environ(), "CHAOS_WORKER="+string(text), fmt.Sprintf("CHAOS_SKEW=%d", int(p.skew.Seconds())))
	cmd.Stdout, cmd.Stderr = p.log, p.log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &process{cmd: cmd, stdin: stdin, ended: make(chan struct{})}, nil
}

// await waits for the end of a process, enters it in the ledger, and complains of an end that nobody asked for.
func (p *place) await(r *process) {
	err := r.cmd.Wait()
	_ = r.stdin.Close()
	var exit *exec.ExitError
	switch {
	case err == nil:
		r.code = 0
	case errors.As(err, &exit):
		r.code = exit.ExitCode()
	}
	p.world.book.Add(ledger.Line{Kind: ledger.Down, PID: r.cmd.Process.Pid, N: int64(r.code)})
	p.mu.Lock()
	// One that has just begun does not catch SIGTERM yet.
	fine := r.code == -1 && (r.killed || r.told) || r.code == 0 && r.told || p.world.mayExit(r.code)
	close(r.ended)
	p.mu.Unlock()
	if !fine {
		p.world.problem("worker %d, pid %d, exited with %d: see %s", p.index, r.cmd.Process.Pid, r.code, p.log.Name())
	}
}

// signal sends a signal to the process, if one runs, and returns it.
func (p *place) signal(s syscall.Signal) *process {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.current
	if r == nil {
		return nil
	}
	select {
	case <-r.ended:
		return nil
	default:
	}
	line := ledger.Line{PID: r.cmd.Process.Pid}
	switch s {
	case syscall.SIGKILL:
		r.killed, line.Kind = true, ledger.Kill
	case syscall.SIGSTOP:
		r.frozen, line.Kind = true, ledger.Freeze
	case syscall.SIGCONT:
		r.frozen, line.Kind = false, ledger.Thaw
	case syscall.SIGTERM:
		r.told = true
	}
	if line.Kind == ledger.Thaw {
		p.world.book.Add(line) // before, so that what it does next comes later
	}
	_ = r.cmd.Process.Signal(s)
	if line.Kind != "" && line.Kind != ledger.Thaw {
		p.world.book.Add(line)
	}
	return r
}

// pid is the present process'; 0 if there is none.
func (p *place) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current == nil {
		return 0
	}
	return p.current.cmd.Process.Pid
}

// kill ends the process as kill -9 does, and waits for that.
func (p *place) kill() {
	if r := p.signal(syscall.SIGKILL); r != nil {
		<-r.ended
	}
}

// shutdown ends the process as a deploy does, and waits for that.
func (p *place) shutdown() *process {
	r := p.signal(syscall.SIGTERM)
	if r == nil {
		return nil
	}
	select {
	case <-r.ended:
	case <-time.After(30 * time.Second):
		p.world.problem("worker %d, pid %d, does not shut down", p.index, r.cmd.Process.Pid)
		p.kill()
	}
	return r
}

// hold keeps the place empty after the present process, or lets a new one begin.
func (p *place) hold(held bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = held
	p.change.Broadcast()
}

// set changes what the next process gets.
func (p *place) set(change func(*settings)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.settings)
}

func (p *place) close() {
	p.mu.Lock()
	p.closed = true
	p.change.Broadcast()
	p.mu.Unlock()
	p.signal(syscall.SIGCONT)
	p.shutdown()
}

// workerBinary is built once, with a clock that CHAOS_SKEW sets off.
var workerBinary string

// buildWorker builds the worker of a source tree into dir, with a time.Now whose wall clock, not its monotonic one, is off by the seconds in CHAOS_SKEW: a Go
// program does not ask libc for the time, so libfaketime cannot do this.
func buildWorker(dir, source string) (string, error) {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOROOT: %w", err)
	}
	path := filepath.Join(strings.TrimSpace(string(out)), "src", "time", "time.go")
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	const now = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	if strings.Count(string(text), now) != 1 {
		return "", fmt.Errorf("%s: time.Now does not begin as this expects: %q", path, now)
	}
	changed := strings.Replace(string(text), now, now+"\tsec += skew\n", 1)
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {
		path: filepath.Join(dir, "time.go"), filepath.Join(filepath.Dir(path), "skew.go"): filepath.Join(dir, "skew.go"),
	}})
	if err != nil {
		return "", err
	}
	for name, content := range map[string]string{"time.go": changed, "skew.go": skewSource, "overlay.json": string(overlay)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			return "", err
		}
	}
	binary := filepath.Join(dir, "worker")
	args := []string{"build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", binary}
	if *raceWorkers {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "./worker")...)
	build.Dir = source
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build worker: %w: %s", err, out)
	}
	return binary, nil
}

const skewSource = `package time

import "syscall"

var skew = readSkew()

func readSkew() int64 {
	text, _ := syscall.Getenv("CHAOS_SKEW")
	sign, n := int64(1), int64(0)
	for i, c := range []byte(text) {
		switch {
		case c == '-' && i == 0:
			sign = -1
		case c >= '0' && c <= '9':
			n = n*10 + int64(c-'0')
		}
	}
	return sign * n
}
`

// TestWorkerClock: the build with another clock does what it is for.
func TestWorkerClock(t *testing.T) {
	if workerBinary == "" {
		t.Fatal("no worker was built")
	}
	out, err := exec.Command(workerBinary, "clock").Output()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(workerBinary, "clock")
	cmd.Env = append(os.Environ(), "CHAOS_SKEW=-3600")
	late, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var here, there int64
	if _, err := fmt.Sscan(string(out)+" "+string(late), &here, &there); err != nil {
		t.Fatal(err)
	}
	if off := here - there; off < 3500 || off > 3600 {
		t.Fatalf("the clocks differ by %d s, not by an hour", off)
	}
}
