package main

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask/internal/redistest"
)

func TestQuickstart(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]func(t *testing.T) string{
		"with a Redis of its own": func(*testing.T) string { return "" },
		"on a real Redis":         func(t *testing.T) string { return "redis://" + redistest.Start(t).Addr },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command("go", "run", ".")
			cmd.Env = append(os.Environ(), "REDIS_URL="+url(t))
			var faults bytes.Buffer
			cmd.Stderr = &faults
			out, err := cmd.Output()
			require.NoError(t, err, faults.String())
			require.Empty(t, faults.String())
			story := []string{
				"demo/clock running", "demo/clock tick", "demo/clock running reloaded", "demo/clock tick", "demo/clock stopped",
			}
			for line := range strings.Lines(string(out)) {
				if len(story) > 0 && hasAll(line, strings.Fields(story[0])) {
					story = story[1:]
				}
			}
			require.Empty(t, story, string(out))
			for _, end := range []string{"demo/hello ended hello", "demo/fail error coffee", "demo/panic exception beans"} {
				found := false
				for line := range strings.Lines(string(out)) {
					found = found || hasAll(line, strings.Fields(end))
				}
				require.True(t, found, "%s in %s", end, out)
			}
		})
	}
}

func hasAll(line string, words []string) bool {
	for _, word := range words {
		if !strings.Contains(line, word) {
			return false
		}
	}
	return true
}

// It is read before it is run.
func TestQuickstartIsShort(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("main.go")
	require.NoError(t, err)
	require.Less(t, strings.Count(string(source), "\n"), 80)
}
