package dev.batchllm.client;

import com.google.protobuf.CodedOutputStream;
import dev.batchllm.v1.WorkItem;

/** What a frame may hold, what a message may weigh in bytes, and how much may be unconfirmed. */
record Limits(
    int frameItems,
    long frameBytes,
    long maxMessageBytes,
    int unconfirmedItems,
    long unconfirmedBytes) {

  // A message inside another costs one byte of tag and at most five of length.
  private static final int NESTING_BYTES = 1 + CodedOutputStream.computeUInt32SizeNoTag(-1);

  /** What a frame weighs without items: an item lies in WorkItems, which lies in the request. */
  static final int FRAME_OVERHEAD = NESTING_BYTES;

  Limits {
    atLeastOne("frameItems", frameItems);
    atLeastOne("frameBytes", frameBytes);
    atLeastOne("maxMessageBytes", maxMessageBytes);
    atLeastOne("unconfirmedItems", unconfirmedItems);
    atLeastOne("unconfirmedBytes", unconfirmedBytes);
  }

  private static void atLeastOne(String name, long value) {
    if (value < 1) {
      throw new IllegalArgumentException(name + " must be at least 1, not " + value);
    }
  }

  /** Clamps to what the server takes; 0: it did not say. */
  Limits within(long serverBytes) {
    long largest = serverBytes > 0 ? Math.min(maxMessageBytes, serverBytes) : maxMessageBytes;
    return new Limits(
        frameItems, Math.min(frameBytes, largest), largest, unconfirmedItems, unconfirmedBytes);
  }

  /**
   * Says what an item costs in a frame, in bytes.
   *
   * @throws MessageTooLargeException a frame of this item alone would exceed the limit
   * @throws IllegalArgumentException a text of it is no valid Unicode
   */
  long cost(WorkItem item) {
    checkText(item, "itemId", item.getItemId());
    checkText(item, "prompt", item.getPrompt());
    checkText(item, "strategy", item.getStrategy());
    long cost = (long) item.getSerializedSize() + NESTING_BYTES;
    if (cost + FRAME_OVERHEAD > maxMessageBytes) {
      throw new MessageTooLargeException(item.getItemId(), cost + FRAME_OVERHEAD, maxMessageBytes);
    }
    return cost;
  }

  private static void checkText(WorkItem item, String field, String text) {
    int lone = Checks.loneSurrogate(text);
    if (lone >= 0) {
      throw new IllegalArgumentException(
          "an item's %s must be valid Unicode: it has a lone surrogate at %d (item \"%s\")"
              .formatted(field, lone, item.getItemId()));
    }
  }
}
