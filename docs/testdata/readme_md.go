// Package readme_md declares what the blocks of README.md use and do not show.
package readme_md

import "context"

type (
	Mail struct{ To string }
	Hook struct{ URL string }
)

var (
	send func(ctx context.Context, mail Mail) (string, error)
	poll func(ctx context.Context, feed string)

	deliver func(ctx context.Context, hook Hook) error
	hook    Hook
)
