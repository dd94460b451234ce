package dev.batchllm.client;

import dev.batchllm.v1.WorkItem;
import java.util.Collection;
import java.util.Iterator;
import java.util.function.Supplier;
import java.util.stream.Stream;

/**
 * Where a batch's items come from.
 *
 * @param items called once, by the thread that reads
 * @param inFullFrames it never blocks between items, so frames may wait until they are full
 * @param close called when no more is read
 */
record Source(Supplier<Iterator<WorkItem>> items, boolean inFullFrames, Runnable close) {
  static Source of(Iterable<WorkItem> items) {
    return new Source(items::iterator, items instanceof Collection, () -> {});
  }

  static Source of(Iterator<WorkItem> items) {
    return new Source(() -> items, false, () -> {});
  }

  static Source of(Stream<WorkItem> items) {
    return new Source(items::iterator, false, items::close);
  }
}
