package batchllm

import "testing"

// BenchmarkItem measures single calls, one after another. For batches there is internal/bench.
func BenchmarkItem(b *testing.B) {
	client, _ := echoing(b, "127.0.0.1:0")
	item := WorkItem{ItemID: "1", Prompt: "p", Strategy: "echo"}
	for b.Loop() {
		if result, err := client.ProcessItem(b.Context(), item); err != nil || !result.OK() {
			b.Fatal(result, err)
		}
	}
}
