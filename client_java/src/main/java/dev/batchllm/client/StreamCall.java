package dev.batchllm.client;

import dev.batchllm.v1.ProcessBatchRequest;
import dev.batchllm.v1.ProcessBatchResponse;
import io.grpc.ClientCall;
import io.grpc.Metadata;
import io.grpc.Status;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;

/**
 * One call of ProcessBatch: sends from any thread, is read by one, and holds at most {@link
 * #PREFETCH} frames.
 */
final class StreamCall {
  /**
   * Frames that the server may be ahead of the reader. One would have each wait for the one before.
   */
  private static final int PREFETCH = 2;

  /** How the call ended. */
  record End(Status status, Metadata trailers) {}

  private final ClientCall<ProcessBatchRequest, ProcessBatchResponse> call;
  private final Runnable onReady;
  private final BlockingQueue<Object> incoming = new LinkedBlockingQueue<>();
  private End end;
  private boolean started;
  private boolean over; // ClientCall takes no messages after cancel() and no start() either

  /** Wraps a call that was not started; {@code onReady} is told when it takes frames again. */
  StreamCall(ClientCall<ProcessBatchRequest, ProcessBatchResponse> call, Runnable onReady) {
    this.call = call;
    this.onReady = onReady;
  }

  synchronized void start(ProcessBatchRequest opening) {
    if (over) {
      incoming.add(new End(Status.CANCELLED, new Metadata()));
      return;
    }
    started = true;
    call.start(new Listener(), new Metadata());
    call.request(PREFETCH);
    call.sendMessage(opening);
  }

  /** Whether a frame would be sent soon; if not, {@code onReady} will be told. */
  synchronized boolean isReady() {
    return started && !over && call.isReady();
  }

  synchronized void send(ProcessBatchRequest frame) {
    if (!over) {
      call.sendMessage(frame);
    }
  }

  synchronized void halfClose() {
    if (!over) {
      call.halfClose();
    }
  }

  synchronized void cancel() {
    if (!over) {
      over = true;
      call.cancel("cancelled by the client", null);
    }
  }

  /** Waits for the next frame; null: the call has ended, see {@link #end()}. */
  ProcessBatchResponse take() throws InterruptedException {
    Object next = incoming.take();
    if (next instanceof End last) {
      end = last;
      return null;
    }
    request();
    return (ProcessBatchResponse) next;
  }

  // After cancel() the network's thread may be gone, which would be thrown here.
  private synchronized void request() {
    if (!over) {
      call.request(1);
    }
  }

  /** How the call ended, after {@link #take()} has said so. */
  End end() {
    return end;
  }

  private final class Listener extends ClientCall.Listener<ProcessBatchResponse> {
    @Override
    public void onMessage(ProcessBatchResponse frame) {
      incoming.add(frame);
    }

    @Override
    public void onReady() {
      onReady.run();
    }

    @Override
    public void onClose(Status status, Metadata trailers) {
      incoming.add(new End(status, trailers));
    }
  }
}
