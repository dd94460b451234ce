// Package batchllm is a thin client of the batch-llm sidecar: open one stream, send work items, get results as they
// finish.
//
//	client, err := batchllm.New("127.0.0.1:50051") // or "unix:/run/batch-llm/batch-llm.sock"
//	if err != nil {
//		return err
//	}
//	defer client.Close()
//
//	batch := client.ProcessBatch(ctx, slices.Values(items), batchllm.WithStrategy("triage"))
//	for result, err := range batch.Results() {
//		if err != nil {
//			return err
//		}
//		fmt.Println(result.ItemID, result.Text)
//	}
//	fmt.Println(batch.Totals().Succeeded)
//
// Items are read as the sidecar takes them, never all at once. A failed item is a [Result] with a Failure, never an
// error. A connection that breaks or a sidecar that restarts is ridden out, as far as the client's [ResumePolicy] goes.
//
// What a call returns as its error is an [*Error] with a code, a reason and facts, for [errors.As]; the Err… values are
// for [errors.Is]. What cannot be sent at all, such as text that is no UTF-8, is refused with a plain error.
package batchllm
