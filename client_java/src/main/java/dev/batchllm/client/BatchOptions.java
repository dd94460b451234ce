package dev.batchllm.client;

import dev.batchllm.v1.BatchProgress;
import dev.batchllm.v1.OpenBatch;
import dev.batchllm.v1.ResultOrder;
import java.time.Duration;
import java.util.Map;
import java.util.Objects;
import java.util.UUID;
import java.util.function.Consumer;

/** How a batch is run; immutable. Start from {@link #strategy} or {@link #defaults()}. */
public final class BatchOptions {
  private final OpenBatch open;
  private final boolean resume;
  private final Duration timeout;
  private final Consumer<BatchProgress> onProgress;

  private BatchOptions(
      OpenBatch open, boolean resume, Duration timeout, Consumer<BatchProgress> onProgress) {
    this.open = open;
    this.resume = resume;
    this.timeout = timeout;
    this.onProgress = onProgress;
  }

  /**
   * Options without a strategy: each item names its own.
   *
   * @return options
   */
  public static BatchOptions defaults() {
    return new BatchOptions(OpenBatch.getDefaultInstance(), true, null, progress -> {});
  }

  /**
   * Options with the strategy of items that name none.
   *
   * @param name the strategy's
   * @return options
   */
  public static BatchOptions strategy(String name) {
    BatchOptions defaults = defaults();
    return defaults.with(defaults.open.toBuilder().setStrategy(Checks.text("strategy", name)));
  }

  /**
   * Sets your name for the batch. Default: the client makes one, see {@link Batch#batchId()}.
   *
   * @param batchId at most 256 bytes. Of a batch that exists: it goes on; items sent again are
   *     recognised by id and content
   * @return other options
   */
  public BatchOptions withBatchId(String batchId) {
    return with(open.toBuilder().setBatchId(Checks.text("batchId", batchId)));
  }

  /**
   * Bounds how many of the batch's items are in flight. Default: the strategies' own limits.
   *
   * @param items 0: those limits
   * @return other options
   */
  public BatchOptions withMaxConcurrency(int items) {
    return with(open.toBuilder().setMaxConcurrency(items));
  }

  /**
   * Sets the order of results. Default: that of the batch where it exists, else as they finish.
   *
   * @param order the order
   * @return other options
   */
  public BatchOptions withResultOrder(ResultOrder order) {
    return with(open.toBuilder().setResultOrder(Objects.requireNonNull(order, "order")));
  }

  /**
   * Sets free text for the sidecar's logs.
   *
   * @param labels at most 32 of 256 bytes
   * @return other options
   */
  public BatchOptions withLabels(Map<String, String> labels) {
    Objects.requireNonNull(labels, "labels").forEach(BatchOptions::checkLabel);
    return with(open.toBuilder().clearLabels().putAllLabels(labels));
  }

  /**
   * Of a batch that exists: results up to this one were received; those after it come again, {@code
   * replayed}. Needs the batch's id.
   *
   * @param sequence default 0: all of them
   * @return other options
   */
  public BatchOptions withResumeAfterSequence(long sequence) {
    return with(open.toBuilder().setResumeAfterSequence(sequence));
  }

  /**
   * Says whether what the sidecar has accepted goes on when this client goes away; see also {@link
   * Batch#leave()}.
   *
   * @param detach default false
   * @return other options
   */
  public BatchOptions withDetach(boolean detach) {
    return with(open.toBuilder().setDetach(detach));
  }

  /**
   * Says whether broken connections are ridden out, as far as the client's {@link ResumePolicy}
   * goes.
   *
   * @param resume default true; false: the first one ends the stream with its error
   * @return other options
   */
  public BatchOptions withResume(boolean resume) {
    return new BatchOptions(open, resume, timeout, onProgress);
  }

  /**
   * Sets the deadline of the whole batch, broken connections included. Default: none.
   *
   * @param timeout the deadline
   * @return other options
   * @throws IllegalArgumentException it is negative
   */
  public BatchOptions withTimeout(Duration timeout) {
    return new BatchOptions(open, resume, Checks.timeout(timeout), onProgress);
  }

  /**
   * Sets what is called with each report of the server, by the thread that iterates.
   *
   * @param onProgress what it throws ends the batch
   * @return other options
   */
  public BatchOptions withOnProgress(Consumer<BatchProgress> onProgress) {
    return new BatchOptions(
        open, resume, timeout, Objects.requireNonNull(onProgress, "onProgress"));
  }

  /**
   * What the first frame says, with an id of our own where none is given: without one it cannot be
   * resumed.
   */
  OpenBatch opening() {
    if (!open.getBatchId().isEmpty()) {
      return open;
    }
    if (open.getResumeAfterSequence() != 0) {
      throw new IllegalArgumentException(
          "withResumeAfterSequence needs withBatchId: the id of the batch to resume");
    }
    return open.toBuilder().setBatchId("batch-" + UUID.randomUUID()).build();
  }

  boolean resume() {
    return resume;
  }

  Duration timeout() {
    return timeout;
  }

  Consumer<BatchProgress> onProgress() {
    return onProgress;
  }

  private static void checkLabel(String name, String text) {
    Objects.requireNonNull(name, "a label's name");
    Objects.requireNonNull(text, () -> "the label " + name);
  }

  private BatchOptions with(OpenBatch.Builder open) {
    return new BatchOptions(open.build(), resume, timeout, onProgress);
  }
}
