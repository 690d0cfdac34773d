// Package docs_failures_md declares what the blocks of docs/failures.md use and do not show.
package docs_failures_md

import (
	"context"
	"testing"
	"time"
)

type (
	Hook     struct{ URL string }
	Response struct {
		Status     int
		RetryAfter time.Duration
	}
)

var (
	post         func(ctx context.Context, hook Hook) (*Response, error)
	page         func(ctx context.Context, task, id string, err error)
	followPrices func(ctx context.Context, feed string) error
	busyServer   func(t *testing.T, times int) (url string)
	closing      time.Time
	bid          int
	code         string
)
