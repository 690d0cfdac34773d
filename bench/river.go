package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

const (
	riverDatabase = "RIVER_DATABASE_URL" // names a Postgres database to throw away: each run leaves a schema in it
	riverLock     = 0x7269766572         // the advisory lock of who makes the schema

	// riverConnections leaves several processes room below Postgres' default limit of 100.
	riverConnections = 32
)

// riverSystem is River on a Postgres schema of this run's own. Of Redis it takes only the server's run_id, which names the schema, so that
// all processes of a run share one and no other run does.
type riverSystem struct {
	pool   *pgxpool.Pool
	schema string
	client *river.Client[pgx.Tx]
}

// riverArguments is a payload as River wants one.
type riverArguments struct{ payload }

func (riverArguments) Kind() string { return taskName }

// riverWorker works tasks with a handler.
type riverWorker struct {
	river.WorkerDefaults[riverArguments]
	handle handler
}

func (w *riverWorker) Work(ctx context.Context, job *river.Job[riverArguments]) error {
	return w.handle(ctx, json.RawMessage(job.EncodedArgs))
}

func riverEntrant() entrant {
	return entrant{
		name: "river",
		about: "riverqueue/river v0.51.2 on Postgres, not Redis; FetchCooldown 1 ms, its least (the default of 100 ms bounds it to 10 fetches a " +
			"second), else default settings (finished jobs stay for a day); in bulk with InsertManyFast",
		missing: func() string {
			if os.Getenv(riverDatabase) == "" {
				return riverDatabase + " is not set: name a Postgres database to throw away, as postgres://user:password@127.0.0.1:5432/bench"
			}
			return ""
		},
		open: func(ctx context.Context, addr string, concurrency int) (system, error) {
			return openRiver(ctx, addr, concurrency)
		},
	}
}

func openRiver(ctx context.Context, addr string, concurrency int) (*riverSystem, error) {
	schema, err := riverSchema(ctx, addr)
	if err != nil {
		return nil, err
	}
	config, err := pgxpool.ParseConfig(os.Getenv(riverDatabase))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", riverDatabase, err)
	}
	config.MaxConns = int32(min(poolSize(concurrency), riverConnections))
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	s := &riverSystem{pool: pool, schema: schema}
	if err := s.prepare(ctx); err != nil {
		pool.Close()
		return nil, err
	}
	return s, nil
}

func riverSchema(ctx context.Context, addr string) (string, error) {
	probe := newProbe(addr)
	defer probe.Close()
	info, err := probe.InfoMap(ctx, "server").Result()
	if err != nil {
		return "", err
	}
	return "bench_" + info["Server"]["run_id"][:16], nil
}

// prepare makes the schema and its tables, unless another process of this run has, and the client that starts tasks.
func (s *riverSystem) prepare(ctx context.Context) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", riverLock); err != nil {
		return err
	}
	defer func() { _, _ = conn.Exec(ctx, "SELECT pg_advisory_unlock($1)", riverLock) }() // a lost connection has lost its lock
	if _, err := conn.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+s.schema); err != nil {
		return err
	}
	migrator, err := rivermigrate.New(riverpgxv5.New(s.pool), &rivermigrate.Config{Schema: s.schema, Logger: riverLogger()})
	if err != nil {
		return err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return fmt.Errorf("make River's tables: %w", err)
	}
	s.client, err = river.NewClient(riverpgxv5.New(s.pool), &river.Config{Schema: s.schema, Logger: riverLogger()})
	return err
}

func riverLogger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
}

func (s *riverSystem) start(ctx context.Context, data payload) error {
	_, err := s.client.Insert(ctx, riverArguments{data}, nil)
	return err
}

func (s *riverSystem) startMany(ctx context.Context, data []payload) error {
	jobs := make([]river.InsertManyParams, len(data))
	for i := range data {
		jobs[i].Args = riverArguments{data[i]}
	}
	_, err := s.client.InsertManyFast(ctx, jobs)
	return err
}

func (s *riverSystem) startAt(ctx context.Context, at time.Time, data payload) error {
	_, err := s.client.Insert(ctx, riverArguments{data}, &river.InsertOpts{ScheduledAt: at})
	return err
}

func (s *riverSystem) work(ctx context.Context, concurrency int, handle handler) (func(), error) {
	workers := river.NewWorkers()
	river.AddWorker(workers, &riverWorker{handle: handle})
	client, err := river.NewClient(riverpgxv5.New(s.pool), &river.Config{
		FetchCooldown: river.FetchCooldownMin,
		Logger:        riverLogger(),
		Queues:        map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: concurrency}},
		Schema:        s.schema,
		Workers:       workers,
	})
	if err != nil {
		return nil, err
	}
	if err := client.Start(context.WithoutCancel(ctx)); err != nil {
		return nil, fmt.Errorf("start River's client: %w", err)
	}
	return stopAfter(ctx, func() { _ = client.StopAndCancel(context.WithoutCancel(ctx)) }), nil // fails only as its context ends
}

// finished counts the completed jobs, by an index.
func (s *riverSystem) finished(ctx context.Context) (int, error) {
	var count int
	err := s.pool.QueryRow(ctx, "SELECT count(*) FROM "+s.schema+".river_job WHERE state = 'completed' AND finalized_at IS NOT NULL").Scan(&count)
	return count, err
}

func (s *riverSystem) close() error {
	s.pool.Close()
	return nil
}
