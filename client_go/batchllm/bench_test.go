package batchllm

import (
	"slices"
	"testing"
	"time"
)

// BenchmarkBatch measures one batch of 50,000 items through a real sidecar, by the simulated provider without latency.
func BenchmarkBatch(b *testing.B) {
	const count = 50_000
	client, _ := echoing(b, "127.0.0.1:0")
	work := items(count)
	var spent time.Duration
	for b.Loop() {
		start := time.Now()
		results, err := collect(client.ProcessBatch(b.Context(), slices.Values(work), WithStrategy("echo")))
		if err != nil || len(results) != count {
			b.Fatal(len(results), err)
		}
		spent += time.Since(start)
	}
	b.ReportMetric(float64(count*b.N)/spent.Seconds(), "items/s")
}

// BenchmarkItem measures single calls, one after another.
func BenchmarkItem(b *testing.B) {
	client, _ := echoing(b, "127.0.0.1:0")
	item := WorkItem{ItemID: "1", Prompt: "p", Strategy: "echo"}
	for b.Loop() {
		if result, err := client.ProcessItem(b.Context(), item); err != nil || !result.OK() {
			b.Fatal(result, err)
		}
	}
}
