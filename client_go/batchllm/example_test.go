package batchllm_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"iter"
	"log"
	"os"
	"strings"

	"github.com/batch-llm/batch-llm/client_go/batchllm"
)

// Work that comes from a file, one line an item, under a name by which it can be run again.
func ExampleClient_ProcessBatchFrom() {
	client, err := batchllm.New(batchllm.DefaultTarget)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	lines := func(name string) iter.Seq2[batchllm.WorkItem, error] {
		return func(yield func(batchllm.WorkItem, error) bool) {
			file, err := os.Open(name)
			if err != nil {
				yield(batchllm.WorkItem{}, err)
				return
			}
			defer file.Close()
			scanner := bufio.NewScanner(file)
			for number := 1; scanner.Scan(); number++ {
				if !yield(batchllm.WorkItem{ItemID: fmt.Sprint(number), Prompt: scanner.Text()}, nil) {
					return
				}
			}
			if err := scanner.Err(); err != nil {
				yield(batchllm.WorkItem{}, err)
			}
		}
	}
	batch := client.ProcessBatchFrom(context.Background(), lines("prompts.txt"),
		batchllm.WithStrategy("triage"), batchllm.WithBatchID("nightly"))
	for result, err := range batch.Results() {
		if err != nil {
			log.Fatalf("run again WithResumeAfter(%d): %v", batch.LastSequence(), err)
		}
		if !result.OK() {
			fmt.Println(result.ItemID, result.Failure.Reason, result.Failure.Message)
			continue
		}
		fmt.Println(result.ItemID, strings.TrimSpace(result.Text))
	}
}

// One item, which runs once however often the call is made.
func ExampleClient_ProcessItem() {
	client, err := batchllm.New("unix:/run/batch-llm/batch-llm.sock")
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	item := batchllm.WorkItem{ItemID: "order-7", Prompt: "I was charged twice.", Strategy: "triage"}
	result, err := client.ProcessItem(context.Background(), item, batchllm.WithIdempotencyKey("order-7"))
	var failure *batchllm.Error
	switch {
	case errors.Is(err, batchllm.ErrUnavailable):
		log.Fatal("try again later: ", err)
	case errors.As(err, &failure) && failure.Reason == batchllm.ReasonStrategyNotFound:
		log.Fatal("known strategies: ", failure.Metadata["known"])
	case err != nil:
		log.Fatal(err)
	}
	fmt.Println(result.Text)
}
