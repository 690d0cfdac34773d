package redtask

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
)

// Func makes a factory of a function with typed input. The data is decoded by encoding/json; data that does not fit is an EXCEPTION
// that says where. No data, or `null`, gives the zero In.
func Func[In any](work func(ctx context.Context, in In) error) Factory {
	if work == nil {
		panic("redtask: Func: the function is nil")
	}
	return func() Task { return &funcTask[In]{work: work} }
}

// FuncOut is [Func] with an output: what the function returns with a nil error is the task's output.
func FuncOut[In, Out any](work func(ctx context.Context, in In) (Out, error)) Factory {
	if work == nil {
		panic("redtask: FuncOut: the function is nil")
	}
	return Func(func(ctx context.Context, in In) error {
		out, err := work(ctx, in)
		if err != nil {
			return err
		}
		return FromContext(ctx).SetOutput(out)
	})
}

type funcTask[In any] struct {
	work func(ctx context.Context, in In) error
	in   In
}

func (t *funcTask[In]) Init(ctx context.Context, data json.RawMessage) error {
	return decode(data, &t.in, FromContext(ctx).strict)
}

func (t *funcTask[In]) Start(ctx context.Context) error { return t.work(ctx, t.in) }

func decode(data json.RawMessage, into any, strict bool) error {
	if !strict {
		if err := json.Unmarshal(data, into); err != nil {
			return fmt.Errorf("decode data: %w", err)
		}
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return fmt.Errorf("decode data: %w", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return fmt.Errorf("decode data: more than one JSON value")
	}
	return nil
}
