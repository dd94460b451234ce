package dev.batchllm.v1;

import static io.grpc.MethodDescriptor.generateFullMethodName;

/**
 * <pre>
 * Looks after the context caches of strategies with cached content.
 * Nobody has to call it: a cached strategy creates, reuses and renews its cache by itself. It is for jobs that want to
 * pay for a cache ahead, keep it longer, or delete it when they end. Same model, content, instruction and tags, same
 * cache: over items, strategies, streams, runs and restarts.
 * All: NOT_FOUND for an unknown strategy, FAILED_PRECONDITION for one without cached content.
 * </pre>
 */
@io.grpc.stub.annotations.GrpcGenerated
public final class CacheLifecycleServiceGrpc {

  private CacheLifecycleServiceGrpc() {}

  public static final java.lang.String SERVICE_NAME = "batchllm.v1.CacheLifecycleService";

  // Static method descriptors that strictly reflect the proto.
  private static volatile io.grpc.MethodDescriptor<dev.batchllm.v1.CreateOrReuseRequest,
      dev.batchllm.v1.CreateOrReuseResponse> getCreateOrReuseMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "CreateOrReuse",
      requestType = dev.batchllm.v1.CreateOrReuseRequest.class,
      responseType = dev.batchllm.v1.CreateOrReuseResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.batchllm.v1.CreateOrReuseRequest,
      dev.batchllm.v1.CreateOrReuseResponse> getCreateOrReuseMethod() {
    io.grpc.MethodDescriptor<dev.batchllm.v1.CreateOrReuseRequest, dev.batchllm.v1.CreateOrReuseResponse> getCreateOrReuseMethod;
    if ((getCreateOrReuseMethod = CacheLifecycleServiceGrpc.getCreateOrReuseMethod) == null) {
      synchronized (CacheLifecycleServiceGrpc.class) {
        if ((getCreateOrReuseMethod = CacheLifecycleServiceGrpc.getCreateOrReuseMethod) == null) {
          CacheLifecycleServiceGrpc.getCreateOrReuseMethod = getCreateOrReuseMethod =
              io.grpc.MethodDescriptor.<dev.batchllm.v1.CreateOrReuseRequest, dev.batchllm.v1.CreateOrReuseResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "CreateOrReuse"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.batchllm.v1.CreateOrReuseRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.batchllm.v1.CreateOrReuseResponse.getDefaultInstance()))
              .setSchemaDescriptor(new CacheLifecycleServiceMethodDescriptorSupplier("CreateOrReuse"))
              .build();
        }
      }
    }
    return getCreateOrReuseMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.batchllm.v1.RenewRequest,
      dev.batchllm.v1.RenewResponse> getRenewMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "Renew",
      requestType = dev.batchllm.v1.RenewRequest.class,
      responseType = dev.batchllm.v1.RenewResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.batchllm.v1.RenewRequest,
      dev.batchllm.v1.RenewResponse> getRenewMethod() {
    io.grpc.MethodDescriptor<dev.batchllm.v1.RenewRequest, dev.batchllm.v1.RenewResponse> getRenewMethod;
    if ((getRenewMethod = CacheLifecycleServiceGrpc.getRenewMethod) == null) {
      synchronized (CacheLifecycleServiceGrpc.class) {
        if ((getRenewMethod = CacheLifecycleServiceGrpc.getRenewMethod) == null) {
          CacheLifecycleServiceGrpc.getRenewMethod = getRenewMethod =
              io.grpc.MethodDescriptor.<dev.batchllm.v1.RenewRequest, dev.batchllm.v1.RenewResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "Renew"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.batchllm.v1.RenewRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.batchllm.v1.RenewResponse.getDefaultInstance()))
              .setSchemaDescriptor(new CacheLifecycleServiceMethodDescriptorSupplier("Renew"))
              .build();
        }
      }
    }
    return getRenewMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.batchllm.v1.DeleteRequest,
      dev.batchllm.v1.DeleteResponse> getDeleteMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "Delete",
      requestType = dev.batchllm.v1.DeleteRequest.class,
      responseType = dev.batchllm.v1.DeleteResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.batchllm.v1.DeleteRequest,
      dev.batchllm.v1.DeleteResponse> getDeleteMethod() {
    io.grpc.MethodDescriptor<dev.batchllm.v1.DeleteRequest, dev.batchllm.v1.DeleteResponse> getDeleteMethod;
    if ((getDeleteMethod = CacheLifecycleServiceGrpc.getDeleteMethod) == null) {
      synchronized (CacheLifecycleServiceGrpc.class) {
        if ((getDeleteMethod = CacheLifecycleServiceGrpc.getDeleteMethod) == null) {
          CacheLifecycleServiceGrpc.getDeleteMethod = getDeleteMethod =
              io.grpc.MethodDescriptor.<dev.batchllm.v1.DeleteRequest, dev.batchllm.v1.DeleteResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "Delete"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.batchllm.v1.DeleteRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.batchllm.v1.DeleteResponse.getDefaultInstance()))
              .setSchemaDescriptor(new CacheLifecycleServiceMethodDescriptorSupplier("Delete"))
              .build();
        }
      }
    }
    return getDeleteMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.batchllm.v1.GetCacheRequest,
      dev.batchllm.v1.GetCacheResponse> getGetCacheMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "GetCache",
      requestType = dev.batchllm.v1.GetCacheRequest.class,
      responseType = dev.batchllm.v1.GetCacheResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.batchllm.v1.GetCacheRequest,
      dev.batchllm.v1.GetCacheResponse> getGetCacheMethod() {
    io.grpc.MethodDescriptor<dev.batchllm.v1.GetCacheRequest, dev.batchllm.v1.GetCacheResponse> getGetCacheMethod;
    if ((getGetCacheMethod = CacheLifecycleServiceGrpc.getGetCacheMethod) == null) {
      synchronized (CacheLifecycleServiceGrpc.class) {
        if ((getGetCacheMethod = CacheLifecycleServiceGrpc.getGetCacheMethod) == null) {
          CacheLifecycleServiceGrpc.getGetCacheMethod = getGetCacheMethod =
              io.grpc.MethodDescriptor.<dev.batchllm.v1.GetCacheRequest, dev.batchllm.v1.GetCacheResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "GetCache"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.batchllm.v1.GetCacheRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.batchllm.v1.GetCacheResponse.getDefaultInstance()))
              .setSchemaDescriptor(new CacheLifecycleServiceMethodDescriptorSupplier("GetCache"))
              .build();
        }
      }
    }
    return getGetCacheMethod;
  }

  private static volatile io.grpc.MethodDescriptor<dev.batchllm.v1.ListCachesRequest,
      dev.batchllm.v1.ListCachesResponse> getListCachesMethod;

  @io.grpc.stub.annotations.RpcMethod(
      fullMethodName = SERVICE_NAME + '/' + "ListCaches",
      requestType = dev.batchllm.v1.ListCachesRequest.class,
      responseType = dev.batchllm.v1.ListCachesResponse.class,
      methodType = io.grpc.MethodDescriptor.MethodType.UNARY)
  public static io.grpc.MethodDescriptor<dev.batchllm.v1.ListCachesRequest,
      dev.batchllm.v1.ListCachesResponse> getListCachesMethod() {
    io.grpc.MethodDescriptor<dev.batchllm.v1.ListCachesRequest, dev.batchllm.v1.ListCachesResponse> getListCachesMethod;
    if ((getListCachesMethod = CacheLifecycleServiceGrpc.getListCachesMethod) == null) {
      synchronized (CacheLifecycleServiceGrpc.class) {
        if ((getListCachesMethod = CacheLifecycleServiceGrpc.getListCachesMethod) == null) {
          CacheLifecycleServiceGrpc.getListCachesMethod = getListCachesMethod =
              io.grpc.MethodDescriptor.<dev.batchllm.v1.ListCachesRequest, dev.batchllm.v1.ListCachesResponse>newBuilder()
              .setType(io.grpc.MethodDescriptor.MethodType.UNARY)
              .setFullMethodName(generateFullMethodName(SERVICE_NAME, "ListCaches"))
              .setSampledToLocalTracing(true)
              .setRequestMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.batchllm.v1.ListCachesRequest.getDefaultInstance()))
              .setResponseMarshaller(io.grpc.protobuf.ProtoUtils.marshaller(
                  dev.batchllm.v1.ListCachesResponse.getDefaultInstance()))
              .setSchemaDescriptor(new CacheLifecycleServiceMethodDescriptorSupplier("ListCaches"))
              .build();
        }
      }
    }
    return getListCachesMethod;
  }

  /**
   * Creates a new async stub that supports all call types for the service
   */
  public static CacheLifecycleServiceStub newStub(io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<CacheLifecycleServiceStub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<CacheLifecycleServiceStub>() {
        @java.lang.Override
        public CacheLifecycleServiceStub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new CacheLifecycleServiceStub(channel, callOptions);
        }
      };
    return CacheLifecycleServiceStub.newStub(factory, channel);
  }

  /**
   * Creates a new blocking-style stub that supports all types of calls on the service
   */
  public static CacheLifecycleServiceBlockingV2Stub newBlockingV2Stub(
      io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<CacheLifecycleServiceBlockingV2Stub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<CacheLifecycleServiceBlockingV2Stub>() {
        @java.lang.Override
        public CacheLifecycleServiceBlockingV2Stub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new CacheLifecycleServiceBlockingV2Stub(channel, callOptions);
        }
      };
    return CacheLifecycleServiceBlockingV2Stub.newStub(factory, channel);
  }

  /**
   * Creates a new blocking-style stub that supports unary and streaming output calls on the service
   */
  public static CacheLifecycleServiceBlockingStub newBlockingStub(
      io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<CacheLifecycleServiceBlockingStub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<CacheLifecycleServiceBlockingStub>() {
        @java.lang.Override
        public CacheLifecycleServiceBlockingStub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new CacheLifecycleServiceBlockingStub(channel, callOptions);
        }
      };
    return CacheLifecycleServiceBlockingStub.newStub(factory, channel);
  }

  /**
   * Creates a new ListenableFuture-style stub that supports unary calls on the service
   */
  public static CacheLifecycleServiceFutureStub newFutureStub(
      io.grpc.Channel channel) {
    io.grpc.stub.AbstractStub.StubFactory<CacheLifecycleServiceFutureStub> factory =
      new io.grpc.stub.AbstractStub.StubFactory<CacheLifecycleServiceFutureStub>() {
        @java.lang.Override
        public CacheLifecycleServiceFutureStub newStub(io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
          return new CacheLifecycleServiceFutureStub(channel, callOptions);
        }
      };
    return CacheLifecycleServiceFutureStub.newStub(factory, channel);
  }

  /**
   * <pre>
   * Looks after the context caches of strategies with cached content.
   * Nobody has to call it: a cached strategy creates, reuses and renews its cache by itself. It is for jobs that want to
   * pay for a cache ahead, keep it longer, or delete it when they end. Same model, content, instruction and tags, same
   * cache: over items, strategies, streams, runs and restarts.
   * All: NOT_FOUND for an unknown strategy, FAILED_PRECONDITION for one without cached content.
   * </pre>
   */
  public interface AsyncService {

    /**
     * <pre>
     * Makes sure that the strategy's cache exists. Where the provider will not cache the content that is no error: the
     * cache's state says so, and items carry the content themselves.
     * </pre>
     */
    default void createOrReuse(dev.batchllm.v1.CreateOrReuseRequest request,
        io.grpc.stub.StreamObserver<dev.batchllm.v1.CreateOrReuseResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getCreateOrReuseMethod(), responseObserver);
    }

    /**
     * <pre>
     * Moves the cache's expiry to `ttl` from now; an expired one is created anew. NOT_FOUND: there is none.
     * </pre>
     */
    default void renew(dev.batchllm.v1.RenewRequest request,
        io.grpc.stub.StreamObserver<dev.batchllm.v1.RenewResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getRenewMethod(), responseObserver);
    }

    /**
     * <pre>
     * Deletes the cache. Deleting none is not an error. The next item creates it again.
     * </pre>
     */
    default void delete(dev.batchllm.v1.DeleteRequest request,
        io.grpc.stub.StreamObserver<dev.batchllm.v1.DeleteResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getDeleteMethod(), responseObserver);
    }

    /**
     * <pre>
     * Shows the strategy's cache. NOT_FOUND: there is none.
     * </pre>
     */
    default void getCache(dev.batchllm.v1.GetCacheRequest request,
        io.grpc.stub.StreamObserver<dev.batchllm.v1.GetCacheResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getGetCacheMethod(), responseObserver);
    }

    /**
     * <pre>
     * Lists the caches that this sidecar's state holds, expired ones included, then strategies that run without one
     * because their provider will not cache the content.
     * </pre>
     */
    default void listCaches(dev.batchllm.v1.ListCachesRequest request,
        io.grpc.stub.StreamObserver<dev.batchllm.v1.ListCachesResponse> responseObserver) {
      io.grpc.stub.ServerCalls.asyncUnimplementedUnaryCall(getListCachesMethod(), responseObserver);
    }
  }

  /**
   * Base class for the server implementation of the service CacheLifecycleService.
   * <pre>
   * Looks after the context caches of strategies with cached content.
   * Nobody has to call it: a cached strategy creates, reuses and renews its cache by itself. It is for jobs that want to
   * pay for a cache ahead, keep it longer, or delete it when they end. Same model, content, instruction and tags, same
   * cache: over items, strategies, streams, runs and restarts.
   * All: NOT_FOUND for an unknown strategy, FAILED_PRECONDITION for one without cached content.
   * </pre>
   */
  public static abstract class CacheLifecycleServiceImplBase
      implements io.grpc.BindableService, AsyncService {

    @java.lang.Override public final io.grpc.ServerServiceDefinition bindService() {
      return CacheLifecycleServiceGrpc.bindService(this);
    }
  }

  /**
   * A stub to allow clients to do asynchronous rpc calls to service CacheLifecycleService.
   * <pre>
   * Looks after the context caches of strategies with cached content.
   * Nobody has to call it: a cached strategy creates, reuses and renews its cache by itself. It is for jobs that want to
   * pay for a cache ahead, keep it longer, or delete it when they end. Same model, content, instruction and tags, same
   * cache: over items, strategies, streams, runs and restarts.
   * All: NOT_FOUND for an unknown strategy, FAILED_PRECONDITION for one without cached content.
   * </pre>
   */
  public static final class CacheLifecycleServiceStub
      extends io.grpc.stub.AbstractAsyncStub<CacheLifecycleServiceStub> {
    private CacheLifecycleServiceStub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected CacheLifecycleServiceStub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new CacheLifecycleServiceStub(channel, callOptions);
    }

    /**
     * <pre>
     * Makes sure that the strategy's cache exists. Where the provider will not cache the content that is no error: the
     * cache's state says so, and items carry the content themselves.
     * </pre>
     */
    public void createOrReuse(dev.batchllm.v1.CreateOrReuseRequest request,
        io.grpc.stub.StreamObserver<dev.batchllm.v1.CreateOrReuseResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getCreateOrReuseMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Moves the cache's expiry to `ttl` from now; an expired one is created anew. NOT_FOUND: there is none.
     * </pre>
     */
    public void renew(dev.batchllm.v1.RenewRequest request,
        io.grpc.stub.StreamObserver<dev.batchllm.v1.RenewResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getRenewMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Deletes the cache. Deleting none is not an error. The next item creates it again.
     * </pre>
     */
    public void delete(dev.batchllm.v1.DeleteRequest request,
        io.grpc.stub.StreamObserver<dev.batchllm.v1.DeleteResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getDeleteMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Shows the strategy's cache. NOT_FOUND: there is none.
     * </pre>
     */
    public void getCache(dev.batchllm.v1.GetCacheRequest request,
        io.grpc.stub.StreamObserver<dev.batchllm.v1.GetCacheResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getGetCacheMethod(), getCallOptions()), request, responseObserver);
    }

    /**
     * <pre>
     * Lists the caches that this sidecar's state holds, expired ones included, then strategies that run without one
     * because their provider will not cache the content.
     * </pre>
     */
    public void listCaches(dev.batchllm.v1.ListCachesRequest request,
        io.grpc.stub.StreamObserver<dev.batchllm.v1.ListCachesResponse> responseObserver) {
      io.grpc.stub.ClientCalls.asyncUnaryCall(
          getChannel().newCall(getListCachesMethod(), getCallOptions()), request, responseObserver);
    }
  }

  /**
   * A stub to allow clients to do synchronous rpc calls to service CacheLifecycleService.
   * <pre>
   * Looks after the context caches of strategies with cached content.
   * Nobody has to call it: a cached strategy creates, reuses and renews its cache by itself. It is for jobs that want to
   * pay for a cache ahead, keep it longer, or delete it when they end. Same model, content, instruction and tags, same
   * cache: over items, strategies, streams, runs and restarts.
   * All: NOT_FOUND for an unknown strategy, FAILED_PRECONDITION for one without cached content.
   * </pre>
   */
  public static final class CacheLifecycleServiceBlockingV2Stub
      extends io.grpc.stub.AbstractBlockingStub<CacheLifecycleServiceBlockingV2Stub> {
    private CacheLifecycleServiceBlockingV2Stub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected CacheLifecycleServiceBlockingV2Stub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new CacheLifecycleServiceBlockingV2Stub(channel, callOptions);
    }

    /**
     * <pre>
     * Makes sure that the strategy's cache exists. Where the provider will not cache the content that is no error: the
     * cache's state says so, and items carry the content themselves.
     * </pre>
     */
    public dev.batchllm.v1.CreateOrReuseResponse createOrReuse(dev.batchllm.v1.CreateOrReuseRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getCreateOrReuseMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Moves the cache's expiry to `ttl` from now; an expired one is created anew. NOT_FOUND: there is none.
     * </pre>
     */
    public dev.batchllm.v1.RenewResponse renew(dev.batchllm.v1.RenewRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getRenewMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Deletes the cache. Deleting none is not an error. The next item creates it again.
     * </pre>
     */
    public dev.batchllm.v1.DeleteResponse delete(dev.batchllm.v1.DeleteRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getDeleteMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Shows the strategy's cache. NOT_FOUND: there is none.
     * </pre>
     */
    public dev.batchllm.v1.GetCacheResponse getCache(dev.batchllm.v1.GetCacheRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getGetCacheMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Lists the caches that this sidecar's state holds, expired ones included, then strategies that run without one
     * because their provider will not cache the content.
     * </pre>
     */
    public dev.batchllm.v1.ListCachesResponse listCaches(dev.batchllm.v1.ListCachesRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getListCachesMethod(), getCallOptions(), request);
    }
  }

  /**
   * A stub to allow clients to do limited synchronous rpc calls to service CacheLifecycleService.
   * <pre>
   * Looks after the context caches of strategies with cached content.
   * Nobody has to call it: a cached strategy creates, reuses and renews its cache by itself. It is for jobs that want to
   * pay for a cache ahead, keep it longer, or delete it when they end. Same model, content, instruction and tags, same
   * cache: over items, strategies, streams, runs and restarts.
   * All: NOT_FOUND for an unknown strategy, FAILED_PRECONDITION for one without cached content.
   * </pre>
   */
  public static final class CacheLifecycleServiceBlockingStub
      extends io.grpc.stub.AbstractBlockingStub<CacheLifecycleServiceBlockingStub> {
    private CacheLifecycleServiceBlockingStub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected CacheLifecycleServiceBlockingStub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new CacheLifecycleServiceBlockingStub(channel, callOptions);
    }

    /**
     * <pre>
     * Makes sure that the strategy's cache exists. Where the provider will not cache the content that is no error: the
     * cache's state says so, and items carry the content themselves.
     * </pre>
     */
    public dev.batchllm.v1.CreateOrReuseResponse createOrReuse(dev.batchllm.v1.CreateOrReuseRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getCreateOrReuseMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Moves the cache's expiry to `ttl` from now; an expired one is created anew. NOT_FOUND: there is none.
     * </pre>
     */
    public dev.batchllm.v1.RenewResponse renew(dev.batchllm.v1.RenewRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getRenewMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Deletes the cache. Deleting none is not an error. The next item creates it again.
     * </pre>
     */
    public dev.batchllm.v1.DeleteResponse delete(dev.batchllm.v1.DeleteRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getDeleteMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Shows the strategy's cache. NOT_FOUND: there is none.
     * </pre>
     */
    public dev.batchllm.v1.GetCacheResponse getCache(dev.batchllm.v1.GetCacheRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getGetCacheMethod(), getCallOptions(), request);
    }

    /**
     * <pre>
     * Lists the caches that this sidecar's state holds, expired ones included, then strategies that run without one
     * because their provider will not cache the content.
     * </pre>
     */
    public dev.batchllm.v1.ListCachesResponse listCaches(dev.batchllm.v1.ListCachesRequest request) {
      return io.grpc.stub.ClientCalls.blockingUnaryCall(
          getChannel(), getListCachesMethod(), getCallOptions(), request);
    }
  }

  /**
   * A stub to allow clients to do ListenableFuture-style rpc calls to service CacheLifecycleService.
   * <pre>
   * Looks after the context caches of strategies with cached content.
   * Nobody has to call it: a cached strategy creates, reuses and renews its cache by itself. It is for jobs that want to
   * pay for a cache ahead, keep it longer, or delete it when they end. Same model, content, instruction and tags, same
   * cache: over items, strategies, streams, runs and restarts.
   * All: NOT_FOUND for an unknown strategy, FAILED_PRECONDITION for one without cached content.
   * </pre>
   */
  public static final class CacheLifecycleServiceFutureStub
      extends io.grpc.stub.AbstractFutureStub<CacheLifecycleServiceFutureStub> {
    private CacheLifecycleServiceFutureStub(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      super(channel, callOptions);
    }

    @java.lang.Override
    protected CacheLifecycleServiceFutureStub build(
        io.grpc.Channel channel, io.grpc.CallOptions callOptions) {
      return new CacheLifecycleServiceFutureStub(channel, callOptions);
    }

    /**
     * <pre>
     * Makes sure that the strategy's cache exists. Where the provider will not cache the content that is no error: the
     * cache's state says so, and items carry the content themselves.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.batchllm.v1.CreateOrReuseResponse> createOrReuse(
        dev.batchllm.v1.CreateOrReuseRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getCreateOrReuseMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Moves the cache's expiry to `ttl` from now; an expired one is created anew. NOT_FOUND: there is none.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.batchllm.v1.RenewResponse> renew(
        dev.batchllm.v1.RenewRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getRenewMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Deletes the cache. Deleting none is not an error. The next item creates it again.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.batchllm.v1.DeleteResponse> delete(
        dev.batchllm.v1.DeleteRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getDeleteMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Shows the strategy's cache. NOT_FOUND: there is none.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.batchllm.v1.GetCacheResponse> getCache(
        dev.batchllm.v1.GetCacheRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getGetCacheMethod(), getCallOptions()), request);
    }

    /**
     * <pre>
     * Lists the caches that this sidecar's state holds, expired ones included, then strategies that run without one
     * because their provider will not cache the content.
     * </pre>
     */
    public com.google.common.util.concurrent.ListenableFuture<dev.batchllm.v1.ListCachesResponse> listCaches(
        dev.batchllm.v1.ListCachesRequest request) {
      return io.grpc.stub.ClientCalls.futureUnaryCall(
          getChannel().newCall(getListCachesMethod(), getCallOptions()), request);
    }
  }

  private static final int METHODID_CREATE_OR_REUSE = 0;
  private static final int METHODID_RENEW = 1;
  private static final int METHODID_DELETE = 2;
  private static final int METHODID_GET_CACHE = 3;
  private static final int METHODID_LIST_CACHES = 4;

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
        case METHODID_CREATE_OR_REUSE:
          serviceImpl.createOrReuse((dev.batchllm.v1.CreateOrReuseRequest) request,
              (io.grpc.stub.StreamObserver<dev.batchllm.v1.CreateOrReuseResponse>) responseObserver);
          break;
        case METHODID_RENEW:
          serviceImpl.renew((dev.batchllm.v1.RenewRequest) request,
              (io.grpc.stub.StreamObserver<dev.batchllm.v1.RenewResponse>) responseObserver);
          break;
        case METHODID_DELETE:
          serviceImpl.delete((dev.batchllm.v1.DeleteRequest) request,
              (io.grpc.stub.StreamObserver<dev.batchllm.v1.DeleteResponse>) responseObserver);
          break;
        case METHODID_GET_CACHE:
          serviceImpl.getCache((dev.batchllm.v1.GetCacheRequest) request,
              (io.grpc.stub.StreamObserver<dev.batchllm.v1.GetCacheResponse>) responseObserver);
          break;
        case METHODID_LIST_CACHES:
          serviceImpl.listCaches((dev.batchllm.v1.ListCachesRequest) request,
              (io.grpc.stub.StreamObserver<dev.batchllm.v1.ListCachesResponse>) responseObserver);
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
          getCreateOrReuseMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.batchllm.v1.CreateOrReuseRequest,
              dev.batchllm.v1.CreateOrReuseResponse>(
                service, METHODID_CREATE_OR_REUSE)))
        .addMethod(
          getRenewMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.batchllm.v1.RenewRequest,
              dev.batchllm.v1.RenewResponse>(
                service, METHODID_RENEW)))
        .addMethod(
          getDeleteMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.batchllm.v1.DeleteRequest,
              dev.batchllm.v1.DeleteResponse>(
                service, METHODID_DELETE)))
        .addMethod(
          getGetCacheMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.batchllm.v1.GetCacheRequest,
              dev.batchllm.v1.GetCacheResponse>(
                service, METHODID_GET_CACHE)))
        .addMethod(
          getListCachesMethod(),
          io.grpc.stub.ServerCalls.asyncUnaryCall(
            new MethodHandlers<
              dev.batchllm.v1.ListCachesRequest,
              dev.batchllm.v1.ListCachesResponse>(
                service, METHODID_LIST_CACHES)))
        .build();
  }

  private static abstract class CacheLifecycleServiceBaseDescriptorSupplier
      implements io.grpc.protobuf.ProtoFileDescriptorSupplier, io.grpc.protobuf.ProtoServiceDescriptorSupplier {
    CacheLifecycleServiceBaseDescriptorSupplier() {}

    @java.lang.Override
    public com.google.protobuf.Descriptors.FileDescriptor getFileDescriptor() {
      return dev.batchllm.v1.CacheLifecycleServiceOuterClass.getDescriptor();
    }

    @java.lang.Override
    public com.google.protobuf.Descriptors.ServiceDescriptor getServiceDescriptor() {
      return getFileDescriptor().findServiceByName("CacheLifecycleService");
    }
  }

  private static final class CacheLifecycleServiceFileDescriptorSupplier
      extends CacheLifecycleServiceBaseDescriptorSupplier {
    CacheLifecycleServiceFileDescriptorSupplier() {}
  }

  private static final class CacheLifecycleServiceMethodDescriptorSupplier
      extends CacheLifecycleServiceBaseDescriptorSupplier
      implements io.grpc.protobuf.ProtoMethodDescriptorSupplier {
    private final java.lang.String methodName;

    CacheLifecycleServiceMethodDescriptorSupplier(java.lang.String methodName) {
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
      synchronized (CacheLifecycleServiceGrpc.class) {
        result = serviceDescriptor;
        if (result == null) {
          serviceDescriptor = result = io.grpc.ServiceDescriptor.newBuilder(SERVICE_NAME)
              .setSchemaDescriptor(new CacheLifecycleServiceFileDescriptorSupplier())
              .addMethod(getCreateOrReuseMethod())
              .addMethod(getRenewMethod())
              .addMethod(getDeleteMethod())
              .addMethod(getGetCacheMethod())
              .addMethod(getListCachesMethod())
              .build();
        }
      }
    }
    return result;
  }
}
