package dev.batchllm.client;

import static dev.batchllm.client.Helpers.eventually;
import static dev.batchllm.client.Helpers.item;
import static dev.batchllm.client.Helpers.items;
import static dev.batchllm.client.Helpers.slow;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.ByteString;
import com.google.protobuf.util.Durations;
import com.google.protobuf.util.Timestamps;
import dev.batchllm.v1.BatchInfo;
import dev.batchllm.v1.BatchState;
import dev.batchllm.v1.ErrorReason;
import dev.batchllm.v1.ResultOrder;
import dev.batchllm.v1.Strategy;
import dev.batchllm.v1.StrategySpec;
import dev.batchllm.v1.WorkItem;
import dev.batchllm.v1.WorkItemResult;
import io.grpc.Status;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashSet;
import java.util.Iterator;
import java.util.List;
import java.util.NoSuchElementException;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Consumer;
import java.util.logging.Logger;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.function.Executable;
import org.junit.jupiter.api.io.TempDir;

/** The client against a real sidecar. */
@Timeout(120)
class BatchClientTest {
  private static final BatchOptions ECHO = BatchOptions.strategy("echo");

  @TempDir static Path folder;
  private static Sidecar sidecar;
  private BatchClient client;

  @BeforeAll
  static void startSidecar() throws Exception {
    sidecar = new Sidecar(folder);
  }

  @AfterAll
  static void stopSidecar() throws Exception {
    sidecar.close();
  }

  @BeforeEach
  void connect() {
    client = BatchClient.connect(sidecar.target());
  }

  @AfterEach
  void close() {
    client.close();
  }

  private static List<String> ids(Iterable<WorkItemResult> results) {
    return StreamSupport.stream(results.spliterator(), false)
        .map(WorkItemResult::getItemId)
        .toList();
  }

  private static Set<String> numbers(int count) {
    return new HashSet<>(IntStream.range(0, count).mapToObj(Integer::toString).toList());
  }

  @Test
  void everyItemGetsItsResult() {
    try (Batch batch = client.processBatch(items(1000), ECHO)) {
      List<String> ids = ids(batch);
      assertEquals(1000, ids.size());
      assertEquals(numbers(1000), new HashSet<>(ids));
      assertEquals(1000, batch.totals().getSucceeded());
      assertEquals(batch.batchId(), batch.totals().getBatchId());
      assertEquals(1000, batch.lastSequence());
      assertFalse(batch.iterator().hasNext());
      assertThrows(NoSuchElementException.class, batch.iterator()::next);
    }
  }

  @Test
  void itemsMayBeAnIteratorOrACollectionAndResultsAStream() {
    try (Batch batch = client.processBatch(items(3).iterator(), ECHO)) {
      assertEquals(3, batch.stream().count());
    }
    try (Batch batch = client.processBatch(items(300).toList(), ECHO)) {
      assertEquals(300, batch.stream().count());
    }
    AtomicBoolean closed = new AtomicBoolean();
    Stream<WorkItem> stream = items(3).onClose(() -> closed.set(true));
    try (Batch batch = client.processBatch(stream, ECHO)) {
      assertEquals(3, batch.stream().count());
    }
    assertTrue(closed.get());
    try (Batch batch = client.processBatch(List.of(), ECHO)) {
      assertEquals(0, batch.stream().count());
      assertEquals(0, batch.totals().getTotalItems());
    }
  }

  @Test
  void aStreamIsClosedEvenIfTheBatchIsRefused() throws Exception {
    AtomicBoolean closed = new AtomicBoolean();
    Stream<WorkItem> stream = items(3).onClose(() -> closed.set(true));
    try (Batch batch = client.processBatch(stream, BatchOptions.strategy("no-such"))) {
      assertThrows(NotFoundException.class, batch::opened);
    }
    eventually(closed::get, "the stream stays open");
  }

  @Test
  void aUnixSocketDoesAsWell() {
    List<String> warnings = new CopyOnWriteArrayList<>();
    Logger netty = Logger.getLogger("io.grpc.netty.shaded.io.netty");
    netty.addHandler(Helpers.handler(warnings::add));
    String path = sidecar.unixTarget();
    for (String target : List.of(path, path.replace("unix:", "unix://"))) {
      try (var unix = BatchClient.connect(target);
          Batch batch = unix.processBatch(items(100), ECHO)) {
        unix.waitUntilReady(Duration.ofSeconds(10));
        assertEquals(100, batch.stream().count());
      }
    }
    assertEquals(List.of(), warnings);
  }

  @Test
  void aFailedItemIsAResult() {
    WorkItem bad =
        item(1).toBuilder()
            .setPrompt("{\"simulate\": {\"error\": {\"status\": 400, \"message\": \"no\"}}}")
            .build();
    try (Batch batch = client.processBatch(List.of(item(0), bad), ECHO)) {
      for (WorkItemResult result : batch) {
        assertEquals(result.getItemId().equals("1"), result.hasError());
      }
      assertEquals(1, batch.totals().getFailed());
    }
    WorkItem stranger = item(2).toBuilder().setStrategy("nobody").build();
    ErrorReason reason = client.processItem(stranger).getError().getReason();
    assertEquals(ErrorReason.ERROR_REASON_STRATEGY_NOT_FOUND, reason);
  }

  @Test
  void contextComesBackUntouched() {
    ByteString context = ByteString.copyFrom(new byte[] {0, 1, (byte) 0xff, (byte) 0x80});
    WorkItem item = item(0).toBuilder().setContext(context).build();
    try (Batch batch = client.processBatch(List.of(item), ECHO)) {
      assertEquals(context, batch.iterator().next().getContext());
    }
  }

  @Test
  void optionsReachTheSidecar() {
    BatchOptions options =
        ECHO.withBatchId("all-options")
            .withMaxConcurrency(2)
            .withResultOrder(ResultOrder.RESULT_ORDER_SUBMISSION)
            .withLabels(java.util.Map.of("job", "nightly"));
    List<WorkItem> items = List.of(slow(0, 200), item(1), item(2));
    try (Batch batch = client.processBatch(items, options)) {
      assertEquals("all-options", batch.opened().getBatchId());
      assertEquals(2, batch.opened().getMaxConcurrency());
      assertTrue(batch.opened().getDurable());
      assertEquals(List.of("0", "1", "2"), ids(batch));
    }
    assertEquals("nightly", client.getBatch("all-options").getLabelsOrThrow("job"));
  }

  @Test
  void whatTheSidecarRefusesHasItsClassReasonAndFacts() {
    try (Batch batch = client.processBatch(items(1), BatchOptions.strategy("nobody"))) {
      var error = assertThrows(NotFoundException.class, batch::opened);
      assertEquals(Status.Code.NOT_FOUND, error.code());
      assertEquals("STRATEGY_NOT_FOUND", error.reason());
      assertEquals("nobody", error.metadata().get("strategy"));
    }
    assertThrows(BatchNotFoundException.class, () -> client.getBatch("nobody"));
    assertThrows(BatchNotFoundException.class, () -> client.resumeBatch("nobody", 0));
    assertThrows(
        IllegalArgumentException.class,
        () -> client.processBatch(items(1), ECHO.withResumeAfterSequence(1)));
  }

  @Test
  void whatCannotBeATargetIsRefused() {
    for (String none : List.of("", "127.0.0.1:65536", "[::1]:123456789012", "http://127.0.0.1:1")) {
      var error =
          assertThrows(IllegalArgumentException.class, () -> BatchClient.connect(none).close());
      assertTrue(error.getMessage().contains(none.isEmpty() ? "host:port" : none), none);
    }
    for (String none : List.of("unix:", "unix://")) {
      refused(
          "the target must have a path after \"" + none + "\"", () -> BatchClient.connect(none));
    }
    BatchClient.connect("127.0.0.1:65535").close();
    BatchClient.connect("unix:/tmp/a:99999").close();
  }

  @Test
  void negativeTimeoutsAreRefused() {
    Duration negative = Duration.ofMillis(-1);
    String message = "timeout must be at least 0, not PT-0.001S";
    refused(message, () -> ClientOptions.defaults().withTimeout(negative));
    refused(message, () -> ECHO.withTimeout(negative));
    refused(message, () -> ItemOptions.defaults().withTimeout(negative));
    refused(message, () -> client.waitUntilReady(negative));
  }

  @Test
  void textThatIsNoUnicodeIsRefusedAndNotChanged() {
    String lone = "ab\ud83d";
    List<WorkItem> items =
        List.of(
            item(1).toBuilder().setItemId(lone).build(),
            item(1).toBuilder().setPrompt(lone).build(),
            item(1).toBuilder().setStrategy(lone).build());
    List<String> fields = List.of("itemId", "prompt", "strategy");
    for (int at = 0; at < fields.size(); at++) {
      WorkItem item = items.get(at);
      String message =
          "an item's %s must be valid Unicode: it has a lone surrogate at 2 (item \"%s\")"
              .formatted(fields.get(at), item.getItemId());
      refused(message, () -> client.processItem(item));
      try (Batch batch = client.processBatch(List.of(item), ECHO)) {
        refused(message, batch.iterator()::hasNext);
      }
    }
    refused("strategy must be valid Unicode", () -> BatchOptions.strategy(lone));
    refused("batchId must be valid Unicode", () -> ECHO.withBatchId("\udc00"));
    refused("key must be valid Unicode", () -> ItemOptions.idempotencyKey("\ude00\ud83d"));
    try (Batch batch = client.processBatch(List.of(item(1)), ECHO.withBatchId("\ud83d\ude00"))) {
      assertEquals("\ud83d\ude00", batch.opened().getBatchId());
    }
  }

  private static void refused(String message, Executable call) {
    var error = assertThrows(IllegalArgumentException.class, call);
    assertTrue(error.getMessage().startsWith(message), error.getMessage());
  }

  @Test
  void nullIsRefusedByName() {
    missing("target", () -> BatchClient.connect(null));
    missing("options", () -> BatchClient.connect("localhost:1", null));
    missing("timeout", () -> ClientOptions.defaults().withTimeout(null));
    missing("resumePolicy", () -> ClientOptions.defaults().withResumePolicy(null));
    missing("clock", () -> ClientOptions.defaults().withClock(null));
    missing("maxAway", () -> ResumePolicy.DEFAULT.withMaxAway(null));
    missing("maxAsked", () -> ResumePolicy.DEFAULT.withMaxAsked(null));
    missing("initialBackoff", () -> ResumePolicy.DEFAULT.withBackoff(null, Duration.ZERO));
    missing("maxBackoff", () -> ResumePolicy.DEFAULT.withBackoff(Duration.ZERO, null));
    missing("strategy", () -> BatchOptions.strategy(null));
    missing("batchId", () -> ECHO.withBatchId(null));
    missing("order", () -> ECHO.withResultOrder(null));
    missing("labels", () -> ECHO.withLabels(null));
    missing("the label job", () -> ECHO.withLabels(Collections.singletonMap("job", null)));
    missing("a label's name", () -> ECHO.withLabels(Collections.singletonMap(null, "job")));
    missing("timeout", () -> ECHO.withTimeout(null));
    missing("onProgress", () -> ECHO.withOnProgress(null));
    missing("key", () -> ItemOptions.idempotencyKey(null));
    missing("timeout", () -> ItemOptions.defaults().withTimeout(null));
    missing("timeout", () -> client.waitUntilReady(null));
    missing("items", () -> client.processBatch((Iterable<WorkItem>) null, ECHO));
    missing("items", () -> client.processBatch((Iterator<WorkItem>) null, ECHO));
    missing("items", () -> client.processBatch((Stream<WorkItem>) null, ECHO));
    missing("options", () -> client.processBatch(items(1), null));
    missing("batchId", () -> client.resumeBatch(null, 0));
    missing("options", () -> client.resumeBatch("b", 0, null));
    missing("item", () -> client.processItem(null));
    missing("options", () -> client.processItem(item(1), null));
    missing("batchId", () -> client.getBatch(null));
    missing("batchId", () -> client.cancelBatch(null));
    missing("batchId", () -> client.deleteBatch(null));
    missing("spec", () -> client.registerStrategy(null));
    missing("name", () -> client.getStrategy(null));
    missing("name", () -> client.unregisterStrategy(null));
    missing("strategy", () -> client.createOrReuseCache(null));
    missing("ttl", () -> client.createOrReuseCache("s", null));
    missing("strategy", () -> client.renewCache(null));
    missing("ttl", () -> client.renewCache("s", null));
    missing("strategy", () -> client.deleteCache(null));
    missing("strategy", () -> client.getCache(null));
  }

  private static void missing(String name, Executable call) {
    assertEquals(name, assertThrows(NullPointerException.class, call).getMessage());
  }

  @Test
  void nobodyAtTheTargetIsSaidSo() {
    String target = "unix:" + folder.resolve("nobody.sock");
    try (var lonely = BatchClient.connect(target)) {
      var error = assertThrows(SidecarUnavailableException.class, () -> lonely.getBatch("any"));
      assertTrue(error.getMessage().contains("no batch-llm sidecar answers at " + target));
      assertThrows(
          SidecarUnavailableException.class, () -> lonely.waitUntilReady(Duration.ofMillis(1)));
    }
  }

  @Test
  void whatIsTooLargeIsNotSent() {
    var small = ClientOptions.defaults().withMaxMessageBytes(1000);
    WorkItem large = item(1).toBuilder().setPrompt("x".repeat(2000)).setStrategy("echo").build();
    try (var careful = BatchClient.connect(sidecar.target(), small);
        Batch batch = careful.processBatch(List.of(item(0), large), ECHO)) {
      var error = assertThrows(MessageTooLargeException.class, () -> ids(batch));
      assertEquals("1", error.itemId());
      assertEquals(1000, error.limit());
      assertTrue(error.size() > 2000 && error.size() < 2100, error.getMessage());
      assertEquals(Status.Code.RESOURCE_EXHAUSTED, error.code());
      assertThrows(MessageTooLargeException.class, () -> careful.processItem(large));
    }
    // The sidecar's own limit, 16 MiB, is known once the batch has opened.
    var generous = ClientOptions.defaults().withMaxMessageBytes(100 << 20);
    WorkItem huge = item(1).toBuilder().setPrompt("x".repeat(17 << 20)).build();
    try (var careless = BatchClient.connect(sidecar.target(), generous);
        Batch batch = careless.processBatch(List.of(huge), ECHO)) {
      var error = assertThrows(MessageTooLargeException.class, () -> ids(batch));
      assertEquals(batch.opened().getMaxMessageBytes(), error.limit());
    }
  }

  @Test
  void whatTheSourceThrowsTheReaderGetsAsItIs() {
    RuntimeException bug = new IllegalStateException("a bug of the source");
    Stream<WorkItem> source =
        items(100)
            .peek(
                item -> {
                  if (item.getItemId().equals("50")) {
                    throw bug;
                  }
                });
    try (Batch batch = client.processBatch(source, ECHO)) {
      assertSame(bug, assertThrows(IllegalStateException.class, () -> ids(batch)));
      assertSame(bug, assertThrows(IllegalStateException.class, () -> ids(batch)));
      // No half-close: the sidecar must not take what it has for all there is.
      assertEquals(BatchState.BATCH_STATE_OPEN, client.getBatch(batch.batchId()).getState());
    }
  }

  @Test
  void aSourceThatWaitsHoldsNothingBack() {
    CountDownLatch answered = new CountDownLatch(1);
    Iterator<WorkItem> source =
        new Iterator<>() {
          private int next;

          @Override
          public boolean hasNext() {
            if (next == 1) {
              try {
                answered.await();
              } catch (InterruptedException cancelled) {
                Thread.currentThread().interrupt();
              }
            }
            return next < 2;
          }

          @Override
          public WorkItem next() {
            return item(next++);
          }
        };
    try (Batch batch = client.processBatch(source, ECHO)) {
      Iterator<WorkItemResult> results = batch.iterator();
      assertEquals("0", results.next().getItemId());
      answered.countDown();
      assertEquals("1", results.next().getItemId());
      assertFalse(results.hasNext());
    }
  }

  @Test
  void closingEarlyCancelsAndLeavesNoThread() throws Exception {
    CountDownLatch reading = new CountDownLatch(1);
    Stream<WorkItem> endless =
        Stream.concat(
            items(10),
            Stream.generate(
                () -> {
                  reading.countDown();
                  try {
                    new CountDownLatch(1).await();
                  } catch (InterruptedException cancelled) {
                    throw new IllegalStateException(cancelled);
                  }
                  return item(11);
                }));
    String batchId;
    try (Batch batch = client.processBatch(endless, ECHO)) {
      batchId = batch.batchId();
      batch.iterator().next();
      reading.await();
      assertTrue(Helpers.hasThread("batch-llm-source"));
    }
    eventually(() -> !Helpers.hasThread("batch-llm-source"), "the source's thread goes on");
    eventually(() -> !client.getBatch(batchId).getRunning(), "the sidecar goes on");
    assertEquals(BatchState.BATCH_STATE_OPEN, client.getBatch(batchId).getState());
    client.close();
    eventually(() -> !Helpers.hasThread("batch-llm-net"), "the network's thread goes on");
    eventually(() -> !Helpers.hasThread("batch-llm-calls"), "a thread of calls goes on");
  }

  @Test
  void anInterruptEndsTheWaitAndStaysSet() throws Exception {
    for (boolean single : new boolean[] {false, true}) {
      List<Object> seen = new ArrayList<>();
      CountDownLatch started = new CountDownLatch(1);
      WorkItem slow = slow(0, 60_000).toBuilder().setStrategy("echo").build();
      Thread reader =
          new Thread(
              () -> {
                try (Batch batch = client.processBatch(List.of(slow), ECHO)) {
                  batch.opened();
                  started.countDown();
                  Object result = single ? client.processItem(slow) : batch.iterator().next();
                  seen.add(result);
                } catch (CallCancelledException interrupted) {
                  seen.add(interrupted.getCause().getClass());
                }
                seen.add(Thread.currentThread().isInterrupted());
              });
      reader.start();
      started.await();
      reader.interrupt();
      reader.join();
      assertEquals(List.of(InterruptedException.class, true), seen);
    }
  }

  @Test
  void aDeadlineEndsABatchAndACall() {
    BatchOptions hasty = ECHO.withTimeout(Duration.ofMillis(300));
    try (Batch batch = client.processBatch(List.of(slow(0, 60_000)), hasty)) {
      assertThrows(DeadlineExceededException.class, () -> ids(batch));
    }
    WorkItem slow = slow(0, 60_000).toBuilder().setStrategy("echo").build();
    var options = ItemOptions.defaults().withTimeout(Duration.ofMillis(100));
    assertThrows(DeadlineExceededException.class, () -> client.processItem(slow, options));
  }

  @Test
  void aClosedClientSaysSoAndEndsWhatWasOpen() {
    Batch batch = client.processBatch(List.of(slow(0, 60_000)), ECHO);
    batch.opened();
    WorkItem slow = slow(1, 60_000).toBuilder().setStrategy("echo").build();
    var call = client.processItemAsync(slow, ItemOptions.idempotencyKey("closed"));
    client.close();
    client.close();
    assertThrows(CallCancelledException.class, () -> ids(batch));
    var ended = assertThrows(CompletionException.class, call::join);
    assertInstanceOf(CallCancelledException.class, ended.getCause());
    assertThrows(ClientClosedException.class, () -> client.getBatch("any"));
    assertThrows(ClientClosedException.class, () -> client.processBatch(items(1), ECHO));
  }

  @Test
  void aCloseEndsWhateverOtherThreadsBegin() throws Exception {
    WorkItem single = item(0).toBuilder().setStrategy("echo").build();
    List<Consumer<BatchClient>> uses =
        List.of(
            BatchClient::listStrategies,
            used -> used.processItem(single),
            used -> {
              try (Batch batch = used.processBatch(items(3), ECHO)) {
                ids(batch);
              }
            });
    for (int round = 0; round < 20; round++) {
      BatchClient used = BatchClient.connect(sidecar.target());
      CountDownLatch begun = new CountDownLatch(uses.size());
      List<CompletableFuture<Object>> ended = new ArrayList<>();
      for (Consumer<BatchClient> use : uses) {
        ended.add(
            CompletableFuture.supplyAsync(
                () -> {
                  try {
                    for (; ; begun.countDown()) {
                      use.accept(used);
                    }
                  } catch (CallCancelledException | ClientClosedException told) {
                    return true;
                  }
                },
                work -> new Thread(work).start()));
      }
      begun.await();
      used.close();
      for (CompletableFuture<Object> use : ended) {
        assertEquals(true, use.get(Helpers.BOUND.toSeconds(), TimeUnit.SECONDS));
      }
    }
  }

  @Test
  void cancelFromAnotherThreadEndsTheIteration() throws Exception {
    try (Batch batch = client.processBatch(List.of(slow(0, 60_000)), ECHO)) {
      batch.opened();
      CompletableFuture<?> reading = CompletableFuture.runAsync(() -> ids(batch));
      batch.cancel();
      var failed = assertThrows(CompletionException.class, reading::join);
      assertInstanceOf(CallCancelledException.class, failed.getCause());
    }
  }

  @Test
  void aSidecarThatCannotKeepUpStopsTheSource() throws Exception {
    // One at a time, and each takes its time: the sidecar's inbox and the window fill up.
    AtomicInteger taken = new AtomicInteger();
    int many = 1_000_000;
    Stream<WorkItem> source =
        IntStream.range(0, many)
            .mapToObj(number -> slow(number, 60_000))
            .peek(item -> taken.incrementAndGet());
    var bounded = ClientOptions.defaults().withUnconfirmed(100, 1 << 20);
    try (var other = BatchClient.connect(sidecar.target(), bounded);
        Batch batch = other.processBatch(source, BatchOptions.strategy("one"))) {
      batch.opened();
      // Confirmations are read by the one who iterates, who does not.
      eventually(() -> taken.get() >= 100, "the window is not filled");
      int before = -1;
      while (before != taken.get()) {
        before = taken.get();
        Thread.sleep(200);
      }
      assertTrue(before <= 101, "taken: " + before);
      client.cancelBatch(batch.batchId()); // or its one item in flight would go on
    }
  }

  @Test
  void progressIsReported() {
    List<Long> reports = new ArrayList<>();
    List<WorkItem> items = List.of(slow(0, 1500), item(1));
    BatchOptions options = ECHO.withOnProgress(report -> reports.add(report.getDone()));
    try (Batch batch = client.processBatch(items, options)) {
      assertTrue(batch.progress().isEmpty());
      assertEquals(2, batch.stream().count());
      assertFalse(reports.isEmpty());
      assertEquals(reports.get(reports.size() - 1), batch.progress().orElseThrow().getDone());
    }
  }

  @Test
  void singleItemsRunOnceForAKey() {
    WorkItem item = item(7).toBuilder().setStrategy("echo").build();
    ItemOptions key = ItemOptions.idempotencyKey("order-7");
    assertFalse(client.processItem(item, key).getReplayed());
    assertTrue(client.processItem(item, key).getReplayed());
    WorkItem other = item.toBuilder().setPrompt("Something else").build();
    assertThrows(IdempotencyConflictException.class, () -> client.processItem(other, key));
  }

  @Test
  void singleItemsMayBeFutures() {
    List<CompletableFuture<WorkItemResult>> futures =
        items(50)
            .map(item -> item.toBuilder().setStrategy("echo").build())
            .map(item -> client.processItemAsync(item, ItemOptions.defaults()))
            .toList();
    for (int number = 0; number < 50; number++) {
      assertEquals("" + number, futures.get(number).join().getItemId());
    }
    WorkItem slow = slow(0, 60_000).toBuilder().setStrategy("echo").build();
    CompletableFuture<WorkItemResult> cancelled =
        client.processItemAsync(slow, ItemOptions.defaults());
    cancelled.cancel(true);
    assertTrue(cancelled.isCancelled());
  }

  @Test
  void aBatchIsHandedOverAndTakenUpAgain() throws Exception {
    BatchOptions options = BatchOptions.strategy("one").withBatchId("handed").withDetach(true);
    try (Batch batch = client.processBatch(Stream.of(slow(0, 300), slow(1, 300)), options)) {
      assertEquals(2, batch.leave());
    }
    assertNotEquals(BatchState.BATCH_STATE_OPEN, client.getBatch("handed").getState());
    try (var other = BatchClient.connect(sidecar.target());
        Batch batch = other.resumeBatch("handed", 0)) {
      assertEquals(List.of("0", "1"), ids(batch));
    }
    try (Batch batch = client.resumeBatch("handed", 1)) {
      WorkItemResult last = batch.iterator().next();
      assertEquals(2, last.getSequence());
      assertTrue(last.getReplayed());
    }
    try (Batch batch = client.processBatch(items(1), ECHO)) {
      assertThrows(IllegalStateException.class, batch::leave);
    }
  }

  @Test
  void anotherProcessGoesOnWithTheSameItemsAndTheLastSequence() throws Exception {
    BatchOptions options =
        BatchOptions.strategy("one")
            .withBatchId("other-process")
            .withResultOrder(ResultOrder.RESULT_ORDER_SUBMISSION);
    long last;
    try (Batch batch = client.processBatch(items(200), options)) {
      batch.stream().limit(50).forEach(result -> {});
      last = batch.lastSequence();
    }
    assertEquals(50, last);
    eventually(() -> !client.getBatch("other-process").getRunning(), "the sidecar keeps the batch");
    try (var other = BatchClient.connect(sidecar.target());
        Batch batch = other.processBatch(items(200), options.withResumeAfterSequence(last))) {
      List<String> expected = IntStream.range(50, 200).mapToObj(Integer::toString).toList();
      assertEquals(expected, ids(batch));
    }
  }

  @Test
  void aBatchRidesOutAKilledSidecar(@TempDir Path own) throws Exception {
    try (Sidecar mortal = new Sidecar(own);
        var other = BatchClient.connect(mortal.unixTarget());
        Batch batch = other.processBatch(items(5000), ECHO)) {
      Set<String> ids = new HashSet<>();
      for (WorkItemResult result : batch) {
        assertTrue(ids.add(result.getItemId()));
        if (ids.size() == 500) {
          mortal.kill();
          mortal.start();
        }
      }
      assertEquals(numbers(5000), ids);
      assertEquals(5000, batch.totals().getTotalItems());
    }
  }

  @Test
  void batchesAreListedCancelledAndDeleted() {
    for (int number = 0; number < 5; number++) {
      BatchOptions options = ECHO.withBatchId("listed-" + number);
      try (Batch batch = client.processBatch(items(1), options)) {
        assertEquals(1, batch.stream().count());
      }
    }
    List<String> listed =
        StreamSupport.stream(client.listBatches(2).spliterator(), false)
            .map(BatchInfo::getBatchId)
            .filter(id -> id.startsWith("listed-"))
            .toList();
    assertEquals(List.of("listed-0", "listed-1", "listed-2", "listed-3", "listed-4"), listed);
    client.deleteBatch("listed-0");
    assertThrows(BatchNotFoundException.class, () -> client.deleteBatch("listed-0"));
    try (Batch batch =
        client.processBatch(List.of(slow(0, 60_000)), ECHO.withBatchId("ended-by-rpc"))) {
      batch.opened();
      assertThrows(BatchNotFinishedException.class, () -> client.deleteBatch("ended-by-rpc"));
      BatchInfo cancelled = client.cancelBatch("ended-by-rpc");
      assertEquals(BatchState.BATCH_STATE_CANCELLED, cancelled.getState());
    }
  }

  @Test
  void strategiesAreRegisteredShownAndRemoved() {
    StrategySpec spec = StrategySpec.newBuilder().setName("mine").setProvider("simulated").build();
    assertTrue(client.registerStrategy(spec).getRegistered());
    assertFalse(client.registerStrategy(spec).getRegistered());
    StrategySpec changed = spec.toBuilder().setSystemInstruction("Be brief.").build();
    assertThrows(AlreadyExistsException.class, () -> client.registerStrategy(changed));
    assertEquals("simulated", client.getStrategy("mine").getProviderKind());
    List<String> names =
        client.listStrategies().stream().map(Strategy::getSpec).map(StrategySpec::getName).toList();
    assertTrue(names.containsAll(List.of("echo", "mine")));
    client.unregisterStrategy("mine");
    assertThrows(NotFoundException.class, () -> client.getStrategy("mine"));
    assertThrows(FailedPreconditionException.class, () -> client.unregisterStrategy("echo"));
  }

  @Test
  void cachesAreCreatedRenewedShownAndDeleted() {
    assertThrows(NotFoundException.class, () -> client.getCache("cached"));
    assertFalse(client.createOrReuseCache("cached", Duration.ofSeconds(90)).getReused());
    assertTrue(client.createOrReuseCache("cached").getReused());
    var cache = client.getCache("cached");
    var life = Timestamps.between(cache.getCreateTime(), cache.getExpireTime());
    assertEquals(90, Math.round(Durations.toSecondsAsDouble(life)));
    assertFalse(client.renewCache("cached").getRecreated());
    assertFalse(client.renewCache("cached", Duration.ofMinutes(10)).getRecreated());
    assertEquals(1, client.listCaches().size());
    assertTrue(client.deleteCache("cached"));
    assertFalse(client.deleteCache("cached"));
    assertThrows(FailedPreconditionException.class, () -> client.createOrReuseCache("echo"));
  }
}
