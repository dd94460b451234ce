package dev.batchllm.examples;

import com.google.protobuf.Struct;
import com.google.protobuf.util.JsonFormat;
import dev.batchllm.client.BatchClient;
import dev.batchllm.client.BatchOptions;
import dev.batchllm.v1.WorkItem;
import dev.batchllm.v1.WorkItemResult;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.stream.Stream;

/** Labels tickets with the strategy {@code triage} of a sidecar. Usage: Triage TARGET TICKETS.jsonl */
public final class Triage {
  private Triage() {}

  /** Runs it; exits with 1 when an item failed. */
  public static void main(String[] arguments) throws IOException {
    Map<String, String> expected = new ConcurrentHashMap<>();
    long failed;
    int right = 0;
    try (var client = BatchClient.connect(arguments[0]);
        Stream<String> lines = Files.lines(Path.of(arguments[1]))) {
      client.waitUntilReady(Duration.ofSeconds(30));
      // Lines are read as the sidecar takes items.
      Stream<WorkItem> items = lines.map(line -> ticket(line, expected));
      try (var batch = client.processBatch(items, BatchOptions.strategy("triage"))) {
        for (WorkItemResult result : batch) {
          String id = result.getItemId();
          if (result.hasError()) {
            System.out.println(id + ": " + result.getError().getMessage());
            continue;
          }
          String label = result.getOutput().getText().strip();
          boolean asExpected = label.equals(expected.remove(id));
          right += asExpected ? 1 : 0;
          System.out.println(id + ": " + label + (asExpected ? "" : " (not as expected)"));
        }
        failed = batch.totals().getFailed();
        System.out.printf(
            "%d tickets, %d as expected, %d failed, %.1f%% of input tokens from the cache%n",
            batch.totals().getTotalItems(), right, failed, batch.totals().getCacheHitRate());
      }
    }
    if (failed > 0) {
      System.exit(1);
    }
  }

  private static WorkItem ticket(String line, Map<String, String> expected) {
    Struct.Builder ticket = Struct.newBuilder();
    try {
      JsonFormat.parser().merge(line, ticket);
    } catch (IOException malformed) {
      throw new UncheckedIOException(malformed);
    }
    String id = ticket.getFieldsOrThrow("id").getStringValue();
    expected.put(id, ticket.getFieldsOrThrow("label").getStringValue());
    String text = ticket.getFieldsOrThrow("text").getStringValue();
    return WorkItem.newBuilder()
        .setItemId(id)
        .setPrompt("Ticket: " + text + "\nLabel:")
        .build();
  }
}
