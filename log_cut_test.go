package redtask

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Of a line that is too long, texts keep their beginning, and what follows them is there; a group that does not fit is not.
func TestLogKeepsTheBeginningOfLongTexts(t *testing.T) {
	t.Parallel()
	for name, character := range map[string]string{"plain": "x", "of two bytes": "ü", "escaped": "\x01", "quotes": `"`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			long := strings.Repeat(character, 3*maxLogLine)
			l, handler := linesOf(t, nil)
			slog.New(handler).Error(long, "error", errors.New(long), slog.Group("group", "text", long), "stack", long, "row", 7)
			require.Len(t, l.lines, 1)
			require.LessOrEqual(t, len(l.lines[0]), maxLogLine)
			line := parseLogLine(l.lines[0])
			var attrs map[string]any
			require.NoError(t, json.Unmarshal(line.Attrs, &attrs))
			require.InDelta(t, 7, attrs["row"], 0)
			require.Equal(t, true, attrs["cut"])
			require.NotContains(t, attrs, "group")
			for _, text := range []any{line.Message, attrs["error"], attrs["stack"]} {
				begin, marked := strings.CutSuffix(text.(string), "… (cut)")
				require.True(t, marked, text)
				require.True(t, strings.HasPrefix(long, begin), text)
				require.Greater(t, len(begin), 50)
			}
		})
	}
}

// Many texts leave room for none that is worth it: then they are left out, and the line ends.
func TestLogOfManyLongTexts(t *testing.T) {
	t.Parallel()
	for length := range 300 {
		l, handler := linesOf(t, nil)
		attrs := []any{"first", strings.Repeat("x", maxLogLine)}
		for range 200 {
			attrs = append(attrs, "more", strings.Repeat("y", length))
		}
		slog.New(handler).Error("hello", attrs...)
		require.LessOrEqual(t, len(l.lines[0]), maxLogLine)
		line := parseLogLine(l.lines[0])
		require.True(t, json.Valid(line.Attrs), length)
		require.Equal(t, "hello", line.Message)
	}
}

// The stack of a panic is about as long as a line, or longer, by the paths of the machine: its head, which says where, is in the log.
func TestLogHasWhereItPanicked(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		registry := NewRegistry()
		registry.RegisterWith("test/deep", Func(func(_ context.Context, depth int) error { return dive(depth) }), TaskOptions{LogLines: 10})
		e.runner(t, registry, nil)
		client := e.client(t)
		id := start(t, client, "test/deep", 300)
		require.Equal(t, StateException, wait(t, client, id).State)
		lines, err := client.Log(testContext(t), id)
		require.NoError(t, err)
		require.Len(t, lines, 1)
		require.Contains(t, string(lines[0].Attrs), "log_cut_test.go")
		require.Contains(t, string(lines[0].Attrs), `"error":"panic: deep down"`)
	})
}

func dive(depth int) error {
	if depth == 0 {
		panic("deep down")
	}
	return dive(depth - 1)
}
