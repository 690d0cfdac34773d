package docs_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

// TestSessions lives the sessions with redis-cli, the `console` blocks, on a real server with the example's worker. A block that begins with
// SUBSCRIBE shows the events of the next one.
func TestSessions(t *testing.T) {
	t.Parallel()
	redistest.Binary(t)
	worker := filepath.Join(t.TempDir(), "worker")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", worker, "./examples/worker")
	build.Dir = root
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, d := range documents(t) {
		var blocks []block
		for _, b := range d.blocks {
			if b.language == "console" {
				blocks = append(blocks, b)
			}
		}
		if len(blocks) == 0 {
			continue
		}
		t.Run(d.path, func(t *testing.T) {
			t.Parallel()
			s := newSession(t, worker)
			for _, b := range blocks {
				s.live(t, &b)
			}
		})
	}
}

// session is a server with a worker and somebody who listens.
type session struct {
	server *redistest.Server
	shown  []string // the events that the next block is to bring

	mu     sync.Mutex
	events []string
}

func newSession(t *testing.T, worker string) *session {
	t.Helper()
	s := &session{server: redistest.Start(t)}
	rdb := s.server.Client(t)
	messages := rdb.PSubscribe(t.Context(), "redtask:{default}:events:*")
	t.Cleanup(func() { _ = messages.Close() })
	_, err := messages.Receive(t.Context())
	require.NoError(t, err)
	go func() {
		for message := range messages.Channel() {
			s.mu.Lock()
			s.events = append(s.events, message.Payload)
			s.mu.Unlock()
		}
	}()
	ctx, cancel := context.WithCancel(context.Background())
	process := exec.CommandContext(ctx, worker)
	process.Env = append(process.Environ(), "REDIS_URL=redis://"+s.server.Addr+"/0")
	process.Cancel = func() error { return process.Process.Signal(syscall.SIGTERM) }
	process.WaitDelay = 10 * time.Second
	require.NoError(t, process.Start())
	t.Cleanup(func() {
		cancel()
		_ = process.Wait() // it was told to end
	})
	awaitWorker(t, rdb)
	return s
}

// awaitWorker waits until the worker listens and its own tasks have their epochs: so those of the session are what the document says.
func awaitWorker(t *testing.T, rdb *redis.Client) {
	t.Helper()
	require.Eventually(t, func() bool {
		patterns := rdb.PubSubNumPat(t.Context()).Val()
		epoch, _ := rdb.Get(t.Context(), "redtask:{default}:epoch").Int()
		return patterns == 2 && epoch == 3
	}, 20*time.Second, 5*time.Millisecond, "the worker is there")
}

// live runs the commands of a block and compares what they answer; what only reads is asked until it answers so.
func (s *session) live(t *testing.T, b *block) {
	t.Helper()
	steps := strings.Split("\n"+b.text, "\n$ ")[1:]
	if strings.Contains(steps[0], "SUBSCRIBE") {
		require.Len(t, steps, 1, b)
		_, text, _ := strings.Cut(steps[0], "\n")
		s.shown = strings.Split(strings.TrimSpace(text), "\n")
		return
	}
	for _, step := range steps {
		command, want, _ := strings.Cut(step, "\n")
		want = neutral(strings.TrimSpace(want))
		got := s.run(t, command)
		if strings.Contains(command, "GET") || strings.Contains(command, "EXISTS") {
			require.Eventually(t, func() bool {
				got = s.run(t, command)
				return got == want
			}, 20*time.Second, 20*time.Millisecond, "%s: %s: want %s", b, command, want)
		}
		require.Equal(t, want, got, "%s: %s", b, command)
	}
	if s.shown != nil {
		want := kinds(t, s.shown)
		require.Eventually(t, func() bool { return slices.Equal(want, kinds(t, s.seen())) }, 20*time.Second, 20*time.Millisecond,
			"%s: the events shown: %v", b, want)
		require.Subset(t, shapes(s.seen()), shapes(s.shown), "%s: the events shown", b)
	}
	s.shown = nil
}

func (s *session) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events)
}

func (s *session) run(t *testing.T, command string) string {
	t.Helper()
	arguments, found := strings.CutPrefix(command, "redis-cli ")
	require.True(t, found, command)
	host, port, _ := strings.Cut(s.server.Addr, ":")
	line := fmt.Sprintf("redis-cli --no-raw -h %s -p %s %s", host, port, arguments)
	out, err := exec.CommandContext(t.Context(), "sh", "-c", line).CombinedOutput()
	require.NoError(t, err, "%s: %s", line, out)
	return neutral(strings.TrimSpace(string(out)))
}

var (
	number   = regexp.MustCompile(`\d+`)
	moment   = regexp.MustCompile(`\d{13}`)
	runnerID = regexp.MustCompile(`"[0-9a-hj-kmnp-tv-z]{15}"`)
)

// neutral hides what differs each time: the time and the runner.
func neutral(text string) string {
	return runnerID.ReplaceAllString(moment.ReplaceAllString(text, "TIME"), "RUNNER")
}

// kinds names events with what does not depend on the time that things take; how often the loop ticks does.
func kinds(t *testing.T, events []string) []string {
	t.Helper()
	var found []string
	for _, text := range events {
		var event struct {
			Event, ID, Task string
			Epoch           int
			Data            struct{ Reason string }
		}
		var mismatch *json.UnmarshalTypeError
		if err := json.Unmarshal([]byte(text), &event); err != nil {
			require.ErrorAs(t, err, &mismatch, text)
		}
		if event.Event != "tick" && !strings.HasPrefix(event.Task, "redtask/") {
			found = append(found, fmt.Sprint(event.Event, " ", event.ID, " ", event.Task, " ", event.Epoch, " ", event.Data.Reason))
		}
	}
	return found
}

// shapes are events without what differs in each of a kind.
func shapes(events []string) []string {
	var found []string
	for _, event := range events {
		found = append(found, number.ReplaceAllString(runnerID.ReplaceAllString(event, "RUNNER"), "N"))
	}
	return found
}
