package dev.batchllm.client;

import io.grpc.Status;

/**
 * An item alone exceeds the message limit and was not sent.
 *
 * @serial exclude
 */
public final class MessageTooLargeException extends ResourceExhaustedException {
  private static final long serialVersionUID = 1L;

  private final String itemId;
  private final long size;
  private final long limit;

  MessageTooLargeException(String itemId, long size, long limit) {
    super(
        new Failure(
            "item '%s' has %,d bytes, more than the limit of %,d bytes for a message: shorten its prompt or context, or raise maxMessageBytes on both sides"
                .formatted(itemId, size, limit),
            Status.Code.RESOURCE_EXHAUSTED));
    this.itemId = itemId;
    this.size = size;
    this.limit = limit;
  }

  /**
   * The item.
   *
   * @return its id
   */
  public String itemId() {
    return itemId;
  }

  /**
   * What a message with this item alone weighs.
   *
   * @return bytes
   */
  public long size() {
    return size;
  }

  /**
   * What a message may weigh: the client's {@code maxMessageBytes} or the server's limit, whichever
   * is smaller.
   *
   * @return bytes
   */
  public long limit() {
    return limit;
  }
}
