package dev.batchllm.client;

import dev.batchllm.v1.WorkItem;
import java.util.Iterator;
import java.util.Objects;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;

/**
 * Sends a batch's items, on one stream after the other.
 *
 * <p>A thread of its own reads the source, since that may block between items: what is at hand goes
 * out meanwhile, by the executor. A collection does not block and goes out in full frames. The
 * window's bounds stop the reading when sending stalls.
 */
final class Outgoing {
  private final Source source;
  private final Executor executor;
  private final Window window;
  private final CompletableFuture<Void> over = new CompletableFuture<>();
  private StreamCall stream;
  private Thread reader;
  private Throwable failure;
  private boolean flowing; // the server has answered `opened` on the present stream
  private boolean halfClosed;
  private boolean read;
  private boolean stalled;
  private boolean flushing;

  Outgoing(Source source, Limits limits, Executor executor) {
    this.source = source;
    this.executor = executor;
    this.window = new Window(limits);
  }

  /**
   * Done when nothing more is to be sent: the batch has ended, was cancelled, or its source failed.
   */
  CompletableFuture<Void> over() {
    return over;
  }

  /** What the source threw; null: nothing. */
  synchronized Throwable failure() {
    return failure;
  }

  /** Whether the source has ended and the server holds all of it. */
  synchronized boolean isSettled() {
    return read && window.isEmpty();
  }

  /** Goes over to the next stream: what is not confirmed is to be sent again. */
  synchronized void attach(StreamCall next) {
    stream = next;
    flowing = false;
    halfClosed = false;
    window.rewind();
    if (failure != null) {
      next.cancel();
    }
  }

  /** Lets items flow on the present stream, within the server's message limit in bytes. */
  synchronized void begin(long serverBytes) {
    window.limits(window.limits().within(serverBytes));
    flowing = true;
    if (reader == null && !over.isDone()) {
      reader = new Thread(this::read, "batch-llm-source");
      reader.setDaemon(true);
      reader.start();
    }
    flush();
  }

  /** Lets go of the first {@code received} items of the present stream. */
  synchronized void confirm(long received) {
    window.confirm(received);
    notifyAll();
  }

  /**
   * Ends the reading; a source that blocks is interrupted, one that was not begun is closed. The
   * batch is over, its call ended or cancelled.
   */
  synchronized void stop() {
    if (over.complete(null)) {
      notifyAll();
      if (reader == null) {
        executor.execute(source.close());
      } else if (reader != Thread.currentThread()) {
        reader.interrupt();
      }
    }
  }

  /** Sends what is to be sent, as far as the stream takes it. */
  synchronized void flush() {
    flushing = false;
    // A half-close tells the server that all is well: so a source that failed, or was not read to
    // its end, has none.
    if (!flowing || over.isDone()) {
      return;
    }
    while (hasFrame() && stream.isReady()) {
      stream.send(window.take());
      notifyAll();
    }
    if (read && !window.hasWaiting() && !halfClosed) {
      halfClosed = true;
      stream.halfClose();
    }
  }

  private boolean hasFrame() {
    return window.hasWaiting() && (read || stalled || !source.inFullFrames());
  }

  private void read() {
    try {
      Iterator<WorkItem> items = source.items().get();
      while (items.hasNext()) {
        WorkItem item = Objects.requireNonNull(items.next(), "items must not be null");
        if (!add(item, limits().cost(item))) {
          return;
        }
      }
      end();
    } catch (Throwable thrown) { // whatever it is, the one who iterates gets it
      fail(thrown);
    } finally {
      source.close().run();
    }
  }

  private synchronized Limits limits() {
    return window.limits();
  }

  /** Waits for room; false: the batch is over. */
  private synchronized boolean add(WorkItem item, long cost) throws InterruptedException {
    while (!window.fits(cost) && !over.isDone()) {
      stalled = true;
      flush();
      if (!window.fits(cost)) {
        wait();
      }
    }
    stalled = false;
    if (over.isDone()) {
      return false;
    }
    window.add(item, cost);
    // Sent by another thread, so that what follows at once goes out with it. A stream that is not
    // ready will say so.
    if (!source.inFullFrames() && !flushing && flowing && stream.isReady()) {
      flushing = true;
      executor.execute(this::flush);
    }
    return true;
  }

  private synchronized void end() {
    read = true;
    flush();
  }

  private synchronized void fail(Throwable thrown) {
    if (!over.isDone()) {
      failure = thrown;
      stop();
      stream.cancel();
    }
  }
}
