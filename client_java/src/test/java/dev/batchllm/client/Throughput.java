package dev.batchllm.client;

import dev.batchllm.v1.WorkItem;
import java.nio.file.Files;
import java.util.List;
import java.util.function.Supplier;
import java.util.stream.IntStream;
import java.util.stream.Stream;

/**
 * Items a second through one stream, results read: {@code make bench}. Figures of one run on one
 * machine.
 */
public final class Throughput {
  private static final int COUNT = 50_000;
  private static final String PROMPT =
      "a prompt of the length of a support ticket, more or less, so that frames have some weight: "
          + "x".repeat(60);

  private Throughput() {}

  /** Runs it. */
  public static void main(String[] arguments) throws Exception {
    try (Sidecar sidecar = new Sidecar(Files.createTempDirectory("batch-llm-bench"))) {
      for (String target : List.of(sidecar.target(), sidecar.unixTarget())) {
        try (var client = BatchClient.connect(target)) {
          List<WorkItem> list = items().toList();
          for (int run = 1; run <= 3; run++) { // the first warms up
            report(target, "list", run, () -> client.processBatch(list, echo()));
            report(target, "stream", run, () -> client.processBatch(items(), echo()));
          }
        }
      }
    }
  }

  private static BatchOptions echo() {
    return BatchOptions.strategy("echo");
  }

  private static Stream<WorkItem> items() {
    return IntStream.range(0, COUNT)
        .mapToObj(number -> WorkItem.newBuilder().setItemId("" + number).setPrompt(PROMPT).build());
  }

  private static void report(String target, String source, int run, Supplier<Batch> start) {
    long began = System.nanoTime();
    try (Batch batch = start.get()) {
      long results = batch.stream().count();
      double seconds = (System.nanoTime() - began) / 1e9;
      String kind = target.startsWith("unix:") ? "unix" : "tcp";
      System.out.printf(
          "%s %s run %d: %,d items in %.2f s, %,.0f items/s%n",
          kind, source, run, results, seconds, results / seconds);
    }
  }
}
