package store

import (
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// shape builds a reply of any shape that a connection can deliver from fuzz bytes, at most so deep.
func shape(data []byte, depth int) (value any, rest []byte) {
	if len(data) == 0 {
		return nil, nil
	}
	kind, data := data[0], data[1:]
	switch kind % 8 {
	case 0:
		return nil, data
	case 1, 2: // short text: codes and numbers among it
		n := min(len(data), int(kind/8))
		return string(data[:n]), data[n:]
	case 3:
		n := min(len(data), 8)
		var number int64
		for _, b := range data[:n] {
			number = number<<8 | int64(b)
		}
		return number, data[n:]
	case 4:
		words := []string{"ok", "replayed", "unregistered", "lost", "stopped", "broken:x", "1", ""}
		return words[int(kind/8)%len(words)], data
	case 5:
		return kind/8%2 == 0, data
	case 6:
		return errors.New("WRONGTYPE of a nested error"), data
	}
	if depth == 0 {
		return []any{}, data
	}
	values := make([]any, 0, kind/8)
	for range kind / 8 {
		if value, data = shape(data, depth-1); data == nil {
			break
		}
		values = append(values, value)
	}
	return values, data
}

// Whatever answers instead of Redis: an error that says so, or a result that holds together. Never a panic.
func FuzzParseCommit(f *testing.F) {
	list := func(n int) byte { return byte(n*8 + 7) }
	ok, empty := byte(4), list(0)
	f.Add([]byte{}, 0)
	f.Add([]byte{list(1), 2*8 + 4}, 3)                                                                 // unregistered
	f.Add([]byte{list(2), 1*8 + 4, 3, 0, 0, 0, 0, 0, 0, 0, 7}, 1)                                      // replayed
	f.Add([]byte{list(7), ok, 6*8 + 4, empty, empty, empty, empty, 6*8 + 4}, 0)                        // applied
	f.Add([]byte{list(7), ok, 6*8 + 4, list(2), ok, 3*8 + 4, empty, empty, empty, 0}, 2)               // codes
	f.Add([]byte{list(7), ok, 0, empty, list(7), ok, ok, ok, ok, ok, ok, ok, empty, empty, 0}, 0)      // a claim
	f.Add([]byte{list(7), ok, 0, empty, list(6), ok, ok, ok, ok, ok, ok, empty, empty, 0}, 0)          // a cut claim
	f.Add([]byte{list(7), ok, 0, empty, empty, list(2), ok, ok, list(1), 5*8 + 4, 0}, 0)               // a drop and a fault
	f.Add([]byte{list(7), ok, empty, ok, list(7), list(1), 0, 0, 0, 0, 0, 0, empty, list(1), 5, 6}, 0) // lists where texts belong
	f.Fuzz(func(t *testing.T, data []byte, fenced int) {
		reply, _ := shape(data, 4)
		result, err := parseCommit(reply, fenced)
		if err != nil {
			require.Nil(t, result)
			require.ErrorContains(t, err, "unexpected shape")
			return
		}
		values, isList := reply.([]any)
		require.True(t, isList)
		switch result.Outcome {
		case Unregistered:
			require.Equal(t, "unregistered", values[0])
		case Replayed:
			require.Equal(t, "replayed", values[0])
			require.Len(t, values, 2)
		case Applied:
			require.Equal(t, "ok", values[0])
			require.Len(t, values, 7)
			require.Len(t, result.Codes, fenced, "the committer reads one code an item")
			require.Len(t, result.Claims, len(texts(values[3]))/7)
			require.Len(t, result.Drops, len(texts(values[4]))/2)
		}
	})
}

func FuzzParseMember(f *testing.F) {
	for _, id := range oddIDs {
		f.Add(int64(7), id, Member(7, id))
	}
	for _, member := range []string{"", ":", "x", "1", "1:", ":1", "-5:a", "+5:a", "1.5:a", " 1:a", "99999999999999999999:a", "1:2:3", "0x1:a", "1_0:a"} {
		f.Add(int64(-1), "", member)
	}
	f.Fuzz(func(t *testing.T, epoch int64, id, member string) {
		gotEpoch, gotID, ok := ParseMember(Member(epoch, id))
		require.True(t, ok)
		require.Equal(t, epoch, gotEpoch)
		require.Equal(t, id, gotID)

		gotEpoch, gotID, ok = ParseMember(member)
		head, tail, found := strings.Cut(member, ":")
		n, err := strconv.ParseInt(head, 10, 64)
		require.Equal(t, found && err == nil, ok)
		if ok {
			require.Equal(t, n, gotEpoch)
			require.Equal(t, tail, gotID)
		}
	})
}

// A reply of another shape than the script's is an error of its caller, not a panic and not a wrong result.
func TestBadReplies(t *testing.T) {
	t.Parallel()
	for _, reply := range []any{nil, "ok", int64(1), []any{}, []any{"ok"}, []any{nil}, []any{"replayed"}, []any{int64(1), int64(2), int64(3)}, true} {
		_, err := parseCommit(reply, 0)
		require.ErrorContains(t, err, "commit: redis answered with an unexpected shape")
	}
	require.Equal(t, "7", text(int64(7)))
	require.Empty(t, text(7.5))
	require.EqualValues(t, 7, number("7"))
	require.Zero(t, number("7.5"))
	require.Zero(t, number(nil))
	require.Empty(t, texts("no list"))
	require.Equal(t, []string{"a", "1", ""}, texts([]any{"a", int64(1), nil}))
	long := badReply("x", strings.Repeat("long", 1000))
	require.Less(t, len(long.Error()), 300, "a reply that is big makes no big error")
}

func TestStartErrors(t *testing.T) {
	t.Parallel()
	startError := func(result string) error {
		_, err := started(result, "x")
		return err
	}
	require.NoError(t, startError("ok"))
	id, err := started("kept:y:z", "x")
	require.NoError(t, err)
	require.Equal(t, "y:z", id)
	require.ErrorIs(t, startError("once:RUNNING:y:z"), ErrNotUnique)
	require.ErrorContains(t, startError("once:RUNNING:y:z"), `task "y:z" is RUNNING`)
	require.ErrorIs(t, startError("exists:RUNNING"), ErrExists)
	require.ErrorContains(t, startError("exists:RUNNING"), `task "x" is RUNNING`)
	require.ErrorIs(t, startError("broken:WRONGTYPE of a key"), ErrWrongType)
	require.ErrorIs(t, startError("broken:OOM command not allowed"), ErrFull)
	for _, odd := range []string{"", "nonsense", "broken", "broken:", ":"} {
		err := startError(odd)
		require.ErrorContains(t, err, `write task "x"`)
	}
}
