// Package docs_writing_tasks_md declares what the blocks of docs/writing-tasks.md use and do not show.
package docs_writing_tasks_md

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/redtask/redtask"
)

type (
	Row   struct{}
	Price struct{}
	Order struct{ ID string }
	Store struct{}

	Statement struct{ Total int }
)

type Archive struct{ store *Store }

func (*Archive) Init(context.Context, json.RawMessage) error { return nil }
func (*Archive) Start(context.Context) error                 { return nil }

type Session struct{}

func (*Session) Close()                              {}
func (*Session) Print(context.Context, string) error { return nil }

type sessionKey struct{}

type Span struct{}

func (Span) SetAttribute(string, any) {}
func (Span) End()                     {}

type Tracer struct{}

func (Tracer) Start(ctx context.Context, _ string) (context.Context, Span) { return ctx, Span{} }

var tracer Tracer

var errCardDeclined = errors.New("card declined")

var (
	digest      func(ctx context.Context, to string) error
	send        func(ctx context.Context, to, text string) error
	resize      func(ctx context.Context, image string, width int) error
	openStore   func() *Store
	subscribe   func(ctx context.Context, feed string) (<-chan Price, error)
	record      func(Price)
	export      func(Row)
	mergeFile   func(ctx context.Context, file string) error
	pay         func(ctx context.Context, order Order) error
	report      func(ctx context.Context, task, id string, err error, stack []byte)
	openSession func(ctx context.Context) (*Session, error)
	importRow   func(ctx context.Context, source string, row int) (more bool, err error)
	signUp      func(ctx context.Context, client *redtask.Client, address string) error
)

var saveCustomer func(ctx context.Context, name, mail string) error
