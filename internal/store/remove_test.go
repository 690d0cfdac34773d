package store

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Removing is how to get rid of a record whose key changed its type: what it had beside goes as well.
func TestRemoveOfTheWrongType(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.do("RPUSH", e.keys.log("x"), "a line of before")
		e.spoil(e.keys.task("x"))
		e.do("ZADD", e.keys.final("ENDED"), 1, "x")
		require.NoError(t, e.queue.Remove(e.ctx(), "x"))
		require.Zero(t, e.do("EXISTS", e.keys.task("x"), e.keys.log("x")))
		require.Empty(t, e.final("ENDED"))
	})
}
