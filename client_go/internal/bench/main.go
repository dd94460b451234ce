// Command bench measures items a second through a running sidecar:
//
//	bench [TARGET] [ITEMS]
//
// As the benches of all clients: one batch warms up, the next one counts; both are erased from the sidecar's journal.
// It prints {"items": …, "items_per_second": …}.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/batch-llm/batch-llm/client_go/batchllm"
)

func main() {
	log.SetFlags(0)
	target, count := "127.0.0.1:50051", 50_000
	if len(os.Args) > 1 {
		target = os.Args[1]
	}
	if len(os.Args) > 2 {
		var err error
		if count, err = strconv.Atoi(os.Args[2]); err != nil {
			log.Fatal(err)
		}
	}
	rate, err := measure(context.Background(), target, count)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("{\"items\": %d, \"items_per_second\": %.0f}\n", count, rate)
}

func measure(ctx context.Context, target string, count int) (rate float64, err error) {
	client, err := batchllm.New(target)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	strategy := &batchllm.StrategySpec{Name: "bench", Provider: "simulated"}
	if _, _, err := client.RegisterStrategy(ctx, strategy); err != nil {
		return 0, err
	}
	prompt := "a prompt of the length of a support ticket, more or less, so that frames have some weight: " +
		strings.Repeat("x", 60)
	items := make([]batchllm.WorkItem, count)
	for number := range items {
		items[number] = batchllm.WorkItem{ItemID: strconv.Itoa(number), Prompt: prompt}
	}
	for range 2 { // the first warms up
		start := time.Now()
		batch := client.ProcessBatch(ctx, slices.Values(items), batchllm.WithStrategy(strategy.Name))
		seen := 0
		for _, err := range batch.Results() {
			if err != nil {
				return 0, err
			}
			seen++
		}
		rate = float64(count) / time.Since(start).Seconds()
		if succeeded := batch.Totals().Succeeded; seen != count || succeeded != int64(count) {
			return 0, fmt.Errorf("%d results, %d succeeded, of %d items", seen, succeeded, count)
		}
		if err := client.DeleteBatch(ctx, batch.BatchID()); err != nil {
			return 0, err
		}
	}
	return rate, nil
}
