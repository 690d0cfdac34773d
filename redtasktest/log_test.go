package redtasktest

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask"
)

func TestResultLog(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		registry := redtask.NewRegistry()
		registry.RegisterWith("test/log", redtask.Func(func(ctx context.Context, line string) error {
			redtask.FromContext(ctx).Logger().Info(line)
			return nil
		}), redtask.TaskOptions{LogLines: 10})
		h := on(t, url, registry, redtask.RunnerOptions{})
		result := h.Run("test/log", "hello")
		lines := result.Log()
		require.Len(t, lines, 1)
		require.Equal(t, "hello", lines[0].Message)
		require.NoError(t, h.Client.Remove(t.Context(), result.Record.ID))
		require.Empty(t, result.Log())
		result.Record = nil
		require.Empty(t, result.Log())
	})
}
