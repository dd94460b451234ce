package dev.batchllm.client;

import com.google.protobuf.Any;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import dev.batchllm.v1.BatchOpened;
import dev.batchllm.v1.BatchResult;
import dev.batchllm.v1.BatchServiceGrpc;
import dev.batchllm.v1.ItemsAccepted;
import dev.batchllm.v1.Output;
import dev.batchllm.v1.ProcessBatchRequest;
import dev.batchllm.v1.ProcessBatchResponse;
import dev.batchllm.v1.ProcessItemRequest;
import dev.batchllm.v1.ProcessItemResponse;
import dev.batchllm.v1.WorkItemResult;
import dev.batchllm.v1.WorkItemResults;
import io.grpc.Server;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.ServerCallStreamObserver;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.stream.LongStream;

/**
 * A server that does on each stream what its test says: for what a sidecar does not do on demand.
 */
final class ScriptedServer extends BatchServiceGrpc.BatchServiceImplBase implements AutoCloseable {
  /** What happens on one stream. */
  interface Script {
    void run(Stream stream) throws Exception;
  }

  private final BlockingQueue<Script> scripts = new LinkedBlockingQueue<>();
  private final BlockingQueue<StatusRuntimeException> itemFailures = new LinkedBlockingQueue<>();
  private final List<Throwable> faults = new CopyOnWriteArrayList<>();
  final List<ProcessItemRequest> itemCalls = new CopyOnWriteArrayList<>();
  private final Server server;
  private final int port;

  ScriptedServer() throws IOException {
    this(0);
  }

  ScriptedServer(int wanted) throws IOException {
    server =
        NettyServerBuilder.forAddress(new InetSocketAddress("127.0.0.1", wanted))
            .addService(this)
            .build()
            .start();
    this.port = server.getPort();
  }

  int port() {
    return port;
  }

  String target() {
    return "127.0.0.1:" + port;
  }

  /** Says what happens on the next stream that no script was given for. */
  ScriptedServer then(Script script) {
    scripts.add(script);
    return this;
  }

  /** Has a call of ProcessItem fail; those that follow give a result. */
  ScriptedServer thenItemFails(StatusRuntimeException failure) {
    itemFailures.add(failure);
    return this;
  }

  /** An error as the sidecar gives it; {@code retryAfter} may be null. */
  static StatusRuntimeException error(
      Status.Code code, String reason, Map<String, String> metadata, Duration retryAfter) {
    var status = com.google.rpc.Status.newBuilder().setCode(code.value()).setMessage("as scripted");
    status.addDetails(
        Any.pack(
            ErrorInfo.newBuilder()
                .setDomain("batchllm.v1")
                .setReason(reason)
                .putAllMetadata(metadata)
                .build()));
    if (retryAfter != null) {
      var delay = com.google.protobuf.Duration.newBuilder().setSeconds(retryAfter.toSeconds());
      status.addDetails(Any.pack(RetryInfo.newBuilder().setRetryDelay(delay).build()));
    }
    return StatusProto.toStatusRuntimeException(status.build());
  }

  @Override
  public StreamObserver<ProcessBatchRequest> processBatch(
      StreamObserver<ProcessBatchResponse> responses) {
    Stream stream = new Stream(responses);
    Script script = scripts.remove();
    Thread thread =
        new Thread(
            () -> {
              try {
                script.run(stream);
              } catch (Throwable fault) {
                faults.add(fault);
                responses.onError(Status.DATA_LOSS.withCause(fault).asRuntimeException());
              }
            },
            "script");
    thread.setDaemon(true);
    thread.start();
    return stream;
  }

  @Override
  public void processItem(
      ProcessItemRequest request, StreamObserver<ProcessItemResponse> responses) {
    itemCalls.add(request);
    StatusRuntimeException failure = itemFailures.poll();
    if (failure != null) {
      responses.onError(failure);
      return;
    }
    responses.onNext(ProcessItemResponse.newBuilder().setResult(result(1)).build());
    responses.onCompleted();
  }

  @Override
  public void close() {
    server.shutdownNow();
    try {
      server.awaitTermination(10, TimeUnit.SECONDS); // frees the port
    } catch (InterruptedException interrupt) {
      Thread.currentThread().interrupt();
    }
    if (!faults.isEmpty()) {
      throw new AssertionError("a script failed", faults.get(0));
    }
  }

  static WorkItemResult result(long sequence) {
    return WorkItemResult.newBuilder().setSequence(sequence).setItemId("" + sequence).build();
  }

  /** One stream, from the server's side. */
  static final class Stream implements StreamObserver<ProcessBatchRequest> {
    private static final ProcessBatchRequest END = ProcessBatchRequest.getDefaultInstance();

    private final StreamObserver<ProcessBatchResponse> responses;
    private final BlockingQueue<Object> requests = new LinkedBlockingQueue<>();

    Stream(StreamObserver<ProcessBatchResponse> responses) {
      this.responses = responses;
    }

    @Override
    public void onNext(ProcessBatchRequest request) {
      requests.add(request);
    }

    @Override
    public void onError(Throwable error) {
      requests.add(error);
    }

    @Override
    public void onCompleted() {
      requests.add(END);
    }

    /** Waits for the next frame of the client. */
    ProcessBatchRequest next() throws Exception {
      Object next = requests.poll(60, TimeUnit.SECONDS);
      if (next instanceof ProcessBatchRequest request && request != END) {
        return request;
      }
      throw new AssertionError("a frame was expected, not " + next);
    }

    /** Waits until the client has half-closed. */
    void awaitHalfClose() throws Exception {
      Object next = requests.poll(60, TimeUnit.SECONDS);
      if (next != END) {
        throw new AssertionError("a half-close was expected, not " + next);
      }
    }

    /** Waits until the client has cancelled. */
    void awaitCancel() throws Exception {
      Object next = requests.poll(60, TimeUnit.SECONDS);
      if (!(next instanceof Throwable)) {
        throw new AssertionError("a cancel was expected, not " + next);
      }
    }

    /** Reads {@code open}, answers {@code opened}, and gives the sequence to resume after. */
    long open(BatchOpened.Builder opened) throws Exception {
      var open = next().getOpen();
      responses.onNext(
          ProcessBatchResponse.newBuilder()
              .setOpened(opened.setBatchId(open.getBatchId()))
              .build());
      return open.getResumeAfterSequence();
    }

    /** Reads so many items: their ids. */
    List<String> items(int count) throws Exception {
      List<String> ids = new ArrayList<>();
      while (ids.size() < count) {
        next().getItems().getItemsList().forEach(item -> ids.add(item.getItemId()));
      }
      return ids;
    }

    void accept(long items, long received) {
      responses.onNext(
          ProcessBatchResponse.newBuilder()
              .setAccepted(ItemsAccepted.newBuilder().setItems(items).setReceived(received))
              .build());
    }

    /** Sends results with these sequences in one frame. */
    void results(long from, long to) {
      var results = WorkItemResults.newBuilder();
      LongStream.rangeClosed(from, to).forEach(number -> results.addResults(result(number)));
      responses.onNext(ProcessBatchResponse.newBuilder().setResults(results).build());
    }

    /** Whether the client takes more: it reads, and no buffer is full. */
    boolean isReady() {
      return ((ServerCallStreamObserver<ProcessBatchResponse>) responses).isReady();
    }

    /** Sends a result of this size in a frame of its own. */
    void large(long sequence, int bytes) {
      var output = Output.newBuilder().setText("x".repeat(bytes));
      var result = result(sequence).toBuilder().setOutput(output);
      responses.onNext(
          ProcessBatchResponse.newBuilder()
              .setResults(WorkItemResults.newBuilder().addResults(result))
              .build());
    }

    void totals(long items) {
      responses.onNext(
          ProcessBatchResponse.newBuilder()
              .setBatchResult(BatchResult.newBuilder().setTotalItems(items))
              .build());
    }

    void end() {
      responses.onCompleted();
    }

    void fail(StatusRuntimeException error) {
      responses.onError(error);
    }
  }
}
