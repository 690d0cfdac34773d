package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

var indexes = []string{"wait", "scheduled", "running", "kept", "ENDED", "ERROR", "EXCEPTION", "STOPPED"}

// walkAll walks every index to its end.
func (e *env) walkAll(ctx context.Context) error {
	for _, index := range indexes {
		walk, err := e.queue.Walk(ctx, index)
		if err != nil {
			return err
		}
		for ok := true; ok; {
			if _, ok, err = walk.Next(ctx, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// walk returns the IDs of an index in the order in which a walk meets them; between, which may be nil, is called with each page and returns
// how many of it have left.
func (e *env) walk(index string, between func(ids []string) int) []string {
	e.t.Helper()
	walk, err := e.queue.Walk(e.ctx(), index)
	require.NoError(e.t, err)
	require.Positive(e.t, walk.Now)
	var met []string
	gone := 0
	for range 10_000 {
		ids, ok, err := walk.Next(e.ctx(), gone)
		require.NoError(e.t, err)
		if !ok {
			return met
		}
		require.LessOrEqual(e.t, len(ids), MaxBatch, "bounded, also where the server gives more")
		met = append(met, ids...)
		gone = 0
		if between != nil {
			gone = between(slices.Clone(ids))
		}
	}
	require.FailNow(e.t, "the walk does not end")
	return nil
}

func (e *env) zadd(key string, scores map[string]float64) {
	e.t.Helper()
	var entries []redis.Z
	for id, score := range scores {
		entries = append(entries, redis.Z{Score: score, Member: id})
	}
	require.NoError(e.t, e.rdb.ZAdd(e.ctx(), key, entries...).Err())
}

func (e *env) push(key string, ids ...string) {
	e.t.Helper()
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = id
	}
	require.NoError(e.t, e.rdb.LPush(e.ctx(), key, args...).Err())
}

// Where each index is read; sizes around that of a page.
func TestWalkMeetsAll(t *testing.T) {
	for _, n := range []int{0, 1, MaxBatch - 1, MaxBatch, MaxBatch + 1, 5*MaxBatch + 7} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			onBoth(t, func(t *testing.T, e *env) {
				for _, index := range indexes {
					require.Empty(t, e.walk(index, nil), index)
				}
				if n == 0 {
					return
				}
				finals := e.finals("ENDED", n)
				require.Equal(t, finals, e.walk("ENDED", nil), "the oldest first")
				require.Empty(t, e.walk("ERROR", nil))
				for i, id := range numbered("s", n) {
					e.do("ZADD", e.keys.scheduled, i, id)
					e.do("ZADD", e.keys.kept, 5, id) // all at one time
				}
				require.Equal(t, numbered("s", n), e.walk("scheduled", nil))
				require.ElementsMatch(t, numbered("s", n), e.walk("kept", nil))
				e.register("r1")
				e.register("r2")
				e.own("r1", numbered("r1-", min(n, MaxBatch))...)
				e.own("r2", numbered("r2-", min(n, MaxBatch))...)
				require.ElementsMatch(t, append(numbered("r1-", min(n, MaxBatch)), numbered("r2-", min(n, MaxBatch))...), e.walk("running", nil))
				e.push(e.keys.wait, numbered("w", n)...)
				require.ElementsMatch(t, numbered("w", n), e.walk("wait", nil))
			})
		})
	}
}

// What waits beside the line waits too: in the lines of other priorities, for a limit, behind others of its key.
func TestWalkMeetsWhatWaitsBeside(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.push(e.keys.wait, "a", "", "b", "a")
		e.push(e.keys.wait+":high", "h")
		e.push(e.keys.wait+":low", "l")
		want := []string{"a", "b", "a", "h", "l", "held"}
		for i, id := range numbered("o", 2*MaxBatch) {
			e.do("ZADD", e.keys.base+"order:k", i, id)
			want = append(want, id)
		}
		e.do("ZADD", e.keys.base+"held:test/a", 7, "held")
		e.do("ZADD", e.keys.base+"timers", 5, "order:k", 5, "held:test/a", 5, "unknown:x")
		met := e.walk("wait", nil)
		slices.Sort(met)
		require.Subset(t, met, want)
		require.Subset(t, want, slices.Compact(met), "nothing else, and no empty ID")
	})
}

// Pages go as they are met, by turns all, none, or some, and others remove and add entries at random before and behind: what is there all
// the time is met, once.
func TestWalkOfAZsetThatChanges(t *testing.T) {
	for _, spread := range []int{1, 3, 1000} { // entries of one score, of few, of many
		for seed := range uint64(5) {
			t.Run(fmt.Sprintf("%d/%d", spread, seed), func(t *testing.T) {
				onBoth(t, func(t *testing.T, e *env) {
					random := rand.New(rand.NewPCG(seed, uint64(spread)))
					score := func() float64 { return float64(random.IntN(spread)) }
					key, stay, others := e.keys.final("ERROR"), map[string]float64{}, map[string]float64{"last": float64(spread)}
					for _, id := range numbered("stay", 400) {
						stay[id+strconv.Itoa(random.IntN(1e6))] = score()
					}
					for _, id := range numbered("x", 400) {
						others[strconv.Itoa(random.IntN(1e6))+id] = score()
					}
					e.zadd(key, stay)
					e.zadd(key, others)
					times := map[string]int{}
					e.walk("ERROR", func(ids []string) int {
						for _, id := range ids {
							times[id]++
						}
						gone := ids[:random.IntN(len(ids)+1)]
						if random.IntN(3) == 0 {
							gone = nil
						}
						for _, id := range gone {
							e.do("ZREM", key, id)
						}
						for id := range others {
							if random.IntN(10) == 0 {
								e.do("ZREM", key, id)
								delete(others, id)
							}
						}
						for range random.IntN(40) {
							e.zadd(key, map[string]float64{"new" + strconv.Itoa(random.IntN(1e9)): score()})
						}
						return random.IntN(len(gone) + 1) // the caller need not know of all
					})
					for id := range stay {
						require.Equal(t, 1, times[id], id)
					}
				})
			})
		}
	}
}

// All that the walk meets goes at once: it ends, and has met all.
func TestWalkThatRemovesAll(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		finals := e.finals("ERROR", 500)
		met := e.walk("ERROR", func(ids []string) int {
			for _, id := range ids {
				e.do("ZREM", e.keys.final("ERROR"), id)
				e.do("ZADD", e.keys.final("ERROR"), 1e9, id) // it failed anew
			}
			return len(ids)
		})
		require.Equal(t, finals, met)
	})
}

func TestWalkOfALineThatMoves(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		stay := numbered("stay", 300)
		e.push(e.keys.wait, numbered("claimed", 200)...)
		e.push(e.keys.wait, stay...)
		met := e.walk("wait", func([]string) int {
			e.push(e.keys.wait, numbered("new", 20)...)
			e.do("RPOP", e.keys.wait)
			e.do("RPOP", e.keys.wait)
			return 0
		})
		require.Subset(t, met, stay)
	})
}

// What is added once the right end was seen is new.
func TestWalkOfALineEndsAtItsEnd(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.push(e.keys.wait, numbered("w", MaxBatch+10)...)
		pages := 0
		e.walk("wait", func([]string) int {
			pages++
			e.push(e.keys.wait, numbered("new", MaxBatch-10)...)
			return 0
		})
		require.LessOrEqual(t, pages, 7)
	})
}

// A line that grows as fast as it is walked says so; a walk for ever would be worse.
func TestWalkOfALineThatOutgrowsIt(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		e.push(e.keys.wait, "first")
		walk, err := e.queue.Walk(e.ctx(), "wait")
		require.NoError(t, err)
		for range 1000 {
			e.push(e.keys.wait, numbered("new", MaxBatch)...)
			if _, _, err = walk.Next(e.ctx(), 0); err != nil {
				break
			}
		}
		require.ErrorIs(t, err, errGrows)
	})
}

func TestWalkOfKeysOfTheWrongType(t *testing.T) {
	onBoth(t, func(t *testing.T, e *env) {
		for _, key := range []string{
			e.keys.wait, e.keys.wait + ":low", e.keys.scheduled, e.keys.kept, e.keys.final("ENDED"), e.keys.runners, e.keys.base + "timers",
		} {
			e.spoil(key)
			require.ErrorIs(t, e.walkAll(e.ctx()), ErrWrongType, key)
			e.do("DEL", key)
		}
	})
}
