// Package docs_flow_md declares what the blocks of docs/flow.md use and do not show.
package docs_flow_md

import "context"

type (
	Alarm    struct{ Host string }
	Document struct{ ID string }
	Step     struct{ Account string }
	Order    struct{ ID string }
)

var (
	customer string
	alarm    Alarm
	document Document
	mail     string
	step     Step

	sync        func(ctx context.Context, customer string) error
	locate      func(ctx context.Context, address string) error
	traceparent func(ctx context.Context) string
	tenant      func(ctx context.Context) string
)
