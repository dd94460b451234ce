package dev.batchllm.client;

import io.grpc.Status;

/**
 * The sidecar no longer holds items that it had accepted, so the batch cannot be resumed.
 *
 * @serial exclude
 */
public final class BatchLostException extends BatchLlmException {
  private static final long serialVersionUID = 1L;

  private final String batchId;
  private final long held;
  private final long lastSequence;
  private final boolean durable;

  BatchLostException(String batchId, long held, long lastSequence, boolean durable) {
    super(
        new Failure(
            "the sidecar no longer holds the %,d items that it had accepted of batch '%s': %s; results came up to sequence %d: send the items without one as a new batch"
                .formatted(
                    held,
                    batchId,
                    durable
                        ? "the batch was deleted, or a sidecar with another journal answers now"
                        : "it was restarted and its journal was in memory (journal.url ="
                            + " \"memory\")",
                    lastSequence),
            Status.Code.DATA_LOSS));
    this.batchId = batchId;
    this.held = held;
    this.lastSequence = lastSequence;
    this.durable = durable;
  }

  /**
   * The batch.
   *
   * @return its id
   */
  public String batchId() {
    return batchId;
  }

  /**
   * How many items the sidecar held.
   *
   * @return items
   */
  public long held() {
    return held;
  }

  /**
   * Results up to this one were handed out.
   *
   * @return a sequence; 0: none
   */
  public long lastSequence() {
    return lastSequence;
  }

  /**
   * Whether the sidecar's journal outlives it.
   *
   * @return false: it was in memory and ended with the sidecar; true: the batch or the journal was
   *     deleted
   */
  public boolean durable() {
    return durable;
  }
}
