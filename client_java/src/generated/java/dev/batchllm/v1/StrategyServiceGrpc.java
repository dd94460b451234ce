package dev.batchllm.v1;

import static io.grpc.MethodDescriptor.generateFullMethodName;

/**
 * <pre>
 * Keeps the named, shared strategies.
 * The operator's file declares providers (endpoint, credentials, quota) and strategies; applications may register more
 * strategies on those providers. No RPC can set a URL, a key, a file path or code.
 * What is registered by RPC is kept in the journal: it outlives the sidecar, so that its batches can go on, and all
 * sidecars that share a journal offer it. With `journal.url = "memory"` it lasts until the sidecar ends; registering at
 * an application's start costs nothing. What cannot be used after a change of the operator's file stays in the journal
 * until it is unregistered; a strategy of the file with the same name is used instead.
 * </pre>
 */
@io.grpc.stub.annotations.GrpcGenerated
public final class StrategyServiceGrpc {

  private StrategyServiceGrpc() {}

  public static final java.lang.String SERVICE_NAME = "batchllm.v1.StrategyService";

  // Static method descriptors that strictly reflect the proto.
  private static volatile io.grpc.MethodDescriptor<dev.batchllm.v1.RegisterStrategyRequest,
      dev.batchllm.v1.RegisterStrategyResponse> getRegisterStrategyMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "RegisterStrategy",
      requestType = dev.batchllm.v1.RegisterStrategyRequest.class,
      responseType = dev.batchllm.v1.RegisterStrategyResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.batchllm.v1.RegisterStrategyRequest,
      dev.batchllm.v1.RegisterStrategyResponse> getRegisterStrategyMethod() {
    io.grpc.MethodDescriptor<dev.batchllm.v1.RegisterStrategyRequest, dev.batchllm.v1.RegisterStrategyResponse> getRegisterStrategyMethod;
    if ((getRegisterStrategyMethod = StrategyServiceGrpc.getRegisterStrategyMethod) == null) {
      synchronized (StrategyServiceGrpc.class) {
        if ((getRegisterStrategyMethod = StrategyServiceGrpc.getRegisterStrategyMethod) == null) {
          StrategyServiceGrpc.getRegisterStrategyMethod = getRegisterStrategyMethod =
              io.grpc.MethodDescriptor.<dev.batchllm.v1.RegisterStrategyRequest, dev.batchllm.v1.RegisterStrategyResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "RegisterStrategy"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.batchllm.v1.RegisterStrategyRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.batchllm.v1.RegisterStrategyResponse.getDefaultInstance()))
              .setSchemaDescriptor(new StrategyServiceMethodDescriptorSupplier("RegisterStrategy"))
              .build();
        }
      }
    }
    return getRegisterStrategyMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.batchllm.v1.GetStrategyRequest,
      dev.batchllm.v1.GetStrategyResponse> getGetStrategyMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "GetStrategy",
      requestType = dev.batchllm.v1.GetStrategyRequest.class,
      responseType = dev.batchllm.v1.GetStrategyResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.batchllm.v1.GetStrategyRequest,
      dev.batchllm.v1.GetStrategyResponse> getGetStrategyMethod() {
    io.grpc.MethodDescriptor<dev.batchllm.v1.GetStrategyRequest, dev.batchllm.v1.GetStrategyResponse> getGetStrategyMethod;
    if ((getGetStrategyMethod = StrategyServiceGrpc.getGetStrategyMethod) == null) {
      synchronized (StrategyServiceGrpc.class) {
        if ((getGetStrategyMethod = StrategyServiceGrpc.getGetStrategyMethod) == null) {
          StrategyServiceGrpc.getGetStrategyMethod = getGetStrategyMethod =
              io.grpc.MethodDescriptor.<dev.batchllm.v1.GetStrategyRequest, dev.batchllm.v1.GetStrategyResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "GetStrategy"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.batchllm.v1.GetStrategyRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.batchllm.v1.GetStrategyResponse.getDefaultInstance()))
              .setSchemaDescriptor(new StrategyServiceMethodDescriptorSupplier("GetStrategy"))
              .build();
        }
      }
    }
    return getGetStrategyMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.batchllm.v1.ListStrategiesRequest,
      dev.batchllm.v1.ListStrategiesResponse> getListStrategiesMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "ListStrategies",
      requestType = dev.batchllm.v1.ListStrategiesRequest.class,
      responseType = dev.batchllm.v1.ListStrategiesResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.batchllm.v1.ListStrategiesRequest,
      dev.batchllm.v1.ListStrategiesResponse> getListStrategiesMethod() {
    io.grpc.MethodDescriptor<dev.batchllm.v1.ListStrategiesRequest, dev.batchllm.v1.ListStrategiesResponse> getListStrategiesMethod;
    if ((getListStrategiesMethod = StrategyServiceGrpc.getListStrategiesMethod) == null) {
      synchronized (StrategyServiceGrpc.class) {
        if ((getListStrategiesMethod = StrategyServiceGrpc.getListStrategiesMethod) == null) {
          StrategyServiceGrpc.getListStrategiesMethod = getListStrategiesMethod =
              io.grpc.MethodDescriptor.<dev.batchllm.v1.ListStrategiesRequest, dev.batchllm.v1.ListStrategiesResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "ListStrategies"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.batchllm.v1.ListStrategiesRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.batchllm.v1.ListStrategiesResponse.getDefaultInstance()))
              .setSchemaDescriptor(new StrategyServiceMethodDescriptorSupplier("ListStrategies"))
              .build();
        }
      }
    }
    return getListStrategiesMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.batchllm.v1.UnregisterStrategyRequest,
      dev.batchllm.v1.UnregisterStrategyResponse> getUnregisterStrategyMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "UnregisterStrategy",
      requestType = dev.batchllm.v1.UnregisterStrategyRequest.class,
      responseType = dev.batchllm.v1.UnregisterStrategyResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.batchllm.v1.UnregisterStrategyRequest,
      dev.batchllm.v1.UnregisterStrategyResponse> getUnregisterStrategyMethod() {
    io.grpc.MethodDescriptor<dev.batchllm.v1.UnregisterStrategyRequest, dev.batchllm.v1.UnregisterStrategyResponse> getUnregisterStrategyMethod;
    if ((getUnregisterStrategyMethod = StrategyServiceGrpc.getUnregisterStrategyMethod) == null) {
      synchronized (StrategyServiceGrpc.class) {
        if ((getUnregisterStrategyMethod = StrategyServiceGrpc.getUnregisterStrategyMethod) == null) {
          StrategyServiceGrpc.getUnregisterStrategyMethod = getUnregisterStrategyMethod =
              io.grpc.MethodDescriptor.<dev.batchllm.v1.UnregisterStrategyRequest, dev.batchllm.v1.UnregisterStrategyResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "UnregisterStrategy"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.batchllm.v1.UnregisterStrategyRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.batchllm.v1.UnregisterStrategyResponse.getDefaultInstance()))
              .setSchemaDescriptor(new StrategyServiceMethodDescriptorSupplier("UnregisterStrategy"))
              .build();
        }
      }
    }
    return getUnregisterStrategyMethod;
  }

  /**
   * Creates a new async stub that supports all call types for the service
   */
  public static StrategyServiceStub newStub(io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<StrategyServiceStub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<StrategyServiceStub>() {
        @java.lang.Override
        public StrategyServiceStub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new StrategyServiceStub(channel, callOptions);
        }
      };
    return StrategyServiceStub.newStub(factory, channel);
  }

  /**
   * Creates a new blocking-style stub that supports all types of calls on the service
   */
  public static StrategyServiceBlockingV2Stub newBlockingV2Stub(
      io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<StrategyServiceBlockingV2Stub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<StrategyServiceBlockingV2Stub>() {
        @java.lang.Override
        public StrategyServiceBlockingV2Stub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new StrategyServiceBlockingV2Stub(channel, callOptions);
        }
      };
    return StrategyServiceBlockingV2Stub.newStub(factory, channel);
  }

  /**
   * Creates a new blocking-style stub that supports unary and streaming output calls on the service
   */
  public static StrategyServiceBlockingStub newBlockingStub(
      io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<StrategyServiceBlockingStub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<StrategyServiceBlockingStub>() {
        @java.lang.Override
        public StrategyServiceBlockingStub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new StrategyServiceBlockingStub(channel, callOptions);
        }
      };
    return StrategyServiceBlockingStub.newStub(factory, channel);
  }

  /**
   * Creates a new ListenableFuture-style stub that supports unary calls on the service
   */
  public static StrategyServiceFutureStub newFutureStub(
      io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<StrategyServiceFutureStub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<StrategyServiceFutureStub>() {
        @java.lang.Override
        public StrategyServiceFutureStub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new StrategyServiceFutureStub(channel, callOptions);
        }
      };
    return StrategyServiceFutureStub.newStub(factory, channel);
  }

  /**
   * <pre>
   * Keeps the named, shared strategies.
   * The operator's file declares providers (endpoint, credentials, quota) and strategies; applications may register more
   * strategies on those providers. No RPC can set a URL, a key, a file path or code.
   * What is registered by RPC is kept in the journal: it outlives the sidecar, so that its batches can go on, and all
   * sidecars that share a journal offer it. With `journal.url = "memory"` it lasts until the sidecar ends; registering at
   * an application's start costs nothing. What cannot be used after a change of the operator's file stays in the journal
   * until it is unregistered; a strategy of the file with the same name is used instead.
   * </pre>
   */
  public interface AsyncService {

    /**
     * <pre>
     * Registers a strategy, for good when this answers. The same name with the same spec answers with the existing one,
     * `registered` false. What is kept is what was set; defaults are those of the sidecar that reads it.
     * ALREADY_EXISTS: the same name with another spec. INVALID_ARGUMENT: a bad field or an unknown provider.
     * PERMISSION_DENIED: switched off by the operator. RESOURCE_EXHAUSTED (JOURNAL_FULL), UNAVAILABLE
     * (JOURNAL_UNAVAILABLE): the journal cannot be written, and nothing was registered.
     * </pre>
     */
    default void registerStrategy(dev.batchllm.v1.RegisterStrategyRequest request,
        io.grpc.stub.StreamObserver<dev.batchllm.v1.RegisterStrategyResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getRegisterStrategyMethod(), responseObserver);
    }

    /**
     * <pre>
     * Shows a strategy. NOT_FOUND: no such name. UNAVAILABLE: it is not known here, and the shared journal cannot be asked.
     * </pre>
     */
    default void getStrategy(dev.batchllm.v1.GetStrategyRequest request,
        io.grpc.stub.StreamObserver<dev.batchllm.v1.GetStrategyResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getGetStrategyMethod(), responseObserver);
    }

    /**
     * <pre>
     * Lists all strategies by name. UNAVAILABLE: the shared journal cannot be asked.
     * </pre>
     */
    default void listStrategies(dev.batchllm.v1.ListStrategiesRequest request,
        io.grpc.stub.StreamObserver<dev.batchllm.v1.ListStrategiesResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getListStrategiesMethod(), responseObserver);
    }

    /**
     * <pre>
     * Removes a strategy that was registered by RPC, for good when this answers; its context cache stays until it is
     * deleted or expires. Other sidecars that share the journal offer it to no new batch, and go on with those that have
     * it. NOT_FOUND: no such name. FAILED_PRECONDITION: it is from the file, or a stream of this sidecar uses it.
     * RESOURCE_EXHAUSTED, UNAVAILABLE: as in RegisterStrategy; it is still there.
     * </pre>
     */
    default void unregisterStrategy(dev.batchllm.v1.UnregisterStrategyRequest request,
        io.grpc.stub.StreamObserver<dev.batchllm.v1.UnregisterStrategyResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getUnregisterStrategyMethod(), responseObserver);
    }
  }

  /**
   * Base class for the server implementation of the service StrategyService.
   * <pre>
   * Keeps the named, shared strategies.
   * The operator's file declares providers (endpoint, credentials, quota) and strategies; applications may register more
   * strategies on those providers. No RPC can set a URL, a key, a file path or code.
   * What is registered by RPC is kept in the journal: it outlives the sidecar, so that its batches can go on, and all
   * sidecars that share a journal offer it. With `journal.url = "memory"` it lasts until the sidecar ends; registering at
   * an application's start costs nothing. What cannot be used after a change of the operator's file stays in the journal
   * until it is unregistered; a strategy of the file with the same name is used instead.
   * </pre>
   */
  public static abstract class StrategyServiceImplBase
      implements io.grpc.BindableService, AsyncService {

    @java.lang.Override public final io.grpc.ServerServiceDefinition bindService() {
      return StrategyServiceGrpc.bindService(this);
    }
  }

  /**
   * A stub to allow clients to do asynchronous rpc calls to service StrategyService.
   * <pre>
   * Keeps the named, shared strategies.
   * The operator's file declares providers (endpoint, credentials, quota) and strategies; applications may register more
   * strategies on those providers. No RPC can set a URL, a key, a file path or code.
   * What is registered by RPC is kept in the journal: it outlives the sidecar, so that its batches can go on, and all
   * sidecars that share a journal offer it. With `journal.url = "memory"` it lasts until the sidecar ends; registering at
   * an application's start costs nothing. What cannot be used after a change of the operator's file stays in the journal
   * until it is unregistered; a strategy of the file with the same name is used instead.
   * </pre>
   */
  public static final class StrategyServiceStub
      extends io.grpc.stub.AbstractAsyncStub<StrategyServiceStub> {
    private StrategyServiceStub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected StrategyServiceStub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new StrategyServiceStub(channel, callOptions);
    }

    /**
     * <pre>
     * Registers a strategy, for good when this answers. The same name with the same spec answers with the existing one,
     * `registered` false. What is kept is what was set; defaults are those of the sidecar that reads it.
     * ALREADY_EXISTS: the same name with another spec. INVALID_ARGUMENT: a bad field or an unknown provider.
     * PERMISSION_DENIED: switched off by the operator. RESOURCE_EXHAUSTED (JOURNAL_FULL), UNAVAILABLE
     * (JOURNAL_UNAVAILABLE): the journal cannot be written, and nothing was registered.
     * </pre>
     */
    public void registerStrategy(dev.batchllm.v1.RegisterStrategyRequest request,
        io.grpc.stub.StreamObserver<dev.batchllm.v1.RegisterStrategyResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getRegisterStrategyMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Shows a strategy. NOT_FOUND: no such name. UNAVAILABLE: it is not known here, and the shared journal cannot be asked.
     * </pre>
     */
    public void getStrategy(dev.batchllm.v1.GetStrategyRequest request,
        io.grpc.stub.StreamObserver<dev.batchllm.v1.GetStrategyResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getGetStrategyMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Lists all strategies by name. UNAVAILABLE: the shared journal cannot be asked.
     * </pre>
     */
    public void listStrategies(dev.batchllm.v1.ListStrategiesRequest request,
        io.grpc.stub.StreamObserver<dev.batchllm.v1.ListStrategiesResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getListStrategiesMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Removes a strategy that was registered by RPC, for good when this answers; its context cache stays until it is
     * deleted or expires. Other sidecars that share the journal offer it to no new batch, and go on with those that have
     * it. NOT_FOUND: no such name. FAILED_PRECONDITION: it is from the file, or a stream of this sidecar uses it.
     * RESOURCE_EXHAUSTED, UNAVAILABLE: as in RegisterStrategy; it is still there.
     * </pre>
     */
    public void unregisterStrategy(dev.batchllm.v1.UnregisterStrategyRequest request,
        io.grpc.stub.StreamObserver<dev.batchllm.v1.UnregisterStrategyResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getUnregisterStrategyMethod(), getCallOptions()), request, responseObserver);
    }
  }

  /**
   * A stub to allow clients to do synchronous rpc calls to service StrategyService.
   * <pre>
   * Keeps the named, shared strategies.
   * The operator's file declares providers (endpoint, credentials, quota) and strategies; applications may register more
   * strategies on those providers. No RPC can set a URL, a key, a file path or code.
   * What is registered by RPC is kept in the journal: it outlives the sidecar, so that its batches can go on, and all
   * sidecars that share a journal offer it. With `journal.url = "memory"` it lasts until the sidecar ends; registering at
   * an application's start costs nothing. What cannot be used after a change of the operator's file stays in the journal
   * until it is unregistered; a strategy of the file with the same name is used instead.
   * </pre>
   */
  public static final class StrategyServiceBlockingV2Stub
      extends io.grpc.stub.AbstractBlockingStub<StrategyServiceBlockingV2Stub> {
    private StrategyServiceBlockingV2Stub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected StrategyServiceBlockingV2Stub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new StrategyServiceBlockingV2Stub(channel, callOptions);
    }

    /**
     * <pre>
     * Registers a strategy, for good when this answers. The same name with the same spec answers with the existing one,
     * `registered` false. What is kept is what was set; defaults are those of the sidecar that reads it.
     * ALREADY_EXISTS: the same name with another spec. INVALID_ARGUMENT: a bad field or an unknown provider.
     * PERMISSION_DENIED: switched off by the operator. RESOURCE_EXHAUSTED (JOURNAL_FULL), UNAVAILABLE
     * (JOURNAL_UNAVAILABLE): the journal cannot be written, and nothing was registered.
     * </pre>
     */
    public dev.batchllm.v1.RegisterStrategyResponse registerStrategy(dev.batchllm.v1.RegisterStrategyRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getRegisterStrategyMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Shows a strategy. NOT_FOUND: no such name. UNAVAILABLE: it is not known here, and the shared journal cannot be asked.
     * </pre>
     */
    public dev.batchllm.v1.GetStrategyResponse getStrategy(dev.batchllm.v1.GetStrategyRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getGetStrategyMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Lists all strategies by name. UNAVAILABLE: the shared journal cannot be asked.
     * </pre>
     */
    public dev.batchllm.v1.ListStrategiesResponse listStrategies(dev.batchllm.v1.ListStrategiesRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getListStrategiesMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Removes a strategy that was registered by RPC, for good when this answers; its context cache stays until it is
     * deleted or expires. Other sidecars that share the journal offer it to no new batch, and go on with those that have
     * it. NOT_FOUND: no such name. FAILED_PRECONDITION: it is from the file, or a stream of this sidecar uses it.
     * RESOURCE_EXHAUSTED, UNAVAILABLE: as in RegisterStrategy; it is still there.
     * </pre>
     */
    public dev.batchllm.v1.UnregisterStrategyResponse unregisterStrategy(dev.batchllm.v1.UnregisterStrategyRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getUnregisterStrategyMethod(), getCallOptions(), request);
    }
  }

  /**
   * A stub to allow clients to do limited synchronous rpc calls to service StrategyService.
   * <pre>
   * Keeps the named, shared strategies.
   * The operator's file declares providers (endpoint, credentials, quota) and strategies; applications may register more
   * strategies on those providers. No RPC can set a URL, a key, a file path or code.
   * What is registered by RPC is kept in the journal: it outlives the sidecar, so that its batches can go on, and all
   * sidecars that share a journal offer it. With `journal.url = "memory"` it lasts until the sidecar ends; registering at
   * an application's start costs nothing. What cannot be used after a change of the operator's file stays in the journal
   * until it is unregistered; a strategy of the file with the same name is used instead.
   * </pre>
   */
  public static final class StrategyServiceBlockingStub
      extends io.grpc.stub.AbstractBlockingStub<StrategyServiceBlockingStub> {
    private StrategyServiceBlockingStub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected StrategyServiceBlockingStub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new StrategyServiceBlockingStub(channel, callOptions);
    }

    /**
     * <pre>
     * Registers a strategy, for good when this answers. The same name with the same spec answers with the existing one,
     * `registered` false. What is kept is what was set; defaults are those of the sidecar that reads it.
     * ALREADY_EXISTS: the same name with another spec. INVALID_ARGUMENT: a bad field or an unknown provider.
     * PERMISSION_DENIED: switched off by the operator. RESOURCE_EXHAUSTED (JOURNAL_FULL), UNAVAILABLE
     * (JOURNAL_UNAVAILABLE): the journal cannot be written, and nothing was registered.
     * </pre>
     */
    public dev.batchllm.v1.RegisterStrategyResponse registerStrategy(dev.batchllm.v1.RegisterStrategyRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getRegisterStrategyMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Shows a strategy. NOT_FOUND: no such name. UNAVAILABLE: it is not known here, and the shared journal cannot be asked.
     * </pre>
     */
    public dev.batchllm.v1.GetStrategyResponse getStrategy(dev.batchllm.v1.GetStrategyRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getGetStrategyMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Lists all strategies by name. UNAVAILABLE: the shared journal cannot be asked.
     * </pre>
     */
    public dev.batchllm.v1.ListStrategiesResponse listStrategies(dev.batchllm.v1.ListStrategiesRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getListStrategiesMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Removes a strategy that was registered by RPC, for good when this answers; its context cache stays until it is
     * deleted or expires. Other sidecars that share the journal offer it to no new batch, and go on with those that have
     * it. NOT_FOUND: no such name. FAILED_PRECONDITION: it is from the file, or a stream of this sidecar uses it.
     * RESOURCE_EXHAUSTED, UNAVAILABLE: as in RegisterStrategy; it is still there.
     * </pre>
     */
    public dev.batchllm.v1.UnregisterStrategyResponse unregisterStrategy(dev.batchllm.v1.UnregisterStrategyRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getUnregisterStrategyMethod(), getCallOptions(), request);
    }
  }

  /**
   * A stub to allow clients to do ListenableFuture-style rpc calls to service StrategyService.
   * <pre>
   * Keeps the named, shared strategies.
   * The operator's file declares providers (endpoint, credentials, quota) and strategies; applications may register more
   * strategies on those providers. No RPC can set a URL, a key, a file path or code.
   * What is registered by RPC is kept in the journal: it outlives the sidecar, so that its batches can go on, and all
   * sidecars that share a journal offer it. With `journal.url = "memory"` it lasts until the sidecar ends; registering at
   * an application's start costs nothing. What cannot be used after a change of the operator's file stays in the journal
   * until it is unregistered; a strategy of the file with the same name is used instead.
   * </pre>
   */
  public static final class StrategyServiceFutureStub
      extends io.grpc.stub.AbstractFutureStub<StrategyServiceFutureStub> {
    private StrategyServiceFutureStub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected StrategyServiceFutureStub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new StrategyServiceFutureStub(channel, callOptions);
    }

    /**
     * <pre>
     * Registers a strategy, for good when this answers. The same name with the same spec answers with the existing one,
     * `registered` false. What is kept is what was set; defaults are those of the sidecar that reads it.
     * ALREADY_EXISTS: the same name with another spec. INVALID_ARGUMENT: a bad field or an unknown provider.
     * PERMISSION_DENIED: switched off by the operator. RESOURCE_EXHAUSTED (JOURNAL_FULL), UNAVAILABLE
     * (JOURNAL_UNAVAILABLE): the journal cannot be written, and nothing was registered.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.batchllm.v1.RegisterStrategyResponse> registerStrategy(
        dev.batchllm.v1.RegisterStrategyRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getRegisterStrategyMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Shows a strategy. NOT_FOUND: no such name. UNAVAILABLE: it is not known here, and the shared journal cannot be asked.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.batchllm.v1.GetStrategyResponse> getStrategy(
        dev.batchllm.v1.GetStrategyRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getGetStrategyMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Lists all strategies by name. UNAVAILABLE: the shared journal cannot be asked.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.batchllm.v1.ListStrategiesResponse> listStrategies(
        dev.batchllm.v1.ListStrategiesRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getListStrategiesMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Removes a strategy that was registered by RPC, for good when this answers; its context cache stays until it is
     * deleted or expires. Other sidecars that share the journal offer it to no new batch, and go on with those that have
     * it. NOT_FOUND: no such name. FAILED_PRECONDITION: it is from the file, or a stream of this sidecar uses it.
     * RESOURCE_EXHAUSTED, UNAVAILABLE: as in RegisterStrategy; it is still there.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.batchllm.v1.UnregisterStrategyResponse> unregisterStrategy(
        dev.batchllm.v1.UnregisterStrategyRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getUnregisterStrategyMethod(), getCallOptions()), request);
    }
  }

  private static final int METHODID_REGISTER_STRATEGY = 0;
  private static final int METHODID_GET_STRATEGY = 1;
  private static final int METHODID_LIST_STRATEGIES = 2;
  private static final int METHODID_UNREGISTER_STRATEGY = 3;

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
        case METHODID_REGISTER_STRATEGY:
          serviceImpl.registerStrategy((dev.batchllm.v1.RegisterStrategyRequest) request,
              (io.grpc.stub.StreamObserver<dev.batchllm.v1.RegisterStrategyResponse>) responseObserver);
          break;
        case METHODID_GET_STRATEGY:
          serviceImpl.getStrategy((dev.batchllm.v1.GetStrategyRequest) request,
              (io.grpc.stub.StreamObserver<dev.batchllm.v1.GetStrategyResponse>) responseObserver);
          break;
        case METHODID_LIST_STRATEGIES:
          serviceImpl.listStrategies((dev.batchllm.v1.ListStrategiesRequest) request,
              (io.grpc.stub.StreamObserver<dev.batchllm.v1.ListStrategiesResponse>) responseObserver);
          break;
        case METHODID_UNREGISTER_STRATEGY:
          serviceImpl.unregisterStrategy((dev.batchllm.v1.UnregisterStrategyRequest) request,
              (io.grpc.stub.StreamObserver<dev.batchllm.v1.UnregisterStrategyResponse>) responseObserver);
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
        default:
          throw new AssertionError();
      }
    }
  }

  public static final io.grpc.ServerServiceDefinition bindService(AsyncService service) {
    return io.grpc.ServerServiceDefinition.builder(getServiceDescriptor())
        .addMethod(
          getRegisterStrategyMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.batchllm.v1.RegisterStrategyRequest,
              dev.batchllm.v1.RegisterStrategyResponse>(
                service, METHODID_REGISTER_STRATEGY)))
        .addMethod(
          getGetStrategyMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.batchllm.v1.GetStrategyRequest,
              dev.batchllm.v1.GetStrategyResponse>(
                service, METHODID_GET_STRATEGY)))
        .addMethod(
          getListStrategiesMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.batchllm.v1.ListStrategiesRequest,
              dev.batchllm.v1.ListStrategiesResponse>(
                service, METHODID_LIST_STRATEGIES)))
        .addMethod(
          getUnregisterStrategyMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.batchllm.v1.UnregisterStrategyRequest,
              dev.batchllm.v1.UnregisterStrategyResponse>(
                service, METHODID_UNREGISTER_STRATEGY)))
        .build();
  }

  private static abstract class StrategyServiceBaseDescriptorSupplier
      implements io.grpc.protobuf.ProtoFileDescriptorSupplier, io.grpc.protobuf.ProtoServiceDescriptorSupplier {
    StrategyServiceBaseDescriptorSupplier() {}

    @java.lang.Override
    public com.google.protobuf.Descriptors.FileDescriptor getFileDescriptor() {
      return dev.batchllm.v1.StrategyServiceOuterClass.getDescriptor();
    }

    @java.lang.Override
    public com.google.protobuf.Descriptors.ServiceDescriptor getServiceDescriptor() {
      return getFileDescriptor().findServiceByName("StrategyService");
    }
  }

  private static final class StrategyServiceFileDescriptorSupplier
      extends StrategyServiceBaseDescriptorSupplier {
    StrategyServiceFileDescriptorSupplier() {}
  }

  private static final class StrategyServiceMethodDescriptorSupplier
      extends StrategyServiceBaseDescriptorSupplier
      implements io.grpc.protobuf.ProtoMethodDescriptorSupplier {
    private final java.lang.String methodName;

    StrategyServiceMethodDescriptorSupplier(java.lang.String methodName) {
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
      synchronized (StrategyServiceGrpc.class) {
        result = serviceDescriptor;
        if (result == null) {
          serviceDescriptor = result = io.grpc.ServiceDescriptor.newBuilder(SERVICE_NAME)
              .setSchemaDescriptor(new StrategyServiceFileDescriptorSupplier())
              .addMethod(getRegisterStrategyMethod())
              .addMethod(getGetStrategyMethod())
              .addMethod(getListStrategiesMethod())
              .addMethod(getUnregisterStrategyMethod())
              .build();
        }
      }
    }
    return result;
  }
}
