package dev.batchllm.client;

import dev.batchllm.v1.StrategySpec;
import dev.batchllm.v1.WorkItem;
import java.util.List;
import java.util.stream.IntStream;

/**
 * Items a second through a running sidecar; arguments: {@code [TARGET] [ITEMS]}.
 *
 * <p>As the benches of all clients: one batch warms up, the next one counts; both are erased from
 * the sidecar's journal. Prints {@code {"items": …, "items_per_second": …}}.
 */
public final class Throughput {
  private static final StrategySpec STRATEGY =
      StrategySpec.newBuilder().setName("bench").setProvider("simulated").build();
  private static final String PROMPT =
      "a prompt of the length of a support ticket, more or less, so that frames have some weight: "
          + "x".repeat(60);

  private Throughput() {}

  /** Runs it. */
  public static void main(String[] arguments) {
    String target = arguments.length > 0 ? arguments[0] : "127.0.0.1:50051";
    int count = arguments.length > 1 ? Integer.parseInt(arguments[1]) : 50_000;
    List<WorkItem> items =
        IntStream.range(0, count)
            .mapToObj(
                number -> WorkItem.newBuilder().setItemId("" + number).setPrompt(PROMPT).build())
            .toList();
    try (var client = BatchClient.connect(target)) {
      client.registerStrategy(STRATEGY);
      run(client, items); // warms up
      double seconds = run(client, items);
      long rate = Math.round(count / seconds);
      System.out.println("{\"items\": " + count + ", \"items_per_second\": " + rate + "}");
    }
  }

  /** Seconds from the call to the end of the results. */
  private static double run(BatchClient client, List<WorkItem> items) {
    long began = System.nanoTime();
    try (Batch batch = client.processBatch(items, BatchOptions.strategy(STRATEGY.getName()))) {
      long seen = batch.stream().count();
      double seconds = (System.nanoTime() - began) / 1e9;
      long succeeded = batch.totals().getSucceeded();
      if (seen != items.size() || succeeded != items.size()) {
        throw new AssertionError(
            seen + " results, " + succeeded + " succeeded, of " + items.size() + " items");
      }
      client.deleteBatch(batch.batchId());
      return seconds;
    }
  }
}
