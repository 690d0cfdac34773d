package redtask_test

import (
	"context"
	"fmt"
	"strings"

	"github.com/redtask/redtask"
)

// What an import met, for an admin page.
func ExampleClient_Log() {
	registry := redtask.NewRegistry()
	registry.RegisterWith("crm/import", redtask.Func(func(ctx context.Context, lines []string) error {
		log := redtask.FromContext(ctx).Logger()
		for i, line := range lines {
			if !strings.Contains(line, "@") {
				log.Warn("line skipped: no address", "line", i+1)
			}
		}
		log.Info("import is through", "lines", len(lines))
		return nil
	}), redtask.TaskOptions{LogLines: 100})
	client, stop := startRunner(registry)
	defer stop()

	id := must(client.Start(ctx, "crm/import", []string{"ada@example.com", "bob"}))
	must(client.Wait(ctx, id))
	for _, line := range must(client.Log(ctx, id)) {
		fmt.Println(line.Level, line.Message, string(line.Attrs))
	}
	// Output:
	// WARN line skipped: no address {"line":2}
	// INFO import is through {"lines":2}
}
