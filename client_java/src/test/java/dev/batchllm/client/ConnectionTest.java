package dev.batchllm.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;

import dev.batchllm.v1.ProcessBatchRequest;
import dev.batchllm.v1.ProcessBatchResponse;
import io.grpc.ClientCall;
import io.grpc.Metadata;
import io.grpc.Status;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;

/** What a close meets that another thread began at the same moment. */
class ConnectionTest {
  @Test
  void aCallThatComesAfterTheCloseEnds() throws Exception {
    Connection connection = new Connection("127.0.0.1:1", ResumeClock.SYSTEM);
    connection.close();
    StreamCall late = connection.newStream(null, () -> {});
    late.start(ProcessBatchRequest.getDefaultInstance());
    CompletableFuture<ProcessBatchResponse> frame =
        CompletableFuture.supplyAsync(
            () -> {
              try {
                return late.take();
              } catch (InterruptedException never) {
                throw new IllegalStateException(never);
              }
            });
    assertNull(frame.get(Helpers.BOUND.toSeconds(), TimeUnit.SECONDS));
    assertFalse(late.end().status().isOk());
  }

  @Test
  void nothingMoreIsAskedOfACallThatIsCancelled() throws Exception {
    EndingCall call = new EndingCall();
    StreamCall stream = new StreamCall(call, () -> {});
    stream.start(ProcessBatchRequest.getDefaultInstance());
    call.listener.onMessage(ProcessBatchResponse.getDefaultInstance());
    call.listener.onMessage(ProcessBatchResponse.getDefaultInstance());
    stream.take();
    int asked = call.asked;
    stream.cancel();
    stream.take();
    assertEquals(asked, call.asked);
    assertNull(stream.take());
  }

  /** A call that counts what is asked of it. */
  private static final class EndingCall
      extends ClientCall<ProcessBatchRequest, ProcessBatchResponse> {
    Listener<ProcessBatchResponse> listener;
    int asked;

    @Override
    public void start(Listener<ProcessBatchResponse> responses, Metadata headers) {
      listener = responses;
    }

    @Override
    public void request(int messages) {
      asked += messages;
    }

    @Override
    public void cancel(String message, Throwable cause) {
      listener.onClose(Status.CANCELLED, new Metadata());
    }

    @Override
    public void halfClose() {}

    @Override
    public void sendMessage(ProcessBatchRequest frame) {}
  }
}
