package store

import (
	"fmt"
	"math"
	"strconv"
)

// What scripts return: nested lists of strings and integers. A reply of another shape is a fault of ours or of a proxy, never trusted.

func badReply(what string, reply any) error {
	return fmt.Errorf("%s: redis answered with an unexpected shape: %.200v", what, reply)
}

func list(reply any) ([]any, error) {
	values, ok := reply.([]any)
	if !ok {
		return nil, fmt.Errorf("not a list: %T", reply)
	}
	return values, nil
}

func text(value any) string {
	switch v := value.(type) {
	case string:
		return v
	case int64:
		return strconv.FormatInt(v, 10)
	}
	return ""
}

func number(value any) int64 {
	switch v := value.(type) {
	case int64:
		return v
	case string:
		n, _ := strconv.ParseInt(v, 10, 64) // a fraction or junk counts as zero, like an absent field
		return n
	}
	return 0
}

// dueTime reads the score of what is due next; 0 for none, or for never. Whoever brings a task forward by hand may write 0, or less.
func dueTime(value any) int64 {
	score, err := strconv.ParseFloat(text(value), 64)
	if err != nil || math.IsInf(score, 1) {
		return 0
	}
	return max(1, number(value))
}

func texts(value any) []string {
	values, _ := value.([]any)
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = text(v)
	}
	return out
}
