package dev.batchllm.client;

import dev.batchllm.v1.ProcessBatchRequest;
import dev.batchllm.v1.WorkItem;
import dev.batchllm.v1.WorkItems;
import java.util.ArrayDeque;

/**
 * Items on their way, in the order of their source: those that the server has not confirmed yet,
 * then those that wait for a frame.
 *
 * <p>Bounded by the limits: what waits is at most a frame, unless a new stream has put back what
 * was sent on the former.
 */
final class Window {
  private record Entry(WorkItem item, long cost) {}

  private final ArrayDeque<Entry> sent = new ArrayDeque<>();
  private final ArrayDeque<Entry> waiting = new ArrayDeque<>();
  private Limits limits;
  private long bytes;
  private long waitingBytes;
  private long confirmed;

  Window(Limits limits) {
    this.limits = limits;
  }

  Limits limits() {
    return limits;
  }

  void limits(Limits limits) {
    this.limits = limits;
  }

  /** Whether the server has confirmed all that was added. */
  boolean isEmpty() {
    return sent.isEmpty() && waiting.isEmpty();
  }

  boolean hasWaiting() {
    return !waiting.isEmpty();
  }

  /** Whether an item may be added; an empty window takes any. */
  boolean fits(long cost) {
    if (!waiting.isEmpty()
        && (waiting.size() >= limits.frameItems()
            || Limits.FRAME_OVERHEAD + waitingBytes + cost > limits.frameBytes())) {
      return false;
    }
    int held = waiting.size() + sent.size();
    return held == 0
        || (held < limits.unconfirmedItems() && bytes + cost <= limits.unconfirmedBytes());
  }

  /** Adds an item that fits. */
  void add(WorkItem item, long cost) {
    waiting.add(new Entry(item, cost));
    waitingBytes += cost;
    bytes += cost;
  }

  /**
   * Makes the next frame of what waits, one item at least; its items stay until they are confirmed.
   */
  ProcessBatchRequest take() {
    WorkItems.Builder items = WorkItems.newBuilder();
    long size = Limits.FRAME_OVERHEAD;
    do {
      Entry entry = waiting.remove();
      items.addItems(entry.item());
      size += entry.cost();
      waitingBytes -= entry.cost();
      sent.add(entry);
    } while (!waiting.isEmpty()
        && items.getItemsCount() < limits.frameItems()
        && size + waiting.peek().cost() <= limits.frameBytes());
    return ProcessBatchRequest.newBuilder().setItems(items).build();
  }

  /**
   * Lets go of the first {@code received} items of the present stream.
   *
   * @throws UnexpectedException so many were never sent
   */
  void confirm(long received) {
    if (received - confirmed > sent.size()) {
      throw Errors.brokenProtocol(
          "the server confirmed %d items of a stream that has %d"
              .formatted(received, confirmed + sent.size()));
    }
    for (; confirmed < received; confirmed++) {
      bytes -= sent.remove().cost();
    }
  }

  /** Begins a new stream: what was not confirmed is to be sent again. */
  void rewind() {
    while (!sent.isEmpty()) {
      Entry entry = sent.removeLast();
      waiting.addFirst(entry);
      waitingBytes += entry.cost();
    }
    confirmed = 0;
  }
}
