package dev.batchllm.client;

import dev.batchllm.v1.BatchInfo;
import dev.batchllm.v1.BatchServiceGrpc;
import dev.batchllm.v1.Cache;
import dev.batchllm.v1.CacheLifecycleServiceGrpc;
import dev.batchllm.v1.CancelBatchRequest;
import dev.batchllm.v1.CreateOrReuseRequest;
import dev.batchllm.v1.CreateOrReuseResponse;
import dev.batchllm.v1.DeleteBatchRequest;
import dev.batchllm.v1.DeleteRequest;
import dev.batchllm.v1.GetBatchRequest;
import dev.batchllm.v1.GetCacheRequest;
import dev.batchllm.v1.GetStrategyRequest;
import dev.batchllm.v1.ListBatchesRequest;
import dev.batchllm.v1.ListBatchesResponse;
import dev.batchllm.v1.ListCachesRequest;
import dev.batchllm.v1.ListStrategiesRequest;
import dev.batchllm.v1.ProcessItemRequest;
import dev.batchllm.v1.RegisterStrategyRequest;
import dev.batchllm.v1.RegisterStrategyResponse;
import dev.batchllm.v1.RenewRequest;
import dev.batchllm.v1.RenewResponse;
import dev.batchllm.v1.Strategy;
import dev.batchllm.v1.StrategyServiceGrpc;
import dev.batchllm.v1.StrategySpec;
import dev.batchllm.v1.UnregisterStrategyRequest;
import dev.batchllm.v1.WorkItem;
import dev.batchllm.v1.WorkItemResult;
import io.grpc.MethodDescriptor;
import java.time.Duration;
import java.util.Iterator;
import java.util.List;
import java.util.NoSuchElementException;
import java.util.Objects;
import java.util.concurrent.CompletableFuture;
import java.util.stream.Stream;

/**
 * One connection to a sidecar; may be shared by threads.
 *
 * <p>Every method that talks to the sidecar throws a {@link BatchLlmException}. A thread that is
 * interrupted while it waits gets a {@link CallCancelledException}, its interrupt flag set.
 */
public final class BatchClient implements AutoCloseable {
  private final Connection connection;
  private final ClientOptions options;
  private final Limits limits;

  private BatchClient(String target, ClientOptions options) {
    this.options = Objects.requireNonNull(options, "options");
    this.limits = options.limits().within(0);
    this.connection = new Connection(target, options.clock());
  }

  /**
   * Makes a client with the default options. It connects when it is used first.
   *
   * @param target the sidecar's address as gRPC takes it: {@code
   *     unix:/run/batch-llm/batch-llm.sock} or {@code host:port}
   * @return to be closed
   * @throws IllegalArgumentException the target can be none
   */
  public static BatchClient connect(String target) {
    return connect(target, ClientOptions.defaults());
  }

  /**
   * Makes a client. It connects when it is used first.
   *
   * @param target the sidecar's address as gRPC takes it: {@code
   *     unix:/run/batch-llm/batch-llm.sock} or {@code host:port}
   * @param options how it behaves
   * @return to be closed
   * @throws IllegalArgumentException the target can be none
   */
  public static BatchClient connect(String target, ClientOptions options) {
    return new BatchClient(target, options);
  }

  /**
   * Waits until the sidecar can be reached.
   *
   * @param timeout at most so long
   * @throws SidecarUnavailableException it cannot
   * @throws IllegalArgumentException the timeout is negative
   */
  public void waitUntilReady(Duration timeout) {
    connection.waitUntilReady(timeout);
  }

  /** Closes the connection; what is in flight is cancelled. Closing twice is no error. */
  @Override
  public void close() {
    connection.close();
  }

  /**
   * Streams items in; results come as they finish.
   *
   * @param items read by another thread as the sidecar takes them. A collection goes out in full
   *     frames; anything else may block: what it gave before is sent meanwhile. A batch that ends
   *     early interrupts it
   * @param options how the batch is run
   * @return results to iterate over, to be closed. What the server refuses comes then
   * @throws IllegalArgumentException a batch without id is to be resumed
   */
  public Batch processBatch(Iterable<WorkItem> items, BatchOptions options) {
    return start(Source.of(Objects.requireNonNull(items, "items")), options);
  }

  /**
   * Streams items in; results come as they finish. See {@link #processBatch(Iterable,
   * BatchOptions)}.
   *
   * @param items read by another thread as the sidecar takes them
   * @param options how the batch is run
   * @return results to iterate over, to be closed
   */
  public Batch processBatch(Iterator<WorkItem> items, BatchOptions options) {
    return start(Source.of(Objects.requireNonNull(items, "items")), options);
  }

  /**
   * Streams items in; results come as they finish. See {@link #processBatch(Iterable,
   * BatchOptions)}.
   *
   * @param items read by another thread as the sidecar takes them, then closed
   * @param options how the batch is run
   * @return results to iterate over, to be closed
   */
  public Batch processBatch(Stream<WorkItem> items, BatchOptions options) {
    return start(Source.of(Objects.requireNonNull(items, "items")), options);
  }

  /**
   * Takes up a batch that exists, with no further items: its results to its end. See {@link
   * #resumeBatch(String, long, BatchOptions)}.
   *
   * @param batchId its id
   * @param after results up to this sequence were received; 0: none
   * @return results to iterate over, to be closed
   * @throws BatchNotFoundException there is none
   */
  public Batch resumeBatch(String batchId, long after) {
    return resumeBatch(batchId, after, BatchOptions.defaults());
  }

  /**
   * Takes up a batch that exists, with no further items: its results to its end.
   *
   * <p>What the sidecar holds is all there is of the batch from then on. To send items that it does
   * not hold yet, use {@code processBatch} with {@link BatchOptions#withBatchId}.
   *
   * @param batchId its id
   * @param after results up to this sequence were received; 0: none
   * @param options how it is run; whether it is detached is as it was opened first
   * @return results to iterate over, to be closed
   * @throws BatchNotFoundException there is none
   */
  public Batch resumeBatch(String batchId, long after, BatchOptions options) {
    Objects.requireNonNull(options, "options");
    BatchInfo batch = getBatch(batchId); // opening one that is not there would make it
    return processBatch(
        List.of(),
        options.withBatchId(batchId).withResumeAfterSequence(after).withDetach(batch.getDetach()));
  }

  /**
   * Runs one item, which must name its strategy. A failed item is a result too.
   *
   * @param item the item
   * @return its result
   * @throws MessageTooLargeException it was not sent
   * @throws IllegalArgumentException a text of it is no valid Unicode
   */
  public WorkItemResult processItem(WorkItem item) {
    return processItem(item, ItemOptions.defaults());
  }

  /**
   * Runs one item, which must name its strategy. A failed item is a result too.
   *
   * @param item the item
   * @param options idempotency key and deadline
   * @return its result
   * @throws MessageTooLargeException it was not sent
   * @throws IllegalArgumentException a text of it is no valid Unicode
   * @throws IdempotencyConflictException the key was used for another item
   */
  public WorkItemResult processItem(WorkItem item, ItemOptions options) {
    return connection.await(processItemAsync(item, options));
  }

  /**
   * Runs one item as {@link #processItem(WorkItem, ItemOptions)} does, without waiting.
   *
   * @param item the item
   * @param options idempotency key and deadline
   * @return its result, or the {@link BatchLlmException} that {@code processItem} would throw.
   *     Cancelling it cancels the call
   * @throws IllegalArgumentException a text of the item is no valid Unicode
   */
  public CompletableFuture<WorkItemResult> processItemAsync(WorkItem item, ItemOptions options) {
    Objects.requireNonNull(item, "item");
    Objects.requireNonNull(options, "options");
    ProcessItemRequest request =
        ProcessItemRequest.newBuilder().setItem(item).setIdempotencyKey(options.key()).build();
    ResumePolicy policy = options.key().isEmpty() ? null : this.options.resumePolicy();
    Retries retries =
        new Retries(policy, options.timeout(this.options.timeout()), this.options.clock());
    CompletableFuture<WorkItemResult> result = new CompletableFuture<>();
    try {
      limits.cost(item);
      tryItem(request, retries, result);
    } catch (BatchLlmException refused) {
      result.completeExceptionally(refused);
    }
    return result;
  }

  private void tryItem(
      ProcessItemRequest request, Retries retries, CompletableFuture<WorkItemResult> result) {
    if (result.isDone()) {
      return;
    }
    var answer =
        connection.call(BatchServiceGrpc.getProcessItemMethod(), request, retries.timeout());
    result.whenComplete((done, failed) -> answer.cancel(true));
    answer.whenComplete(
        (response, failed) -> {
          if (response != null) {
            result.complete(response.getResult());
          } else if (connection.closed().isDone() || !(failed instanceof BatchLlmException error)) {
            result.completeExceptionally(failed);
          } else {
            tryItemAgain(request, retries, result, error);
          }
        });
  }

  private void tryItemAgain(
      ProcessItemRequest request,
      Retries retries,
      CompletableFuture<WorkItemResult> result,
      BatchLlmException error) {
    try {
      Duration delay = retries.delay(error);
      CompletableFuture.anyOf(connection.closed(), options.clock().after(delay))
          .thenRun(() -> tryItem(request, retries, result));
    } catch (BatchLlmException last) {
      result.completeExceptionally(last);
    }
  }

  /**
   * Shows a batch.
   *
   * @param batchId its id
   * @return the batch
   * @throws BatchNotFoundException no such id
   */
  public BatchInfo getBatch(String batchId) {
    return call(
            BatchServiceGrpc.getGetBatchMethod(),
            GetBatchRequest.newBuilder()
                .setBatchId(Objects.requireNonNull(batchId, "batchId"))
                .build())
        .getBatch();
  }

  /**
   * Lists all batches by id, ended ones included until their retention is over.
   *
   * @return asked for 100 at a time, while it is iterated over
   */
  public Iterable<BatchInfo> listBatches() {
    return listBatches(0);
  }

  /**
   * Lists all batches by id, ended ones included until their retention is over.
   *
   * @param pageSize how many are asked for at a time, at most 1,000; 0: the server's default, 100
   * @return asked for while it is iterated over
   */
  public Iterable<BatchInfo> listBatches(int pageSize) {
    return () -> new Pages(pageSize);
  }

  private final class Pages implements Iterator<BatchInfo> {
    private final ListBatchesRequest.Builder request;
    private Iterator<BatchInfo> page = List.<BatchInfo>of().iterator();
    private boolean last;

    Pages(int pageSize) {
      request = ListBatchesRequest.newBuilder().setPageSize(pageSize);
    }

    @Override
    public boolean hasNext() {
      while (!page.hasNext() && !last) {
        ListBatchesResponse response =
            call(BatchServiceGrpc.getListBatchesMethod(), request.build());
        page = response.getBatchesList().iterator();
        last = response.getNextPageToken().isEmpty();
        request.setPageToken(response.getNextPageToken());
      }
      return page.hasNext();
    }

    @Override
    public BatchInfo next() {
      if (!hasNext()) {
        throw new NoSuchElementException("there are no more batches");
      }
      return page.next();
    }
  }

  /**
   * Ends a batch: items that have not ended get a result that says CANCELLED. Cancelling one that
   * has ended is no error.
   *
   * @param batchId its id
   * @return the batch as it is then
   * @throws BatchNotFoundException no such id
   */
  public BatchInfo cancelBatch(String batchId) {
    return call(
            BatchServiceGrpc.getCancelBatchMethod(),
            CancelBatchRequest.newBuilder()
                .setBatchId(Objects.requireNonNull(batchId, "batchId"))
                .build())
        .getBatch();
  }

  /**
   * Erases a batch that has ended, its prompts and outputs included.
   *
   * @param batchId its id
   * @throws BatchNotFoundException no such id
   * @throws BatchNotFinishedException it has not ended
   */
  public void deleteBatch(String batchId) {
    call(
        BatchServiceGrpc.getDeleteBatchMethod(),
        DeleteBatchRequest.newBuilder()
            .setBatchId(Objects.requireNonNull(batchId, "batchId"))
            .build());
  }

  /**
   * Registers a strategy.
   *
   * @param spec the strategy
   * @return what is in force, and whether it is new: false if it existed with this very spec
   * @throws AlreadyExistsException the name has another spec
   */
  public RegisterStrategyResponse registerStrategy(StrategySpec spec) {
    return call(
        StrategyServiceGrpc.getRegisterStrategyMethod(),
        RegisterStrategyRequest.newBuilder().setSpec(Objects.requireNonNull(spec, "spec")).build());
  }

  /**
   * Shows a strategy.
   *
   * @param name its name
   * @return the strategy
   * @throws NotFoundException no such name
   */
  public Strategy getStrategy(String name) {
    return call(
            StrategyServiceGrpc.getGetStrategyMethod(),
            GetStrategyRequest.newBuilder().setName(Objects.requireNonNull(name, "name")).build())
        .getStrategy();
  }

  /**
   * Lists all strategies.
   *
   * @return by name
   */
  public List<Strategy> listStrategies() {
    return call(
            StrategyServiceGrpc.getListStrategiesMethod(),
            ListStrategiesRequest.getDefaultInstance())
        .getStrategiesList();
  }

  /**
   * Removes a strategy that was registered by a client.
   *
   * @param name its name
   * @throws NotFoundException no such name
   * @throws FailedPreconditionException it is from the operator's file, or in use
   */
  public void unregisterStrategy(String name) {
    call(
        StrategyServiceGrpc.getUnregisterStrategyMethod(),
        UnregisterStrategyRequest.newBuilder()
            .setName(Objects.requireNonNull(name, "name"))
            .build());
  }

  /**
   * Makes sure that a strategy's cache exists; a new one lives as long as the strategy says.
   *
   * @param strategy its name
   * @return the cache, and whether it existed
   */
  public CreateOrReuseResponse createOrReuseCache(String strategy) {
    return createOrReuse(
        CreateOrReuseRequest.newBuilder()
            .setStrategy(Objects.requireNonNull(strategy, "strategy")));
  }

  /**
   * Makes sure that a strategy's cache exists.
   *
   * @param strategy its name
   * @param ttl the life of a new one, at least 1 s
   * @return the cache, and whether it existed
   */
  public CreateOrReuseResponse createOrReuseCache(String strategy, Duration ttl) {
    return createOrReuse(
        CreateOrReuseRequest.newBuilder()
            .setStrategy(Objects.requireNonNull(strategy, "strategy"))
            .setTtl(toMessage(ttl)));
  }

  private CreateOrReuseResponse createOrReuse(CreateOrReuseRequest.Builder request) {
    return call(CacheLifecycleServiceGrpc.getCreateOrReuseMethod(), request.build());
  }

  /**
   * Lets a cache live from now as long as its strategy says.
   *
   * @param strategy the strategy's name
   * @return the cache, and whether it had ended and was created anew
   * @throws NotFoundException there is none
   */
  public RenewResponse renewCache(String strategy) {
    return renew(
        RenewRequest.newBuilder().setStrategy(Objects.requireNonNull(strategy, "strategy")));
  }

  /**
   * Lets a cache live {@code ttl} from now.
   *
   * @param strategy the strategy's name
   * @param ttl at least 1 s
   * @return the cache, and whether it had ended and was created anew
   * @throws NotFoundException there is none
   */
  public RenewResponse renewCache(String strategy, Duration ttl) {
    return renew(
        RenewRequest.newBuilder()
            .setStrategy(Objects.requireNonNull(strategy, "strategy"))
            .setTtl(toMessage(ttl)));
  }

  private RenewResponse renew(RenewRequest.Builder request) {
    return call(CacheLifecycleServiceGrpc.getRenewMethod(), request.build());
  }

  /**
   * Deletes a strategy's cache.
   *
   * @param strategy the strategy's name
   * @return whether there was one
   */
  public boolean deleteCache(String strategy) {
    return call(
            CacheLifecycleServiceGrpc.getDeleteMethod(),
            DeleteRequest.newBuilder()
                .setStrategy(Objects.requireNonNull(strategy, "strategy"))
                .build())
        .getDeleted();
  }

  /**
   * Shows a strategy's cache.
   *
   * @param strategy the strategy's name
   * @return the cache
   * @throws NotFoundException there is none
   */
  public Cache getCache(String strategy) {
    return call(
            CacheLifecycleServiceGrpc.getGetCacheMethod(),
            GetCacheRequest.newBuilder()
                .setStrategy(Objects.requireNonNull(strategy, "strategy"))
                .build())
        .getCache();
  }

  /**
   * Lists all caches that the sidecar holds, expired ones included.
   *
   * @return by strategy
   */
  public List<Cache> listCaches() {
    return call(
            CacheLifecycleServiceGrpc.getListCachesMethod(), ListCachesRequest.getDefaultInstance())
        .getCachesList();
  }

  private Batch start(Source source, BatchOptions batch) {
    Objects.requireNonNull(batch, "options");
    connection.checkOpen();
    var opening = batch.opening();
    ResumePolicy policy = batch.resume() ? options.resumePolicy() : null;
    Retries retries = new Retries(policy, batch.timeout(), options.clock());
    Outgoing outgoing = new Outgoing(source, limits, connection.executor());
    Incoming incoming = new Incoming(opening, outgoing, retries, batch.onProgress());
    return new Batch(connection, outgoing, incoming, retries);
  }

  private <Q, R> R call(MethodDescriptor<Q, R> method, Q request) {
    return connection.await(connection.call(method, request, options.timeout()));
  }

  private static com.google.protobuf.Duration toMessage(Duration ttl) {
    Objects.requireNonNull(ttl, "ttl");
    return com.google.protobuf.Duration.newBuilder()
        .setSeconds(ttl.getSeconds())
        .setNanos(ttl.getNano())
        .build();
  }
}
