package redtasktest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redtask/redtask"
	"github.com/redtask/redtask/redtasktest"
)

type person struct {
	Name string `json:"name"`
}

func greet(ctx context.Context, p person) (string, error) {
	return "hello " + p.Name, redtask.FromContext(ctx).Emit("greeting", p.Name)
}

type welcome struct {
	To string `json:"to"`
}

// signUp is code under test that starts a task.
func signUp(ctx context.Context, client *redtask.Client, address string) error {
	_, err := client.Start(ctx, "app/welcome", welcome{To: address})
	return err
}

func TestGreet(t *testing.T) {
	t.Parallel()
	registry := redtask.NewRegistry()
	registry.Register("app/greet", redtask.FuncOut(greet))
	h := redtasktest.New(t, registry)

	result := h.Run("app/greet", person{Name: "Ann"}).RequireState(redtask.StateEnded)
	require.Equal(t, "hello Ann", redtasktest.Output[string](result))
	require.Equal(t, []string{"running", "greeting", "ended"}, result.Events.Names())
}

func TestSignUp(t *testing.T) {
	t.Parallel()
	h := redtasktest.NewWith(t, nil, redtasktest.Options{Idle: true})
	require.NoError(t, signUp(t.Context(), h.Client, "ann@example.com"))
	h.RequireStarted("app/welcome", welcome{To: "ann@example.com"})
	h.RequireNotStarted("app/invoice")
}

// Inside of a test function, t is its own *testing.T.
func ExampleNew() {
	t := newT() // in place of a test's
	defer t.end()

	registry := redtask.NewRegistry()
	registry.Register("app/greet", redtask.FuncOut(greet))
	h := redtasktest.New(t, registry)

	result := h.Run("app/greet", person{Name: "Ann"})
	fmt.Println(result.Record.State, redtasktest.Output[string](result), result.Events.Names())
	// Output: ENDED hello Ann [running greeting ended]
}

// A task that runs until it is stopped.
func ExampleHarness_Watch() {
	t := newT() // in place of a test's
	defer t.end()

	registry := redtask.NewRegistry()
	registry.Register("app/follow", redtask.Func(func(ctx context.Context, feed string) error {
		if err := redtask.FromContext(ctx).Emit("connected", feed); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}))
	h := redtasktest.New(t, registry)

	id, err := h.Client.Start(t.Context(), "app/follow", "news")
	if err != nil {
		t.Fatalf("%v", err)
	}
	connected := h.Watch(id).Next("connected")
	fmt.Println(string(connected.Data))
	if err := h.Client.Stop(t.Context(), id); err != nil {
		t.Fatalf("%v", err)
	}
	fmt.Println(h.Collect(id).Record.State)
	// Output:
	// "news"
	// STOPPED
}

// Code under test that starts tasks, without running them.
func ExampleHarness_RequireStarted() {
	t := newT() // in place of a test's
	defer t.end()

	h := redtasktest.NewWith(t, nil, redtasktest.Options{Idle: true})
	if err := signUp(t.Context(), h.Client, "ann@example.com"); err != nil {
		t.Fatalf("%v", err)
	}
	record := h.RequireStarted("app/welcome", welcome{To: "ann@example.com"})
	fmt.Println(record.State, string(record.Data))
	// Output: WAIT {"to":"ann@example.com"}
}

// A day and all retries pass in no time.
func ExampleHarness_Finish() {
	t := newT() // in place of a test's
	defer t.end()

	runs := 0
	registry := redtask.NewRegistry()
	registry.RegisterWith("mail/remind", redtask.Func(func(context.Context, string) error {
		if runs++; runs == 1 {
			return errors.New("the mail server is away")
		}
		return nil
	}), redtask.TaskOptions{Retry: &redtask.Retry{Attempts: 3, Backoff: redtask.Constant(time.Hour)}})
	h := redtasktest.NewWith(t, registry, redtasktest.Options{Clock: time.Date(2026, 11, 26, 9, 0, 0, 0, time.UTC)})
	id, err := h.Client.StartWith(t.Context(), "mail/remind", "ada@example.com", redtask.StartOptions{In: 24 * time.Hour})
	require.NoError(t, err)
	result := h.Finish(id).RequireState(redtask.StateEnded).RequireRetries(1)
	fmt.Println(result.Record.EndedAt.UTC().Format(time.DateTime))
	// Output: 2026-11-27 10:00:00
}
