// This program labels support tickets through a sidecar that has the strategy `triage`, and counts how many labels
// are right.
//
// Start the sidecar of ../triage first: batch-llm-sidecar serve --config ../triage/sidecar.toml --state-dir ../../.run/state
package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"log"
	"os"
	"os/signal"
	"strings"

	"github.com/batch-llm/batch-llm/client_go/batchllm"
)

type ticket struct {
	ID    string `json:"id"`
	Text  string `json:"text"`
	Label string `json:"label"`
}

func main() {
	log.SetFlags(0)
	path := "../triage/tickets.jsonl"
	if len(os.Args) > 1 {
		path = os.Args[1]
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := label(ctx, cmp.Or(os.Getenv("BATCH_LLM_TARGET"), batchllm.DefaultTarget), path); err != nil {
		log.Fatal(err)
	}
}

func label(ctx context.Context, target, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	client, err := batchllm.New(target)
	if err != nil {
		return err
	}
	defer client.Close()

	right := 0
	batch := client.ProcessBatchFrom(ctx, tickets(file), batchllm.WithStrategy("triage"))
	for result, err := range batch.Results() {
		if err != nil {
			return err
		}
		if !result.OK() {
			fmt.Printf("%s  %s: %s\n", result.ItemID, result.Failure.Reason, result.Failure.Message)
			continue
		}
		given, expected := strings.TrimSpace(result.Text), string(result.Context)
		if given == expected {
			right++
		}
		fmt.Printf("%s  %s\n", result.ItemID, given)
	}
	totals := batch.Totals()
	fmt.Printf("%d of %d labels are right; %.0f %% of the input came from the cache\n",
		right, totals.TotalItems, totals.CacheHitRate)
	return nil
}

// tickets reads work from JSON lines, one at a time. The label that is expected goes along and comes back.
func tickets(lines io.Reader) iter.Seq2[batchllm.WorkItem, error] {
	return func(yield func(batchllm.WorkItem, error) bool) {
		scanner := bufio.NewScanner(lines)
		for scanner.Scan() {
			var row ticket
			if err := json.Unmarshal(scanner.Bytes(), &row); err != nil {
				yield(batchllm.WorkItem{}, err)
				return
			}
			item := batchllm.WorkItem{
				ItemID:  row.ID,
				Prompt:  "Ticket: " + row.Text + "\nLabel:",
				Context: []byte(row.Label),
			}
			if !yield(item, nil) {
				return
			}
		}
		if err := scanner.Err(); err != nil {
			yield(batchllm.WorkItem{}, err)
		}
	}
}
