package redtask_test

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/redtask/redtask"
)

// statements is a registry with a task that others wait for.
func statements() *redtask.Registry {
	registry := redtask.NewRegistry()
	registry.Register("billing/statement", redtask.FuncOut(func(_ context.Context, amounts []int) (Statement, error) {
		if len(amounts) == 0 {
			return Statement{}, redtask.Failf("nothing was bought")
		}
		total := 0
		for _, amount := range amounts {
			total += amount
		}
		return Statement{Total: total}, nil
	}))
	return registry
}

type Statement struct{ Total int }

func ExampleAwait() {
	client, stop := startRunner(statements())
	defer stop()

	for _, amounts := range [][]int{{5, 7}, {}} {
		id := must(client.Start(ctx, "billing/statement", amounts))
		statement, err := redtask.Await[Statement](ctx, client, id)
		var end *redtask.EndError
		switch {
		case errors.As(err, &end):
			fmt.Println(end.Record.State, end.Record.Error)
		case err != nil:
			panic(err)
		default:
			fmt.Println(statement.Total)
		}
	}
	// Output:
	// 12
	// ERROR nothing was bought
}

func ExampleOutput() {
	client, stop := startRunner(statements())
	defer stop()

	id := must(client.Start(ctx, "billing/statement", []int{1, 2}))
	record := must(client.Wait(ctx, id))
	statement := must(redtask.Output[Statement](record))
	fmt.Println(record.Task, statement.Total)
	// Output: billing/statement 3
}

func ExampleClient_WaitMany() {
	client, stop := startRunner(statements())
	defer stop()

	ids := must(client.StartMany(ctx, []redtask.StartRequest{
		{Task: "billing/statement", Data: []int{5, 7}},
		{Task: "billing/statement"},
		{Task: "billing/statement", Data: []int{1}},
	}))
	for _, record := range must(client.WaitMany(ctx, ids)) { // in the order of the IDs
		fmt.Printf("%s %s%s\n", record.State, record.Output, record.Error)
	}
	// Output:
	// ENDED {"Total":12}
	// ERROR nothing was bought
	// ENDED {"Total":1}
}

func ExampleClient_WaitEach() {
	client, stop := startRunner(statements())
	defer stop()

	ids := must(client.StartMany(ctx, []redtask.StartRequest{
		{Task: "billing/statement", Data: []int{5, 7}},
		{Task: "billing/statement", Data: []int{1}},
	}))
	var totals []int
	for record, err := range client.WaitEach(ctx, ids) { // as they end
		check(err)
		totals = append(totals, must(redtask.Output[Statement](record)).Total)
	}
	fmt.Println(slices.Max(totals), "of", len(totals))
	// Output: 12 of 2
}
