package dev.batchllm.client;

import dev.batchllm.v1.BatchOpened;
import dev.batchllm.v1.BatchProgress;
import dev.batchllm.v1.BatchResult;
import dev.batchllm.v1.BatchServiceGrpc;
import dev.batchllm.v1.BatchState;
import dev.batchllm.v1.GetBatchRequest;
import dev.batchllm.v1.ProcessBatchResponse;
import dev.batchllm.v1.WorkItemResult;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.Iterator;
import java.util.NoSuchElementException;
import java.util.Optional;
import java.util.Queue;
import java.util.Spliterator;
import java.util.Spliterators;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;

/**
 * Results as they come: iterate over it, from one thread. Closing it early cancels the stream.
 *
 * <p>Items flow once the stream has opened, which {@link #opened()} and the first step of iteration
 * wait for. Iterating throws a {@link BatchLlmException} when the stream fails and cannot be
 * resumed, and what the source of the items threw when it does. A thread that is interrupted while
 * it waits gets a {@link CallCancelledException}, its interrupt flag set, and the stream is
 * cancelled.
 *
 * <p>Once it has opened, a connection that breaks or a sidecar that restarts is ridden out: the
 * batch is opened again, items that the sidecar had not confirmed are sent again, and results go on
 * after the last one handed out, without a gap or a repeat.
 */
public final class Batch implements Iterable<WorkItemResult>, AutoCloseable {
  private static final Duration SEAL_POLL = Duration.ofMillis(20);

  private final Connection connection;
  private final Outgoing outgoing;
  private final Incoming incoming;
  private final Retries retries;
  private final Iterator<WorkItemResult> results = new Results();
  private final Queue<WorkItemResult> ready = new ArrayDeque<>();
  private final Object lock = new Object();
  private Throwable failure;
  private boolean ended;
  private StreamCall stream;
  private boolean cancelled;

  Batch(Connection connection, Outgoing outgoing, Incoming incoming, Retries retries) {
    this.connection = connection;
    this.outgoing = outgoing;
    this.incoming = incoming;
    this.retries = retries;
    connection.opened(this);
    start();
  }

  /**
   * The results, each once: another iterator goes on where the last one stopped.
   *
   * @return waits in {@code hasNext()}; not for several threads at once
   */
  @Override
  public Iterator<WorkItemResult> iterator() {
    return results;
  }

  /**
   * The same results as a stream.
   *
   * @return sequential; what ends early leaves the batch open
   */
  public Stream<WorkItemResult> stream() {
    int facts = Spliterator.ORDERED | Spliterator.NONNULL;
    return StreamSupport.stream(Spliterators.spliteratorUnknownSize(results, facts), false);
  }

  /**
   * The batch's id: yours, or the one that this client made. Known from the start.
   *
   * @return what to give to {@link BatchOptions#withBatchId}, in another process as well
   */
  public String batchId() {
    return incoming.batchId();
  }

  /**
   * Sequence of the last result handed out.
   *
   * @return what to give to {@link BatchOptions#withResumeAfterSequence}; 0: none yet
   */
  public long lastSequence() {
    return incoming.lastSequence();
  }

  /**
   * What is in force; waits for the server's answer.
   *
   * @return the answer to the latest opening
   * @throws BatchLlmException the server refused
   */
  public BatchOpened opened() {
    while (incoming.opened() == null) {
      receive();
    }
    return incoming.opened();
  }

  /**
   * The latest report of the server.
   *
   * @return empty before the first
   */
  public Optional<BatchProgress> progress() {
    return Optional.ofNullable(incoming.progress());
  }

  /**
   * The totals, after the last result.
   *
   * @return what the server counted
   * @throws IllegalStateException the batch has not ended
   */
  public BatchResult totals() {
    BatchResult totals = incoming.totals();
    if (totals == null) {
      throw new IllegalStateException(
          "a batch's totals come at its end: iterate over all its results first");
    }
    return totals;
  }

  /**
   * Waits until the sidecar holds all items and knows that these are all, then ends the stream. The
   * batch goes on by itself. Results that were not handed out yet are passed over: {@link
   * BatchClient#resumeBatch} gives them again.
   *
   * @return how many items the sidecar holds of the batch
   * @throws IllegalStateException the batch was not opened with {@link BatchOptions#withDetach}
   */
  public long leave() {
    if (!incoming.isDetached()) {
      throw new IllegalStateException(
          "only a batch that was opened with withDetach(true) goes on by itself");
    }
    do {
      ready.clear();
    } while (!(outgoing.isSettled() && isSealed()) && receive());
    cancel();
    return incoming.held();
  }

  /**
   * Cancels the stream, from any thread; iterating then throws {@link CallCancelledException}. No
   * effect after the end.
   *
   * <p>The sidecar keeps the batch: items under way finish, others wait until the batch is opened
   * again. To end the batch itself, see {@link BatchClient#cancelBatch}.
   */
  public void cancel() {
    StreamCall current;
    synchronized (lock) {
      cancelled = true;
      current = stream;
    }
    // First: a half-close would tell the server that it has all items.
    if (current != null) {
      current.cancel();
    }
    outgoing.stop();
    connection.ended(this);
  }

  /** Cancels the stream unless it has ended. */
  @Override
  public void close() {
    cancel();
  }

  /** Waits for the next frame and keeps the results in it; false: the batch has ended. */
  private boolean receive() {
    if (failure != null) {
      throw Batch.<RuntimeException>asItIs(failure);
    }
    if (ended) {
      return false;
    }
    try {
      ProcessBatchResponse frame = nextFrame();
      if (frame == null) {
        ended = true;
        cancel();
        return false;
      }
      ready.addAll(incoming.take(frame));
      return true;
    } catch (Throwable thrown) {
      failure = thrown;
      cancel();
      throw Batch.<RuntimeException>asItIs(thrown);
    }
  }

  private ProcessBatchResponse nextFrame() throws Throwable {
    while (true) {
      ProcessBatchResponse frame = uninterrupted(stream::take);
      if (frame != null) {
        return frame;
      }
      StreamCall.End end = stream.end();
      if (end.status().isOk() || incoming.totals() != null) {
        incoming.checkComplete();
        return null;
      }
      if (outgoing.failure() != null) {
        throw outgoing.failure();
      }
      resume(connection.failure(end.status(), end.trailers()));
    }
  }

  /**
   * Opens the batch on a new stream, after a while. Throws {@code error} when it cannot be, or not
   * any more.
   */
  private void resume(BatchLlmException error) throws Throwable {
    if (isCancelled() || incoming.opened() == null) {
      throw error;
    }
    pause(retries.delay(incoming.explain(error)));
    if (outgoing.over().isDone()) {
      Throwable thrown = outgoing.failure();
      throw thrown == null ? Errors.cancelled(connection.target()) : thrown;
    }
    start();
  }

  private void start() {
    StreamCall next = connection.newStream(retries.timeout(), outgoing::flush);
    synchronized (lock) {
      if (cancelled) {
        throw Errors.cancelled(connection.target());
      }
      stream = next;
    }
    outgoing.attach(next);
    next.start(incoming.opening());
  }

  private boolean isCancelled() {
    synchronized (lock) {
      return cancelled;
    }
  }

  /**
   * Waits until the server has noticed the half-close; false: the connection broke, as receiving
   * will tell.
   */
  private boolean isSealed() {
    GetBatchRequest request = GetBatchRequest.newBuilder().setBatchId(batchId()).build();
    try {
      while (!outgoing.over().isDone()) {
        var answer =
            connection.await(
                connection.call(BatchServiceGrpc.getGetBatchMethod(), request, retries.timeout()));
        if (answer.getBatch().getState() != BatchState.BATCH_STATE_OPEN) {
          return true;
        }
        pause(SEAL_POLL);
      }
      return false;
    } catch (BatchLlmException error) {
      if (!Retries.isResumable(error) || Thread.currentThread().isInterrupted()) {
        throw error;
      }
      return false;
    }
  }

  private void pause(Duration wait) {
    CompletableFuture<Object> over =
        CompletableFuture.anyOf(outgoing.over(), connection.clock().after(wait));
    uninterrupted(over::get);
  }

  private interface Waiting<T> {
    T get() throws InterruptedException, ExecutionException;
  }

  private <T> T uninterrupted(Waiting<T> waiting) {
    try {
      return waiting.get();
    } catch (InterruptedException interrupt) {
      throw Errors.interrupted(connection.target(), interrupt);
    } catch (ExecutionException impossible) {
      throw new IllegalStateException(impossible);
    }
  }

  /** What the source threw may be checked, where its author has got round the compiler. */
  @SuppressWarnings("unchecked")
  private static <E extends Throwable> E asItIs(Throwable thrown) throws E {
    throw (E) thrown;
  }

  private final class Results implements Iterator<WorkItemResult> {
    @Override
    public boolean hasNext() {
      while (ready.isEmpty()) {
        if (!receive()) {
          return false;
        }
      }
      return true;
    }

    @Override
    public WorkItemResult next() {
      if (!hasNext()) {
        throw new NoSuchElementException("the batch has ended");
      }
      WorkItemResult result = ready.remove();
      incoming.handedOut(result);
      return result;
    }
  }
}
