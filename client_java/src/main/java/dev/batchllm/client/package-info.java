/**
 * Thin client of the batch-llm sidecar: open one stream, send work items, get results as they
 * finish.
 *
 * <pre>{@code
 * try (var client = BatchClient.connect("127.0.0.1:50051");
 *     var batch = client.processBatch(items, BatchOptions.strategy("triage"))) {
 *   for (WorkItemResult result : batch) {
 *     System.out.println(result.getItemId() + " " + result.getOutput().getText());
 *   }
 *   System.out.println(batch.totals());
 * }
 * }</pre>
 *
 * <p>Items, results and all other messages are the generated ones of {@code dev.batchllm.v1}. Start
 * with {@link dev.batchllm.client.BatchClient}.
 */
package dev.batchllm.client;
