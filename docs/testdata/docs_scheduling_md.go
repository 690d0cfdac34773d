// Package docs_scheduling_md declares what the blocks of docs/scheduling.md use and do not show.
package docs_scheduling_md

import (
	"context"
	"time"
)

type (
	Appointment struct {
		ID, Mail string
		Begins   time.Time
	}
	Report struct{ To string }
)

var daily func(ctx context.Context, report Report) error
