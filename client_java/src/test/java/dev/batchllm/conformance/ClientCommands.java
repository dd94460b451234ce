package dev.batchllm.conformance;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.protobuf.Message;
import dev.batchllm.client.Batch;
import dev.batchllm.client.BatchClient;
import dev.batchllm.client.BatchLlmException;
import dev.batchllm.client.BatchOptions;
import dev.batchllm.client.ClientOptions;
import dev.batchllm.client.ItemOptions;
import dev.batchllm.client.MessageTooLargeException;
import dev.batchllm.client.ResumePolicy;
import dev.batchllm.v1.CancelBatchResponse;
import dev.batchllm.v1.CreateOrReuseRequest;
import dev.batchllm.v1.DeleteBatchResponse;
import dev.batchllm.v1.DeleteResponse;
import dev.batchllm.v1.GetBatchResponse;
import dev.batchllm.v1.GetCacheResponse;
import dev.batchllm.v1.GetStrategyResponse;
import dev.batchllm.v1.ListBatchesResponse;
import dev.batchllm.v1.ListCachesResponse;
import dev.batchllm.v1.ListStrategiesResponse;
import dev.batchllm.v1.OpenBatch;
import dev.batchllm.v1.ProcessItemRequest;
import dev.batchllm.v1.ProcessItemResponse;
import dev.batchllm.v1.RegisterStrategyRequest;
import dev.batchllm.v1.RenewRequest;
import dev.batchllm.v1.UnregisterStrategyResponse;
import dev.batchllm.v1.WorkItem;
import dev.batchllm.v1.WorkItemResult;
import java.io.IOException;
import java.time.Duration;
import java.util.AbstractCollection;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.atomic.AtomicInteger;

/** The client, as its users call it. */
final class ClientCommands implements Adapter.Commands {
  private record Running(Batch batch, Items items) {}

  private final Map<String, BatchClient> clients = new ConcurrentHashMap<>();
  private final Map<String, Running> batches = new ConcurrentHashMap<>();

  @Override
  public JsonObject run(JsonObject command) throws Exception {
    try {
      return answer(command);
    } catch (BatchLlmException error) {
      return failed(error);
    } catch (IllegalArgumentException | IllegalStateException refused) {
      return refused(refused);
    }
  }

  private JsonObject answer(JsonObject command) throws Exception {
    switch (Adapter.text(command, "do")) {
      case "hello" -> {
        return Adapter.hello("java", "client");
      }
      case "connect" ->
          clients.put(
              Adapter.text(command, "client"),
              BatchClient.connect(Adapter.text(command, "target"), options(command)));
      case "close" -> clients.remove(Adapter.text(command, "client")).close();
      case "call" -> {
        return Adapter.with("response", call(command));
      }
      case "batch.start" -> start(command);
      case "batch.resume" -> {
        Batch batch =
            client(command)
                .resumeBatch(
                    Adapter.text(command, "batch_id"),
                    command.has("after") ? command.get("after").getAsLong() : 0,
                    timed(command, BatchOptions.defaults()));
        batches.put(Adapter.text(command, "batch"), new Running(batch, new Items()));
      }
      case "batch.add" -> running(command).items().addAll(items(command));
      case "batch.end" -> running(command).items().end();
      case "batch.opened" -> {
        return Adapter.with("opened", running(command).batch().opened());
      }
      case "batch.next" -> {
        return next(command);
      }
      case "batch.status" -> {
        return status(running(command));
      }
      case "batch.cancel" -> running(command).batch().cancel();
      case "batch.leave" -> {
        JsonObject left = new JsonObject();
        left.addProperty("items", running(command).batch().leave());
        return left;
      }
      default -> {
        return Adapter.unknown(command);
      }
    }
    return new JsonObject();
  }

  private static ClientOptions options(JsonObject command) {
    ResumePolicy policy = ResumePolicy.DEFAULT;
    if (command.has("resume_policy")) {
      JsonObject bounds = command.getAsJsonObject("resume_policy");
      policy =
          new ResumePolicy(
              bounds.has("max_tries") ? bounds.get("max_tries").getAsInt() : policy.maxTries(),
              seconds(bounds, "max_away_seconds", policy.maxAway()),
              seconds(bounds, "max_asked_seconds", policy.maxAsked()),
              seconds(bounds, "initial_backoff_seconds", policy.initialBackoff()),
              seconds(bounds, "max_backoff_seconds", policy.maxBackoff()));
    }
    return ClientOptions.defaults().withResumePolicy(policy);
  }

  private void start(JsonObject command) throws IOException {
    OpenBatch open =
        Adapter.message(command.getAsJsonObject("open"), OpenBatch.getDefaultInstance());
    BatchOptions options =
        timed(command, BatchOptions.strategy(open.getStrategy()))
            .withBatchId(open.getBatchId())
            .withMaxConcurrency(open.getMaxConcurrency())
            .withResultOrder(open.getResultOrder())
            .withLabels(open.getLabelsMap())
            .withResumeAfterSequence(open.getResumeAfterSequence())
            .withDetach(open.getDetach())
            .withResume(Adapter.flag(command, "resume", true));
    Items items = new Items();
    items.addAll(items(command));
    Batch batch;
    if (Adapter.flag(command, "more", false)) {
      batch = client(command).processBatch(items, options);
    } else {
      items.end();
      batch = client(command).processBatch(items.asCollection(), options);
    }
    batches.put(Adapter.text(command, "batch"), new Running(batch, items));
  }

  private JsonObject next(JsonObject command) throws Exception {
    Running running = running(command);
    int count = command.has("count") ? command.get("count").getAsInt() : Integer.MAX_VALUE;
    JsonArray results = new JsonArray();
    JsonObject answer = new JsonObject();
    try {
      Iterator<WorkItemResult> iterator = running.batch().iterator();
      while (results.size() < count && iterator.hasNext()) {
        results.add(Adapter.json(iterator.next()));
      }
      if (results.size() < count) {
        answer.add("totals", Adapter.json(running.batch().totals()));
      }
    } catch (BatchLlmException error) {
      answer = failed(error);
    } catch (IllegalStateException refused) {
      answer = refused(refused);
    }
    answer.add("results", results);
    return answer;
  }

  private static JsonObject status(Running running) throws IOException {
    JsonObject status = new JsonObject();
    status.addProperty("batch_id", running.batch().batchId());
    status.addProperty("last_sequence", running.batch().lastSequence());
    status.addProperty("taken", running.items().taken.get());
    if (running.batch().progress().isPresent()) {
      status.add("progress", Adapter.json(running.batch().progress().get()));
    }
    return status;
  }

  private Message call(JsonObject command) throws IOException {
    BatchClient client = client(command);
    JsonObject request = command.getAsJsonObject("request");
    String name = request.has("name") ? Adapter.text(request, "name") : "";
    String batchId = request.has("batch_id") ? Adapter.text(request, "batch_id") : "";
    String strategy = request.has("strategy") ? Adapter.text(request, "strategy") : "";
    return switch (Adapter.text(command, "method")) {
      case "ProcessItem" -> {
        var item = Adapter.message(request, ProcessItemRequest.getDefaultInstance());
        ItemOptions options = ItemOptions.idempotencyKey(item.getIdempotencyKey());
        if (command.has("timeout")) {
          options = options.withTimeout(seconds(command, "timeout", null));
        }
        yield ProcessItemResponse.newBuilder()
            .setResult(client.processItem(item.getItem(), options))
            .build();
      }
      case "GetBatch" -> GetBatchResponse.newBuilder().setBatch(client.getBatch(batchId)).build();
      case "ListBatches" -> {
        int size = request.has("page_size") ? request.get("page_size").getAsInt() : 0;
        yield ListBatchesResponse.newBuilder().addAllBatches(client.listBatches(size)).build();
      }
      case "CancelBatch" ->
          CancelBatchResponse.newBuilder().setBatch(client.cancelBatch(batchId)).build();
      case "DeleteBatch" -> {
        client.deleteBatch(batchId);
        yield DeleteBatchResponse.getDefaultInstance();
      }
      case "RegisterStrategy" ->
          client.registerStrategy(
              Adapter.message(request, RegisterStrategyRequest.getDefaultInstance()).getSpec());
      case "GetStrategy" ->
          GetStrategyResponse.newBuilder().setStrategy(client.getStrategy(name)).build();
      case "ListStrategies" ->
          ListStrategiesResponse.newBuilder().addAllStrategies(client.listStrategies()).build();
      case "UnregisterStrategy" -> {
        client.unregisterStrategy(name);
        yield UnregisterStrategyResponse.getDefaultInstance();
      }
      case "CreateOrReuse" -> {
        var create = Adapter.message(request, CreateOrReuseRequest.getDefaultInstance());
        yield create.hasTtl()
            ? client.createOrReuseCache(strategy, duration(create.getTtl()))
            : client.createOrReuseCache(strategy);
      }
      case "Renew" -> {
        var renew = Adapter.message(request, RenewRequest.getDefaultInstance());
        yield renew.hasTtl()
            ? client.renewCache(strategy, duration(renew.getTtl()))
            : client.renewCache(strategy);
      }
      case "Delete" -> DeleteResponse.newBuilder().setDeleted(client.deleteCache(strategy)).build();
      case "GetCache" -> GetCacheResponse.newBuilder().setCache(client.getCache(strategy)).build();
      case "ListCaches" ->
          ListCachesResponse.newBuilder().addAllCaches(client.listCaches()).build();
      default -> throw new UnsupportedOperationException(Adapter.text(command, "method"));
    };
  }

  private BatchClient client(JsonObject command) {
    return clients.get(Adapter.text(command, "client"));
  }

  private Running running(JsonObject command) {
    return batches.get(Adapter.text(command, "batch"));
  }

  private static List<WorkItem> items(JsonObject command) throws IOException {
    List<WorkItem> items = new ArrayList<>();
    for (JsonElement item : command.getAsJsonArray("items")) {
      items.add(Adapter.message(item.getAsJsonObject(), WorkItem.getDefaultInstance()));
    }
    return items;
  }

  private static BatchOptions timed(JsonObject command, BatchOptions options) {
    return command.has("timeout")
        ? options.withTimeout(seconds(command, "timeout", null))
        : options;
  }

  private static Duration seconds(JsonObject values, String name, Duration otherwise) {
    return values.has(name)
        ? Duration.ofNanos((long) (values.get(name).getAsDouble() * 1e9))
        : otherwise;
  }

  private static Duration duration(com.google.protobuf.Duration message) {
    return Duration.ofSeconds(message.getSeconds(), message.getNanos());
  }

  private static JsonObject failed(BatchLlmException error) {
    JsonObject fields = new JsonObject();
    fields.addProperty("code", error.code().name());
    fields.addProperty("message", error.getMessage());
    if (!error.reason().isEmpty()) {
      fields.addProperty("reason", error.reason());
    }
    JsonObject metadata = new JsonObject();
    error.metadata().forEach(metadata::addProperty);
    fields.add("metadata", metadata);
    error.retryAfter().ifPresent(wait -> fields.addProperty("retry_after", wait.toNanos() / 1e9));
    if (error instanceof MessageTooLargeException large) {
      fields.addProperty("item_id", large.itemId());
      fields.addProperty("size", large.size());
      fields.addProperty("limit", large.limit());
    }
    JsonObject answer = new JsonObject();
    answer.add("error", fields);
    return answer;
  }

  private static JsonObject refused(RuntimeException refused) {
    JsonObject fields = new JsonObject();
    fields.addProperty("code", "REFUSED");
    fields.addProperty("message", refused.getMessage());
    JsonObject answer = new JsonObject();
    answer.add("error", fields);
    return answer;
  }

  /** A source that waits for more items until it is ended. */
  private static final class Items implements Iterator<WorkItem> {
    private static final WorkItem END = WorkItem.newBuilder().setItemId("the end").build();

    private final BlockingQueue<WorkItem> queue = new LinkedBlockingQueue<>();
    private final AtomicInteger taken = new AtomicInteger();
    private WorkItem next;

    void addAll(List<WorkItem> items) {
      queue.addAll(items);
    }

    void end() {
      queue.add(END);
    }

    /** The same where all are there, as a collection, which goes out in full frames. */
    Collection<WorkItem> asCollection() {
      return new AbstractCollection<>() {
        @Override
        public Iterator<WorkItem> iterator() {
          return Items.this;
        }

        @Override
        public int size() {
          return queue.size();
        }
      };
    }

    @Override
    public boolean hasNext() {
      try {
        if (next == null) {
          next = queue.take();
        }
      } catch (InterruptedException over) {
        Thread.currentThread().interrupt();
        return false;
      }
      return next != END;
    }

    @Override
    public WorkItem next() {
      WorkItem item = next;
      next = null;
      taken.incrementAndGet();
      return item;
    }
  }
}
