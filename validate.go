package redtask

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of what clients and tasks may write. They guard Redis and every reader of it.
const (
	// DefaultMaxData bounds a task's data, its output, a checkpoint, a progress report, and one event's data, each, in bytes. See
	// [RunnerOptions.MaxData] and [ClientOptions.MaxData].
	DefaultMaxData = 1 << 20
	// MaxID bounds a task's own ID, in bytes.
	MaxID = 256
	// MaxQueue bounds the name of a queue, and a prefix, in bytes.
	MaxQueue = 128

	maxErrorText = 16 << 10
	maxMaxData   = 512 << 20 // what a value in Redis may have
)

func checkID(id string) error {
	switch {
	case id == "":
		return fmt.Errorf("%w: the task ID is empty", ErrInvalid)
	case len(id) > MaxID:
		return fmt.Errorf("%w: the task ID %.40q… has %d bytes, at most %d are allowed", ErrInvalid, id, len(id), MaxID)
	case !utf8.ValidString(id) || strings.ContainsFunc(id, unicode.IsControl):
		return fmt.Errorf("%w: the task ID %q holds control characters or broken UTF-8", ErrInvalid, id)
	}
	return nil
}

// checkPart checks a queue name or a prefix: braces would move its keys to another Cluster slot.
func checkPart(what, name string) error {
	if name == "" || len(name) > MaxQueue || !utf8.ValidString(name) ||
		strings.ContainsAny(name, "{}") || strings.ContainsFunc(name, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }) {
		return fmt.Errorf("%w: %s %.160q: use 1 to %d bytes without braces, spaces and control characters", ErrInvalid, what, name, MaxQueue)
	}
	return nil
}

func checkMaxData(limit int) error {
	if limit < 1 || limit > maxMaxData {
		return fmt.Errorf("%w: MaxData %d: use 1 to %d bytes, or 0 for the default", ErrInvalid, limit, maxMaxData)
	}
	return nil
}

// encode makes JSON of a value; raw JSON is checked and passed on.
func encode(what string, value any, limit int) ([]byte, error) {
	encoded, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("%w: encode %s: %w", ErrInvalid, what, err)
	}
	return encoded, checkSize(what, len(encoded), limit)
}

func checkSize(what string, size, limit int) error {
	if size > limit {
		return fmt.Errorf("%w: %s has %d bytes, at most %d are allowed (MaxData); keep big things elsewhere and pass a reference",
			ErrInvalid, what, size, limit)
	}
	return nil
}

func truncate(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + "… (cut)"
}
