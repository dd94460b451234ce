package dev.batchllm.v1;

import static io.grpc.MethodDescriptor.generateFullMethodName;

/**
 * <pre>
 * Runs work items.
 * A stream, step by step:
 * 1. The client sends `open`, first and once. The server answers `opened` with what is in force, how many items it
 *    holds already and its last result's sequence.
 * 2. The client sends `items` frames, each of as many items as it has at hand, up to `BatchOpened.max_message_bytes`
 *    (stay near 1 MiB for flow). The server answers `accepted` with how many it holds now: these are in its journal and
 *    need never be sent again.
 * 3. Results come as they finish. A `results` frame carries all that is ready when it is written: one result when
 *    idle, many under load. `progress` comes at most once a second while work goes on.
 * 4. The client half-closes. When every item has its one terminal result, the server sends `batch_result` and ends
 *    the stream with OK.
 * A client that goes away loses nothing: items under way finish and are journaled, others wait, or go on if the batch
 * was opened with `detach`. Open the same `batch_id` again, with `resume_after_sequence`: results after it are sent
 * again (`replayed`), in order, then the batch goes on. Items that are sent again are recognised by id and content.
 * Sidecars that share a PostgreSQL journal are one service: a batch runs at one of them at a time, and every call works
 * at each of them. Opened at another one, a batch that runs without a client is handed over once its calls in flight
 * have ended, and one whose sidecar died once that sidecar's lease has ended (`journal.lease_seconds`); until then:
 * ABORTED, BATCH_IN_USE, with a RetryInfo.
 * One item's failure never ends the stream: the gRPC status speaks of the stream only. The server stops reading when
 * its bounded inbox is full, and stops starting items when the client does not read its results.
 * </pre>
 */
@io.grpc.stub.annotations.GrpcGenerated
public final class BatchServiceGrpc {

  private BatchServiceGrpc() {}

  public static final java.lang.String SERVICE_NAME = "batchllm.v1.BatchService";

  // Static method descriptors that strictly reflect the proto.
  private static volatile io.grpc.MethodDescriptor<dev.batchllm.v1.ProcessBatchRequest,
      dev.batchllm.v1.ProcessBatchResponse> getProcessBatchMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "ProcessBatch",
      requestType = dev.batchllm.v1.ProcessBatchRequest.class,
      responseType = dev.batchllm.v1.ProcessBatchResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.BIDI_STREAMING)
  public static io.grpc.MethodDescriptor<dev.batchllm.v1.ProcessBatchRequest,
      dev.batchllm.v1.ProcessBatchResponse> getProcessBatchMethod() {
    io.grpc.MethodDescriptor<dev.batchllm.v1.ProcessBatchRequest, dev.batchllm.v1.ProcessBatchResponse> getProcessBatchMethod;
    if ((getProcessBatchMethod = BatchServiceGrpc.getProcessBatchMethod) == null) {
      synchronized (BatchServiceGrpc.class) {
        if ((getProcessBatchMethod = BatchServiceGrpc.getProcessBatchMethod) == null) {
          BatchServiceGrpc.getProcessBatchMethod = getProcessBatchMethod =
              io.grpc.MethodDescriptor.<dev.batchllm.v1.ProcessBatchRequest, dev.batchllm.v1.ProcessBatchResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.BIDI_STREAMING)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "ProcessBatch"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.batchllm.v1.ProcessBatchRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.batchllm.v1.ProcessBatchResponse.getDefaultInstance()))
              .setSchemaDescriptor(new BatchServiceMethodDescriptorSupplier("ProcessBatch"))
              .build();
        }
      }
    }
    return getProcessBatchMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.batchllm.v1.ProcessItemRequest,
      dev.batchllm.v1.ProcessItemResponse> getProcessItemMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "ProcessItem",
      requestType = dev.batchllm.v1.ProcessItemRequest.class,
      responseType = dev.batchllm.v1.ProcessItemResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.batchllm.v1.ProcessItemRequest,
      dev.batchllm.v1.ProcessItemResponse> getProcessItemMethod() {
    io.grpc.MethodDescriptor<dev.batchllm.v1.ProcessItemRequest, dev.batchllm.v1.ProcessItemResponse> getProcessItemMethod;
    if ((getProcessItemMethod = BatchServiceGrpc.getProcessItemMethod) == null) {
      synchronized (BatchServiceGrpc.class) {
        if ((getProcessItemMethod = BatchServiceGrpc.getProcessItemMethod) == null) {
          BatchServiceGrpc.getProcessItemMethod = getProcessItemMethod =
              io.grpc.MethodDescriptor.<dev.batchllm.v1.ProcessItemRequest, dev.batchllm.v1.ProcessItemResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "ProcessItem"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.batchllm.v1.ProcessItemRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.batchllm.v1.ProcessItemResponse.getDefaultInstance()))
              .setSchemaDescriptor(new BatchServiceMethodDescriptorSupplier("ProcessItem"))
              .build();
        }
      }
    }
    return getProcessItemMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.batchllm.v1.GetBatchRequest,
      dev.batchllm.v1.GetBatchResponse> getGetBatchMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "GetBatch",
      requestType = dev.batchllm.v1.GetBatchRequest.class,
      responseType = dev.batchllm.v1.GetBatchResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.batchllm.v1.GetBatchRequest,
      dev.batchllm.v1.GetBatchResponse> getGetBatchMethod() {
    io.grpc.MethodDescriptor<dev.batchllm.v1.GetBatchRequest, dev.batchllm.v1.GetBatchResponse> getGetBatchMethod;
    if ((getGetBatchMethod = BatchServiceGrpc.getGetBatchMethod) == null) {
      synchronized (BatchServiceGrpc.class) {
        if ((getGetBatchMethod = BatchServiceGrpc.getGetBatchMethod) == null) {
          BatchServiceGrpc.getGetBatchMethod = getGetBatchMethod =
              io.grpc.MethodDescriptor.<dev.batchllm.v1.GetBatchRequest, dev.batchllm.v1.GetBatchResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "GetBatch"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.batchllm.v1.GetBatchRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.batchllm.v1.GetBatchResponse.getDefaultInstance()))
              .setSchemaDescriptor(new BatchServiceMethodDescriptorSupplier("GetBatch"))
              .build();
        }
      }
    }
    return getGetBatchMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.batchllm.v1.ListBatchesRequest,
      dev.batchllm.v1.ListBatchesResponse> getListBatchesMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "ListBatches",
      requestType = dev.batchllm.v1.ListBatchesRequest.class,
      responseType = dev.batchllm.v1.ListBatchesResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.batchllm.v1.ListBatchesRequest,
      dev.batchllm.v1.ListBatchesResponse> getListBatchesMethod() {
    io.grpc.MethodDescriptor<dev.batchllm.v1.ListBatchesRequest, dev.batchllm.v1.ListBatchesResponse> getListBatchesMethod;
    if ((getListBatchesMethod = BatchServiceGrpc.getListBatchesMethod) == null) {
      synchronized (BatchServiceGrpc.class) {
        if ((getListBatchesMethod = BatchServiceGrpc.getListBatchesMethod) == null) {
          BatchServiceGrpc.getListBatchesMethod = getListBatchesMethod =
              io.grpc.MethodDescriptor.<dev.batchllm.v1.ListBatchesRequest, dev.batchllm.v1.ListBatchesResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "ListBatches"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.batchllm.v1.ListBatchesRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.batchllm.v1.ListBatchesResponse.getDefaultInstance()))
              .setSchemaDescriptor(new BatchServiceMethodDescriptorSupplier("ListBatches"))
              .build();
        }
      }
    }
    return getListBatchesMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.batchllm.v1.CancelBatchRequest,
      dev.batchllm.v1.CancelBatchResponse> getCancelBatchMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "CancelBatch",
      requestType = dev.batchllm.v1.CancelBatchRequest.class,
      responseType = dev.batchllm.v1.CancelBatchResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.batchllm.v1.CancelBatchRequest,
      dev.batchllm.v1.CancelBatchResponse> getCancelBatchMethod() {
    io.grpc.MethodDescriptor<dev.batchllm.v1.CancelBatchRequest, dev.batchllm.v1.CancelBatchResponse> getCancelBatchMethod;
    if ((getCancelBatchMethod = BatchServiceGrpc.getCancelBatchMethod) == null) {
      synchronized (BatchServiceGrpc.class) {
        if ((getCancelBatchMethod = BatchServiceGrpc.getCancelBatchMethod) == null) {
          BatchServiceGrpc.getCancelBatchMethod = getCancelBatchMethod =
              io.grpc.MethodDescriptor.<dev.batchllm.v1.CancelBatchRequest, dev.batchllm.v1.CancelBatchResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "CancelBatch"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.batchllm.v1.CancelBatchRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.batchllm.v1.CancelBatchResponse.getDefaultInstance()))
              .setSchemaDescriptor(new BatchServiceMethodDescriptorSupplier("CancelBatch"))
              .build();
        }
      }
    }
    return getCancelBatchMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.batchllm.v1.DeleteBatchRequest,
      dev.batchllm.v1.DeleteBatchResponse> getDeleteBatchMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "DeleteBatch",
      requestType = dev.batchllm.v1.DeleteBatchRequest.class,
      responseType = dev.batchllm.v1.DeleteBatchResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.batchllm.v1.DeleteBatchRequest,
      dev.batchllm.v1.DeleteBatchResponse> getDeleteBatchMethod() {
    io.grpc.MethodDescriptor<dev.batchllm.v1.DeleteBatchRequest, dev.batchllm.v1.DeleteBatchResponse> getDeleteBatchMethod;
    if ((getDeleteBatchMethod = BatchServiceGrpc.getDeleteBatchMethod) == null) {
      synchronized (BatchServiceGrpc.class) {
        if ((getDeleteBatchMethod = BatchServiceGrpc.getDeleteBatchMethod) == null) {
          BatchServiceGrpc.getDeleteBatchMethod = getDeleteBatchMethod =
              io.grpc.MethodDescriptor.<dev.batchllm.v1.DeleteBatchRequest, dev.batchllm.v1.DeleteBatchResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "DeleteBatch"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.batchllm.v1.DeleteBatchRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.batchllm.v1.DeleteBatchResponse.getDefaultInstance()))
              .setSchemaDescriptor(new BatchServiceMethodDescriptorSupplier("DeleteBatch"))
              .build();
        }
      }
    }
    return getDeleteBatchMethod;
  }

  /**
   * Creates a new async stub that supports all call types for the service
   */
  public static BatchServiceStub newStub(io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<BatchServiceStub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<BatchServiceStub>() {
        @java.lang.Override
        public BatchServiceStub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new BatchServiceStub(channel, callOptions);
        }
      };
    return BatchServiceStub.newStub(factory, channel);
  }

  /**
   * Creates a new blocking-style stub that supports all types of calls on the service
   */
  public static BatchServiceBlockingV2Stub newBlockingV2Stub(
      io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<BatchServiceBlockingV2Stub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<BatchServiceBlockingV2Stub>() {
        @java.lang.Override
        public BatchServiceBlockingV2Stub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new BatchServiceBlockingV2Stub(channel, callOptions);
        }
      };
    return BatchServiceBlockingV2Stub.newStub(factory, channel);
  }

  /**
   * Creates a new blocking-style stub that supports unary and streaming output calls on the service
   */
  public static BatchServiceBlockingStub newBlockingStub(
      io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<BatchServiceBlockingStub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<BatchServiceBlockingStub>() {
        @java.lang.Override
        public BatchServiceBlockingStub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new BatchServiceBlockingStub(channel, callOptions);
        }
      };
    return BatchServiceBlockingStub.newStub(factory, channel);
  }

  /**
   * Creates a new ListenableFuture-style stub that supports unary calls on the service
   */
  public static BatchServiceFutureStub newFutureStub(
      io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<BatchServiceFutureStub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<BatchServiceFutureStub>() {
        @java.lang.Override
        public BatchServiceFutureStub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new BatchServiceFutureStub(channel, callOptions);
        }
      };
    return BatchServiceFutureStub.newStub(factory, channel);
  }

  /**
   * <pre>
   * Runs work items.
   * A stream, step by step:
   * 1. The client sends `open`, first and once. The server answers `opened` with what is in force, how many items it
   *    holds already and its last result's sequence.
   * 2. The client sends `items` frames, each of as many items as it has at hand, up to `BatchOpened.max_message_bytes`
   *    (stay near 1 MiB for flow). The server answers `accepted` with how many it holds now: these are in its journal and
   *    need never be sent again.
   * 3. Results come as they finish. A `results` frame carries all that is ready when it is written: one result when
   *    idle, many under load. `progress` comes at most once a second while work goes on.
   * 4. The client half-closes. When every item has its one terminal result, the server sends `batch_result` and ends
   *    the stream with OK.
   * A client that goes away loses nothing: items under way finish and are journaled, others wait, or go on if the batch
   * was opened with `detach`. Open the same `batch_id` again, with `resume_after_sequence`: results after it are sent
   * again (`replayed`), in order, then the batch goes on. Items that are sent again are recognised by id and content.
   * Sidecars that share a PostgreSQL journal are one service: a batch runs at one of them at a time, and every call works
   * at each of them. Opened at another one, a batch that runs without a client is handed over once its calls in flight
   * have ended, and one whose sidecar died once that sidecar's lease has ended (`journal.lease_seconds`); until then:
   * ABORTED, BATCH_IN_USE, with a RetryInfo.
   * One item's failure never ends the stream: the gRPC status speaks of the stream only. The server stops reading when
   * its bounded inbox is full, and stops starting items when the client does not read its results.
   * </pre>
   */
  public interface AsyncService {

    /**
     * <pre>
     * Streams items in and results out, see the service's comment.
     * INVALID_ARGUMENT: frames out of order or a bad field. NOT_FOUND: unknown strategy in `open`. ABORTED: the batch id
     * is open on another stream, or another sidecar has it or took it over; open it again. UNAVAILABLE: the sidecar is
     * draining.
     * </pre>
     */
    default io.grpc.stub.StreamObserver<dev.batchllm.v1.ProcessBatchRequest> processBatch(
        io.grpc.stub.StreamObserver<dev.batchllm.v1.ProcessBatchResponse> responseObserver) {
      return io.grpc.stub.ServerCalls.asyncUnimplementedStreamingCall(getProcessBatchMethod(), responseObserver);
    }

    /**
     * <pre>
     * Runs one item and returns its result. A failed item is a result with an error, not an RPC error. With an idempotency
     * key the call goes on when its caller is gone, and a second one waits for it, also at another sidecar.
     * UNAVAILABLE: the sidecar is draining.
     * </pre>
     */
    default void processItem(dev.batchllm.v1.ProcessItemRequest request,
        io.grpc.stub.StreamObserver<dev.batchllm.v1.ProcessItemResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getProcessItemMethod(), responseObserver);
    }

    /**
     * <pre>
     * Shows a batch, whichever sidecar runs it. NOT_FOUND: there is none.
     * </pre>
     */
    default void getBatch(dev.batchllm.v1.GetBatchRequest request,
        io.grpc.stub.StreamObserver<dev.batchllm.v1.GetBatchResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getGetBatchMethod(), responseObserver);
    }

    /**
     * <pre>
     * Lists batches by id, page by page. INVALID_ARGUMENT: a bad page size or token.
     * </pre>
     */
    default void listBatches(dev.batchllm.v1.ListBatchesRequest request,
        io.grpc.stub.StreamObserver<dev.batchllm.v1.ListBatchesResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getListBatchesMethod(), responseObserver);
    }

    /**
     * <pre>
     * Ends a batch: items that have not ended get a result that says CANCELLED, calls under way are cancelled.
     * Cancelling one that has ended is no error. NOT_FOUND: there is none. A batch that another sidecar runs is ended by
     * that one, or by whoever takes it up: the answer waits up to 10 seconds for it, `state` says whether it has ended.
     * </pre>
     */
    default void cancelBatch(dev.batchllm.v1.CancelBatchRequest request,
        io.grpc.stub.StreamObserver<dev.batchllm.v1.CancelBatchResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getCancelBatchMethod(), responseObserver);
    }

    /**
     * <pre>
     * Erases a batch that has ended, its prompts and outputs included. NOT_FOUND: there is none. FAILED_PRECONDITION: it
     * has not ended. ABORTED: a stream of this sidecar reads it; one of another sidecar ends with NOT_FOUND.
     * </pre>
     */
    default void deleteBatch(dev.batchllm.v1.DeleteBatchRequest request,
        io.grpc.stub.StreamObserver<dev.batchllm.v1.DeleteBatchResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getDeleteBatchMethod(), responseObserver);
    }
  }

  /**
   * Base class for the server implementation of the service BatchService.
   * <pre>
   * Runs work items.
   * A stream, step by step:
   * 1. The client sends `open`, first and once. The server answers `opened` with what is in force, how many items it
   *    holds already and its last result's sequence.
   * 2. The client sends `items` frames, each of as many items as it has at hand, up to `BatchOpened.max_message_bytes`
   *    (stay near 1 MiB for flow). The server answers `accepted` with how many it holds now: these are in its journal and
   *    need never be sent again.
   * 3. Results come as they finish. A `results` frame carries all that is ready when it is written: one result when
   *    idle, many under load. `progress` comes at most once a second while work goes on.
   * 4. The client half-closes. When every item has its one terminal result, the server sends `batch_result` and ends
   *    the stream with OK.
   * A client that goes away loses nothing: items under way finish and are journaled, others wait, or go on if the batch
   * was opened with `detach`. Open the same `batch_id` again, with `resume_after_sequence`: results after it are sent
   * again (`replayed`), in order, then the batch goes on. Items that are sent again are recognised by id and content.
   * Sidecars that share a PostgreSQL journal are one service: a batch runs at one of them at a time, and every call works
   * at each of them. Opened at another one, a batch that runs without a client is handed over once its calls in flight
   * have ended, and one whose sidecar died once that sidecar's lease has ended (`journal.lease_seconds`); until then:
   * ABORTED, BATCH_IN_USE, with a RetryInfo.
   * One item's failure never ends the stream: the gRPC status speaks of the stream only. The server stops reading when
   * its bounded inbox is full, and stops starting items when the client does not read its results.
   * </pre>
   */
  public static abstract class BatchServiceImplBase
      implements io.grpc.BindableService, AsyncService {

    @java.lang.Override public final io.grpc.ServerServiceDefinition bindService() {
      return BatchServiceGrpc.bindService(this);
    }
  }

  /**
   * A stub to allow clients to do asynchronous rpc calls to service BatchService.
   * <pre>
   * Runs work items.
   * A stream, step by step:
   * 1. The client sends `open`, first and once. The server answers `opened` with what is in force, how many items it
   *    holds already and its last result's sequence.
   * 2. The client sends `items` frames, each of as many items as it has at hand, up to `BatchOpened.max_message_bytes`
   *    (stay near 1 MiB for flow). The server answers `accepted` with how many it holds now: these are in its journal and
   *    need never be sent again.
   * 3. Results come as they finish. A `results` frame carries all that is ready when it is written: one result when
   *    idle, many under load. `progress` comes at most once a second while work goes on.
   * 4. The client half-closes. When every item has its one terminal result, the server sends `batch_result` and ends
   *    the stream with OK.
   * A client that goes away loses nothing: items under way finish and are journaled, others wait, or go on if the batch
   * was opened with `detach`. Open the same `batch_id` again, with `resume_after_sequence`: results after it are sent
   * again (`replayed`), in order, then the batch goes on. Items that are sent again are recognised by id and content.
   * Sidecars that share a PostgreSQL journal are one service: a batch runs at one of them at a time, and every call works
   * at each of them. Opened at another one, a batch that runs without a client is handed over once its calls in flight
   * have ended, and one whose sidecar died once that sidecar's lease has ended (`journal.lease_seconds`); until then:
   * ABORTED, BATCH_IN_USE, with a RetryInfo.
   * One item's failure never ends the stream: the gRPC status speaks of the stream only. The server stops reading when
   * its bounded inbox is full, and stops starting items when the client does not read its results.
   * </pre>
   */
  public static final class BatchServiceStub
      extends io.grpc.stub.AbstractAsyncStub<BatchServiceStub> {
    private BatchServiceStub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected BatchServiceStub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new BatchServiceStub(channel, callOptions);
    }

    /**
     * <pre>
     * Streams items in and results out, see the service's comment.
     * INVALID_ARGUMENT: frames out of order or a bad field. NOT_FOUND: unknown strategy in `open`. ABORTED: the batch id
     * is open on another stream, or another sidecar has it or took it over; open it again. UNAVAILABLE: the sidecar is
     * draining.
     * </pre>
     */
    public io.grpc.stub.StreamObserver<dev.batchllm.v1.ProcessBatchRequest> processBatch(
        io.grpc.stub.StreamObserver<dev.batchllm.v1.ProcessBatchResponse> responseObserver) {
      return io.grpc.stub.ClientCalls.asyncBidiStreamingCall(
          getChannel().newCall(getProcessBatchMethod(), getCallOptions()), responseObserver);
    }

    /**
     * <pre>
     * Runs one item and returns its result. A failed item is a result with an error, not an RPC error. With an idempotency
     * key the call goes on when its caller is gone, and a second one waits for it, also at another sidecar.
     * UNAVAILABLE: the sidecar is draining.
     * </pre>
     */
    public void processItem(dev.batchllm.v1.ProcessItemRequest request,
        io.grpc.stub.StreamObserver<dev.batchllm.v1.ProcessItemResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getProcessItemMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Shows a batch, whichever sidecar runs it. NOT_FOUND: there is none.
     * </pre>
     */
    public void getBatch(dev.batchllm.v1.GetBatchRequest request,
        io.grpc.stub.StreamObserver<dev.batchllm.v1.GetBatchResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getGetBatchMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Lists batches by id, page by page. INVALID_ARGUMENT: a bad page size or token.
     * </pre>
     */
    public void listBatches(dev.batchllm.v1.ListBatchesRequest request,
        io.grpc.stub.StreamObserver<dev.batchllm.v1.ListBatchesResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getListBatchesMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Ends a batch: items that have not ended get a result that says CANCELLED, calls under way are cancelled.
     * Cancelling one that has ended is no error. NOT_FOUND: there is none. A batch that another sidecar runs is ended by
     * that one, or by whoever takes it up: the answer waits up to 10 seconds for it, `state` says whether it has ended.
     * </pre>
     */
    public void cancelBatch(dev.batchllm.v1.CancelBatchRequest request,
        io.grpc.stub.StreamObserver<dev.batchllm.v1.CancelBatchResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getCancelBatchMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Erases a batch that has ended, its prompts and outputs included. NOT_FOUND: there is none. FAILED_PRECONDITION: it
     * has not ended. ABORTED: a stream of this sidecar reads it; one of another sidecar ends with NOT_FOUND.
     * </pre>
     */
    public void deleteBatch(dev.batchllm.v1.DeleteBatchRequest request,
        io.grpc.stub.StreamObserver<dev.batchllm.v1.DeleteBatchResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getDeleteBatchMethod(), getCallOptions()), request, responseObserver);
    }
  }

  /**
   * A stub to allow clients to do synchronous rpc calls to service BatchService.
   * <pre>
   * Runs work items.
   * A stream, step by step:
   * 1. The client sends `open`, first and once. The server answers `opened` with what is in force, how many items it
   *    holds already and its last result's sequence.
   * 2. The client sends `items` frames, each of as many items as it has at hand, up to `BatchOpened.max_message_bytes`
   *    (stay near 1 MiB for flow). The server answers `accepted` with how many it holds now: these are in its journal and
   *    need never be sent again.
   * 3. Results come as they finish. A `results` frame carries all that is ready when it is written: one result when
   *    idle, many under load. `progress` comes at most once a second while work goes on.
   * 4. The client half-closes. When every item has its one terminal result, the server sends `batch_result` and ends
   *    the stream with OK.
   * A client that goes away loses nothing: items under way finish and are journaled, others wait, or go on if the batch
   * was opened with `detach`. Open the same `batch_id` again, with `resume_after_sequence`: results after it are sent
   * again (`replayed`), in order, then the batch goes on. Items that are sent again are recognised by id and content.
   * Sidecars that share a PostgreSQL journal are one service: a batch runs at one of them at a time, and every call works
   * at each of them. Opened at another one, a batch that runs without a client is handed over once its calls in flight
   * have ended, and one whose sidecar died once that sidecar's lease has ended (`journal.lease_seconds`); until then:
   * ABORTED, BATCH_IN_USE, with a RetryInfo.
   * One item's failure never ends the stream: the gRPC status speaks of the stream only. The server stops reading when
   * its bounded inbox is full, and stops starting items when the client does not read its results.
   * </pre>
   */
  public static final class BatchServiceBlockingV2Stub
      extends io.grpc.stub.AbstractBlockingStub<BatchServiceBlockingV2Stub> {
    private BatchServiceBlockingV2Stub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected BatchServiceBlockingV2Stub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new BatchServiceBlockingV2Stub(channel, callOptions);
    }

    /**
     * <pre>
     * Streams items in and results out, see the service's comment.
     * INVALID_ARGUMENT: frames out of order or a bad field. NOT_FOUND: unknown strategy in `open`. ABORTED: the batch id
     * is open on another stream, or another sidecar has it or took it over; open it again. UNAVAILABLE: the sidecar is
     * draining.
     * </pre>
     */
    @io.grpc.ExperimentalApi("https://github.com/grpc/grpc-java/issues/10918")
    public io.grpc.stub.BlockingClientCall<dev.batchllm.v1.ProcessBatchRequest, dev.batchllm.v1.ProcessBatchResponse>
        processBatch() {
      return io.grpc.stub.ClientCalls.blockingBidiStreamingCall(
          getChannel(), getProcessBatchMethod(), getCallOptions());
    }

    /**
     * <pre>
     * Runs one item and returns its result. A failed item is a result with an error, not an RPC error. With an idempotency
     * key the call goes on when its caller is gone, and a second one waits for it, also at another sidecar.
     * UNAVAILABLE: the sidecar is draining.
     * </pre>
     */
    public dev.batchllm.v1.ProcessItemResponse processItem(dev.batchllm.v1.ProcessItemRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getProcessItemMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Shows a batch, whichever sidecar runs it. NOT_FOUND: there is none.
     * </pre>
     */
    public dev.batchllm.v1.GetBatchResponse getBatch(dev.batchllm.v1.GetBatchRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getGetBatchMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Lists batches by id, page by page. INVALID_ARGUMENT: a bad page size or token.
     * </pre>
     */
    public dev.batchllm.v1.ListBatchesResponse listBatches(dev.batchllm.v1.ListBatchesRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getListBatchesMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Ends a batch: items that have not ended get a result that says CANCELLED, calls under way are cancelled.
     * Cancelling one that has ended is no error. NOT_FOUND: there is none. A batch that another sidecar runs is ended by
     * that one, or by whoever takes it up: the answer waits up to 10 seconds for it, `state` says whether it has ended.
     * </pre>
     */
    public dev.batchllm.v1.CancelBatchResponse cancelBatch(dev.batchllm.v1.CancelBatchRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getCancelBatchMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Erases a batch that has ended, its prompts and outputs included. NOT_FOUND: there is none. FAILED_PRECONDITION: it
     * has not ended. ABORTED: a stream of this sidecar reads it; one of another sidecar ends with NOT_FOUND.
     * </pre>
     */
    public dev.batchllm.v1.DeleteBatchResponse deleteBatch(dev.batchllm.v1.DeleteBatchRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getDeleteBatchMethod(), getCallOptions(), request);
    }
  }

  /**
   * A stub to allow clients to do limited synchronous rpc calls to service BatchService.
   * <pre>
   * Runs work items.
   * A stream, step by step:
   * 1. The client sends `open`, first and once. The server answers `opened` with what is in force, how many items it
   *    holds already and its last result's sequence.
   * 2. The client sends `items` frames, each of as many items as it has at hand, up to `BatchOpened.max_message_bytes`
   *    (stay near 1 MiB for flow). The server answers `accepted` with how many it holds now: these are in its journal and
   *    need never be sent again.
   * 3. Results come as they finish. A `results` frame carries all that is ready when it is written: one result when
   *    idle, many under load. `progress` comes at most once a second while work goes on.
   * 4. The client half-closes. When every item has its one terminal result, the server sends `batch_result` and ends
   *    the stream with OK.
   * A client that goes away loses nothing: items under way finish and are journaled, others wait, or go on if the batch
   * was opened with `detach`. Open the same `batch_id` again, with `resume_after_sequence`: results after it are sent
   * again (`replayed`), in order, then the batch goes on. Items that are sent again are recognised by id and content.
   * Sidecars that share a PostgreSQL journal are one service: a batch runs at one of them at a time, and every call works
   * at each of them. Opened at another one, a batch that runs without a client is handed over once its calls in flight
   * have ended, and one whose sidecar died once that sidecar's lease has ended (`journal.lease_seconds`); until then:
   * ABORTED, BATCH_IN_USE, with a RetryInfo.
   * One item's failure never ends the stream: the gRPC status speaks of the stream only. The server stops reading when
   * its bounded inbox is full, and stops starting items when the client does not read its results.
   * </pre>
   */
  public static final class BatchServiceBlockingStub
      extends io.grpc.stub.AbstractBlockingStub<BatchServiceBlockingStub> {
    private BatchServiceBlockingStub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected BatchServiceBlockingStub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new BatchServiceBlockingStub(channel, callOptions);
    }

    /**
     * <pre>
     * Runs one item and returns its result. A failed item is a result with an error, not an RPC error. With an idempotency
     * key the call goes on when its caller is gone, and a second one waits for it, also at another sidecar.
     * UNAVAILABLE: the sidecar is draining.
     * </pre>
     */
    public dev.batchllm.v1.ProcessItemResponse processItem(dev.batchllm.v1.ProcessItemRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getProcessItemMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Shows a batch, whichever sidecar runs it. NOT_FOUND: there is none.
     * </pre>
     */
    public dev.batchllm.v1.GetBatchResponse getBatch(dev.batchllm.v1.GetBatchRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getGetBatchMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Lists batches by id, page by page. INVALID_ARGUMENT: a bad page size or token.
     * </pre>
     */
    public dev.batchllm.v1.ListBatchesResponse listBatches(dev.batchllm.v1.ListBatchesRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getListBatchesMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Ends a batch: items that have not ended get a result that says CANCELLED, calls under way are cancelled.
     * Cancelling one that has ended is no error. NOT_FOUND: there is none. A batch that another sidecar runs is ended by
     * that one, or by whoever takes it up: the answer waits up to 10 seconds for it, `state` says whether it has ended.
     * </pre>
     */
    public dev.batchllm.v1.CancelBatchResponse cancelBatch(dev.batchllm.v1.CancelBatchRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getCancelBatchMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Erases a batch that has ended, its prompts and outputs included. NOT_FOUND: there is none. FAILED_PRECONDITION: it
     * has not ended. ABORTED: a stream of this sidecar reads it; one of another sidecar ends with NOT_FOUND.
     * </pre>
     */
    public dev.batchllm.v1.DeleteBatchResponse deleteBatch(dev.batchllm.v1.DeleteBatchRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getDeleteBatchMethod(), getCallOptions(), request);
    }
  }

  /**
   * A stub to allow clients to do ListenableFuture-style rpc calls to service BatchService.
   * <pre>
   * Runs work items.
   * A stream, step by step:
   * 1. The client sends `open`, first and once. The server answers `opened` with what is in force, how many items it
   *    holds already and its last result's sequence.
   * 2. The client sends `items` frames, each of as many items as it has at hand, up to `BatchOpened.max_message_bytes`
   *    (stay near 1 MiB for flow). The server answers `accepted` with how many it holds now: these are in its journal and
   *    need never be sent again.
   * 3. Results come as they finish. A `results` frame carries all that is ready when it is written: one result when
   *    idle, many under load. `progress` comes at most once a second while work goes on.
   * 4. The client half-closes. When every item has its one terminal result, the server sends `batch_result` and ends
   *    the stream with OK.
   * A client that goes away loses nothing: items under way finish and are journaled, others wait, or go on if the batch
   * was opened with `detach`. Open the same `batch_id` again, with `resume_after_sequence`: results after it are sent
   * again (`replayed`), in order, then the batch goes on. Items that are sent again are recognised by id and content.
   * Sidecars that share a PostgreSQL journal are one service: a batch runs at one of them at a time, and every call works
   * at each of them. Opened at another one, a batch that runs without a client is handed over once its calls in flight
   * have ended, and one whose sidecar died once that sidecar's lease has ended (`journal.lease_seconds`); until then:
   * ABORTED, BATCH_IN_USE, with a RetryInfo.
   * One item's failure never ends the stream: the gRPC status speaks of the stream only. The server stops reading when
   * its bounded inbox is full, and stops starting items when the client does not read its results.
   * </pre>
   */
  public static final class BatchServiceFutureStub
      extends io.grpc.stub.AbstractFutureStub<BatchServiceFutureStub> {
    private BatchServiceFutureStub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected BatchServiceFutureStub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new BatchServiceFutureStub(channel, callOptions);
    }

    /**
     * <pre>
     * Runs one item and returns its result. A failed item is a result with an error, not an RPC error. With an idempotency
     * key the call goes on when its caller is gone, and a second one waits for it, also at another sidecar.
     * UNAVAILABLE: the sidecar is draining.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.batchllm.v1.ProcessItemResponse> processItem(
        dev.batchllm.v1.ProcessItemRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getProcessItemMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Shows a batch, whichever sidecar runs it. NOT_FOUND: there is none.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.batchllm.v1.GetBatchResponse> getBatch(
        dev.batchllm.v1.GetBatchRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getGetBatchMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Lists batches by id, page by page. INVALID_ARGUMENT: a bad page size or token.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.batchllm.v1.ListBatchesResponse> listBatches(
        dev.batchllm.v1.ListBatchesRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getListBatchesMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Ends a batch: items that have not ended get a result that says CANCELLED, calls under way are cancelled.
     * Cancelling one that has ended is no error. NOT_FOUND: there is none. A batch that another sidecar runs is ended by
     * that one, or by whoever takes it up: the answer waits up to 10 seconds for it, `state` says whether it has ended.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.batchllm.v1.CancelBatchResponse> cancelBatch(
        dev.batchllm.v1.CancelBatchRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getCancelBatchMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Erases a batch that has ended, its prompts and outputs included. NOT_FOUND: there is none. FAILED_PRECONDITION: it
     * has not ended. ABORTED: a stream of this sidecar reads it; one of another sidecar ends with NOT_FOUND.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.batchllm.v1.DeleteBatchResponse> deleteBatch(
        dev.batchllm.v1.DeleteBatchRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getDeleteBatchMethod(), getCallOptions()), request);
    }
  }

  private static final int METHODID_PROCESS_ITEM = 0;
  private static final int METHODID_GET_BATCH = 1;
  private static final int METHODID_LIST_BATCHES = 2;
  private static final int METHODID_CANCEL_BATCH = 3;
  private static final int METHODID_DELETE_BATCH = 4;
  private static final int METHODID_PROCESS_BATCH = 5;

  private static final class MethodHandlers<Req, Resp> implements
      io.grpc.stub.ServerCalls.UnaryMethod<Req, Resp>,
      io.grpc.stub.ServerCalls.ServerStreamingMethod<Req, Resp>,
      io.grpc.stub.ServerCalls.ClientStreamingMethod<Req, Resp>,
      io.grpc.stub.ServerCalls.BidiStreamingMethod<Req, Resp> {
    private final AsyncService serviceImpl;
    private final int methodId;

    MethodHandlers(AsyncService serviceImpl, int methodId) {
      this.serviceImpl = serviceImpl;
      this.methodId = methodId;
    }

    @java.lang.Override
    @java.lang.SuppressWarnings("unchecked")
    public void invoke(Req request, io.grpc.stub.StreamObserver<Resp> responseObserver) {
      switch (methodId) {
        case METHODID_PROCESS_ITEM:
          serviceImpl.processItem((dev.batchllm.v1.ProcessItemRequest) request,
              (io.grpc.stub.StreamObserver<dev.batchllm.v1.ProcessItemResponse>) responseObserver);
          break;
        case METHODID_GET_BATCH:
          serviceImpl.getBatch((dev.batchllm.v1.GetBatchRequest) request,
              (io.grpc.stub.StreamObserver<dev.batchllm.v1.GetBatchResponse>) responseObserver);
          break;
        case METHODID_LIST_BATCHES:
          serviceImpl.listBatches((dev.batchllm.v1.ListBatchesRequest) request,
              (io.grpc.stub.StreamObserver<dev.batchllm.v1.ListBatchesResponse>) responseObserver);
          break;
        case METHODID_CANCEL_BATCH:
          serviceImpl.cancelBatch((dev.batchllm.v1.CancelBatchRequest) request,
              (io.grpc.stub.StreamObserver<dev.batchllm.v1.CancelBatchResponse>) responseObserver);
          break;
        case METHODID_DELETE_BATCH:
          serviceImpl.deleteBatch((dev.batchllm.v1.DeleteBatchRequest) request,
              (io.grpc.stub.StreamObserver<dev.batchllm.v1.DeleteBatchResponse>) responseObserver);
          break;
        default:
          throw new AssertionError();
      }
    }

    @java.lang.Override
    @java.lang.SuppressWarnings("unchecked")
    public io.grpc.stub.StreamObserver<Req> invoke(
        io.grpc.stub.StreamObserver<Resp> responseObserver) {
      switch (methodId) {
        case METHODID_PROCESS_BATCH:
          return (io.grpc.stub.StreamObserver<Req>) serviceImpl.processBatch(
              (io.grpc.stub.StreamObserver<dev.batchllm.v1.ProcessBatchResponse>) responseObserver);
        default:
          throw new AssertionError();
      }
    }
  }

  public static final io.grpc.ServerServiceDefinition bindService(AsyncService service) {
    return io.grpc.ServerServiceDefinition.builder(getServiceDescriptor())
        .addMethod(
          getProcessBatchMethod(),
          io.grpc.stub.ServerCalls.asyncBidiStreamingCall(
            new MethodHandlers<
              dev.batchllm.v1.ProcessBatchRequest,
              dev.batchllm.v1.ProcessBatchResponse>(
                service, METHODID_PROCESS_BATCH)))
        .addMethod(
          getProcessItemMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.batchllm.v1.ProcessItemRequest,
              dev.batchllm.v1.ProcessItemResponse>(
                service, METHODID_PROCESS_ITEM)))
        .addMethod(
          getGetBatchMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.batchllm.v1.GetBatchRequest,
              dev.batchllm.v1.GetBatchResponse>(
                service, METHODID_GET_BATCH)))
        .addMethod(
          getListBatchesMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.batchllm.v1.ListBatchesRequest,
              dev.batchllm.v1.ListBatchesResponse>(
                service, METHODID_LIST_BATCHES)))
        .addMethod(
          getCancelBatchMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.batchllm.v1.CancelBatchRequest,
              dev.batchllm.v1.CancelBatchResponse>(
                service, METHODID_CANCEL_BATCH)))
        .addMethod(
          getDeleteBatchMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.batchllm.v1.DeleteBatchRequest,
              dev.batchllm.v1.DeleteBatchResponse>(
                service, METHODID_DELETE_BATCH)))
        .build();
  }

  private static abstract class BatchServiceBaseDescriptorSupplier
      implements io.grpc.protobuf.ProtoFileDescriptorSupplier, io.grpc.protobuf.ProtoServiceDescriptorSupplier {
    BatchServiceBaseDescriptorSupplier() {}

    @java.lang.Override
    public com.google.protobuf.Descriptors.FileDescriptor getFileDescriptor() {
      return dev.batchllm.v1.BatchServiceOuterClass.getDescriptor();
    }

    @java.lang.Override
    public com.google.protobuf.Descriptors.ServiceDescriptor getServiceDescriptor() {
      return getFileDescriptor().findServiceByName("BatchService");
    }
  }

  private static final class BatchServiceFileDescriptorSupplier
      extends BatchServiceBaseDescriptorSupplier {
    BatchServiceFileDescriptorSupplier() {}
  }

  private static final class BatchServiceMethodDescriptorSupplier
      extends BatchServiceBaseDescriptorSupplier
      implements io.grpc.protobuf.ProtoMethodDescriptorSupplier {
    private final java.lang.String methodName;

    BatchServiceMethodDescriptorSupplier(java.lang.String methodName) {
      this.methodName = methodName;
    }

    @java.lang.Override
    public com.google.protobuf.Descriptors.MethodDescriptor getMethodDescriptor() {
      return getServiceDescriptor().findMethodByName(methodName);
    }
  }

  private static volatile io.grpc.ServiceDescriptor serviceDescriptor;

  public static io.grpc.ServiceDescriptor getServiceDescriptor() {
    io.grpc.ServiceDescriptor result = serviceDescriptor;
    if (result == null) {
      synchronized (BatchServiceGrpc.class) {
        result = serviceDescriptor;
        if (result == null) {
          serviceDescriptor = result = io.grpc.ServiceDescriptor.newBuilder(SERVICE_NAME)
              .setSchemaDescriptor(new BatchServiceFileDescriptorSupplier())
              .addMethod(getProcessBatchMethod())
              .addMethod(getProcessItemMethod())
              .addMethod(getGetBatchMethod())
              .addMethod(getListBatchesMethod())
              .addMethod(getCancelBatchMethod())
              .addMethod(getDeleteBatchMethod())
              .build();
        }
      }
    }
    return result;
  }
}
