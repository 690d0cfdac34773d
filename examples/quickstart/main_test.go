package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

func TestQuickstart(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "quickstart")
	out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput()
	require.NoError(t, err, string(out))
	for name, url := range map[string]func(t *testing.T) string{
		"with a Redis of its own": func(*testing.T) string { return "" },
		"on a real Redis":         func(t *testing.T) string { return "redis://" + redistest.Start(t).Addr },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := url(t)
			requireStory(t, tell(t, binary, server))
			requireStory(t, tell(t, binary, server)) // what the first one left does not disturb the second
		})
	}
}

// tell runs the program, and returns its table without the times.
func tell(t *testing.T, binary, url string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary)
	cmd.Env = append(os.Environ(), "REDIS_URL="+url)
	var faults bytes.Buffer
	cmd.Stderr = &faults
	out, err := cmd.Output()
	require.NoError(t, err, "%s%s", out, faults.String())
	require.Empty(t, faults.String())
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	column := strings.Index(lines[0], "TASK")
	require.Positive(t, column, lines[0])
	for i, line := range lines {
		require.Greater(t, len(line), column, line)
		require.Equal(t, " ", line[column-1:column], "the columns are aligned: %s", line)
		lines[i] = strings.Join(strings.Fields(line[column:]), " ")
	}
	return lines
}

func requireStory(t *testing.T, lines []string) {
	t.Helper()
	requireInOrder(t, lines,
		"TASK EVENT DATA", `demo/clock running {"attempt":1,`, `demo/clock tick "1, every 300 ms"`, `demo/clock tick "3, every 300 ms"`,
		"--> client.ReloadWith(", `"reason":"reloaded"}`, `demo/clock tick "1, every 100 ms"`, `demo/clock tick "5, every 100 ms"`,
		"--> client.Stop(", "demo/clock stopped")
	requireInOrder(t, lines, "demo/hello running", `demo/hello ended "hello world"`)
	requireInOrder(t, lines, "demo/fail running", `demo/fail error {"error":"no coffee"}`)
	requireInOrder(t, lines, "demo/panic running", `demo/panic exception {"error":"panic: out of beans"}`)
	require.NotContains(t, strings.Join(lines, "\n"), "redtask/", "the runner's own tasks are no part of the story")
}

// requireInOrder fails unless the parts are in lines, one after the other.
func requireInOrder(t *testing.T, lines []string, parts ...string) {
	t.Helper()
	for _, line := range lines {
		if len(parts) > 0 && strings.Contains(line, parts[0]) {
			parts = parts[1:]
		}
	}
	require.Empty(t, parts, "missing, or not in this order, in:\n%s", strings.Join(lines, "\n"))
}

// It is read before it is run.
func TestQuickstartIsShort(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("main.go")
	require.NoError(t, err)
	require.Less(t, bytes.Count(source, []byte("\n")), 80)
}
