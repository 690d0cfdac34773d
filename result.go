package redtask

import (
	"context"
	"fmt"
)

// Await waits until a task is final, as [Client.Wait] does, and returns its output. A task that did not end well returns an [*EndError].
//
//	report, err := redtask.Await[Report](ctx, client, id)
func Await[Out any](ctx context.Context, client *Client, id string) (Out, error) {
	record, err := client.Wait(ctx, id)
	if err != nil {
		var none Out
		return none, err
	}
	return Output[Out](record)
}

// Output decodes the output of a task that is ENDED. One in another final state returns an [*EndError], whatever output it has (for that
// there is [Record.DecodeOutput]); one without output, and one that is not final, an error that says so.
func Output[Out any](record *Record) (Out, error) {
	var output, none Out
	if err := record.Err(); err != nil {
		return none, err
	}
	if err := record.DecodeOutput(&output); err != nil {
		return none, err
	}
	return output, nil
}

// Err is an [*EndError] if the task ended in ERROR or EXCEPTION, or was STOPPED; nil if it is ENDED, or not final.
func (r *Record) Err() error {
	if r.State == StateEnded || !r.State.Final() {
		return nil
	}
	return &EndError{Record: r}
}

// EndError says that a task did not end well. Use errors.As, or errors.AsType, and look at the record: State is ERROR (the task says that
// it failed), EXCEPTION (something unexpected happened) or STOPPED; Error says why, and Stack where it panicked.
type EndError struct{ Record *Record }

func (e *EndError) Error() string {
	text := fmt.Sprintf("redtask: task %s, ID %q, ended in %s", e.Record.Task, e.Record.ID, e.Record.State)
	if e.Record.Error != "" {
		text += ": " + e.Record.Error
	}
	return text
}
