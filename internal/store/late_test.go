package store

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A restart that was promised comes true even if the task ended by itself before it was told.
func TestRestartBeatsAnOrdinaryEnd(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		claim := e.own("r", "x")["x"]
		require.NoError(t, e.queue.Restart(e.ctx(), "x", "n")) // told; nil
		e.commit("r", 0, func(b *Batch) {
			b.Leave("x", claim.member(), &Leave{State: "ENDED", Event: tail(&claim, 2)})
		})
		require.Equal(t, []string{"x"}, e.line(), "state %s", e.state("x"))
		require.Equal(t, "0", e.hash("x")["attempt"])
	})
}

// A batch that was held up in the network and arrives after its successor is not applied a second time.
func TestLateDuplicateBatch(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.register("r")
		e.start("a", "b", "c", "d")
		send := func(number int64) *Result {
			result, err := e.queue.Commit(e.ctx(), "r", &Batch{Number: number, Claim: 1})
			require.NoError(t, err)
			return result
		}
		require.Equal(t, Applied, send(1).Outcome)
		require.Equal(t, Applied, send(2).Outcome)
		late := send(1)  // retransmitted by the kernel of a connection that timed out
		again := send(2) // its answer had been lost
		require.Equal(t, Replayed, late.Outcome)
		require.Equal(t, Replayed, again.Outcome)
	})
}
