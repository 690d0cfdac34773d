package redtask

import (
	"context"
	"fmt"
)

// ListOptions say which tasks to list.
type ListOptions struct {
	// State of the tasks. Required, unless Kept.
	State State
	// Kept lists the final tasks, of any state, whose record is to stay. They are not in the lists of their states.
	Kept bool
	// Cursor is what the last page's Next held. Default "": from the beginning.
	Cursor string
	// Limit of tasks in a page, 1 to 1000. A page may hold fewer, or for running tasks some more, and still have a next. Default 100.
	Limit int
}

// Page is a part of a list.
type Page struct {
	Tasks []*Record
	Next  string // cursor of the next page; "" at the end
}

// List lists the queue's tasks of one state: those in line in their order, scheduled ones by due time, final ones with the latest first,
// running ones in no order. Tasks that move while one pages may be missed or seen twice.
func (c *Client) List(ctx context.Context, options ListOptions) (*Page, error) {
	if c.fault != nil {
		return nil, c.fault
	}
	setDefault(&options.Limit, 100)
	if options.Limit < 1 || options.Limit > 1000 {
		return nil, fmt.Errorf("%w: ListOptions.Limit %d: use 1 to 1000", ErrInvalid, options.Limit)
	}
	index, err := indexOf(&options)
	if err != nil {
		return nil, err
	}
	ids, next, err := c.queue.Page(ctx, index, options.Cursor, options.Limit)
	if err != nil {
		return nil, public(err)
	}
	hashes, err := c.queue.GetMany(ctx, ids)
	if err != nil {
		return nil, public(err)
	}
	page := &Page{Next: next}
	for i, hash := range hashes {
		if hash == nil {
			continue
		}
		record := newRecord(c.queue.Name(), ids[i], hash)
		if record.State == options.State || options.Kept {
			page.Tasks = append(page.Tasks, record)
		}
	}
	return page, nil
}

func indexOf(o *ListOptions) (string, error) {
	switch {
	case o.Kept:
		return "kept", nil
	case o.State.Final():
		return string(o.State), nil
	case o.State == StateWait:
		return "wait", nil
	case o.State == StateScheduled:
		return "scheduled", nil
	case o.State == StateRunning:
		return "running", nil
	}
	return "", fmt.Errorf("%w: ListOptions.State %q: use one of the State constants", ErrInvalid, o.State)
}
