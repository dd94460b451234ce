package dev.batchllm.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.batchllm.client.Helpers.TestClock;
import dev.batchllm.v1.BatchOpened;
import dev.batchllm.v1.WorkItem;
import dev.batchllm.v1.WorkItemResult;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** What a client does when streams break, against a server that does as it is told. */
@Timeout(120)
class ResumeTest {
  private static final BatchOptions OPTIONS = BatchOptions.strategy("any").withBatchId("nightly");

  private final TestClock clock = new TestClock();
  private ScriptedServer server;
  private BatchClient client;

  @BeforeEach
  void connect() throws Exception {
    server = new ScriptedServer();
    client = client(ResumePolicy.DEFAULT);
  }

  @AfterEach
  void close() {
    client.close();
    server.close();
  }

  private BatchClient client(ResumePolicy policy) {
    return BatchClient.connect(
        server.target(), ClientOptions.defaults().withClock(clock).withResumePolicy(policy));
  }

  private static StatusRuntimeException broken() {
    return Status.UNAVAILABLE.withDescription("gone").asRuntimeException();
  }

  private static BatchOpened.Builder fresh() {
    return BatchOpened.newBuilder();
  }

  private static BatchOpened.Builder holding(long items, long lastSequence) {
    return BatchOpened.newBuilder().setItems(items).setLastSequence(lastSequence);
  }

  private static List<Long> sequences(Batch batch) {
    List<Long> sequences = new ArrayList<>();
    for (WorkItemResult result : batch) {
      sequences.add(result.getSequence());
    }
    return sequences;
  }

  @Test
  void unconfirmedItemsAreSentAgainAndResultsGoOnWithoutAGapOrARepeat() throws Exception {
    List<Object> seen = new ArrayList<>();
    server
        .then(
            stream -> {
              stream.open(fresh());
              stream.items(5);
              stream.accept(3, 3);
              stream.results(1, 2);
              stream.fail(broken());
            })
        .then(
            stream -> {
              seen.add(stream.open(holding(3, 3)));
              seen.add(stream.items(2));
              stream.awaitHalfClose();
              stream.accept(5, 2);
              stream.results(2, 5);
              stream.totals(5);
              stream.end();
            });
    try (Batch batch = client.processBatch(Helpers.items(5), OPTIONS)) {
      assertEquals(List.of(1L, 2L, 3L, 4L, 5L), sequences(batch));
      assertEquals(5, batch.totals().getTotalItems());
      assertEquals(5, batch.lastSequence());
    }
    assertEquals(List.of(2L, List.of("3", "4")), seen);
    assertEquals(List.of(Duration.ofMillis(200)), clock.waits);
  }

  @Test
  void theServersDelayIsWaited() {
    server
        .then(
            stream -> {
              stream.open(fresh());
              stream.fail(
                  ScriptedServer.error(
                      Status.Code.UNAVAILABLE, "SERVER_DRAINING", Map.of(), Duration.ofSeconds(5)));
            })
        .then(
            stream -> {
              stream.open(fresh());
              stream.totals(0);
              stream.end();
            });
    try (Batch batch = client.processBatch(List.of(), OPTIONS)) {
      assertEquals(List.of(), sequences(batch));
    }
    assertEquals(List.of(Duration.ofMillis(5200)), clock.waits);
  }

  @Test
  void triesAreBounded() {
    client.close();
    client = client(ResumePolicy.DEFAULT.withMaxTries(2));
    for (int tries = 0; tries < 3; tries++) {
      server.then(
          stream -> {
            stream.open(fresh());
            stream.fail(broken());
          });
    }
    try (Batch batch = client.processBatch(List.of(), OPTIONS)) {
      var error = assertThrows(SidecarUnavailableException.class, () -> sequences(batch));
      assertSame(error, assertThrows(BatchLlmException.class, () -> sequences(batch)));
    }
    assertEquals(2, clock.waits.size());
  }

  @Test
  void resumeCanBeSwitchedOff() {
    server.then(
        stream -> {
          stream.open(fresh());
          stream.fail(broken());
        });
    try (Batch batch = client.processBatch(List.of(), OPTIONS.withResume(false))) {
      assertThrows(SidecarUnavailableException.class, () -> sequences(batch));
    }
    assertEquals(List.of(), clock.waits);
  }

  @Test
  void aBatchThatHasNotOpenedIsNotTriedAgain() {
    server.then(stream -> stream.fail(broken()));
    try (Batch batch = client.processBatch(List.of(), OPTIONS)) {
      assertThrows(SidecarUnavailableException.class, batch::opened);
    }
    assertEquals(List.of(), clock.waits);
  }

  @Test
  void anAnswerOfTheServerIsNoBrokenConnection() {
    server.then(
        stream -> {
          stream.open(fresh());
          stream.fail(
              ScriptedServer.error(
                  Status.Code.INVALID_ARGUMENT,
                  "INVALID_FIELD",
                  Map.of("field", "max_concurrency"),
                  null));
        });
    try (Batch batch = client.processBatch(List.of(), OPTIONS)) {
      var error = assertThrows(InvalidRequestException.class, () -> sequences(batch));
      assertEquals(Status.Code.INVALID_ARGUMENT, error.code());
      assertEquals("INVALID_FIELD", error.reason());
      assertEquals(Map.of("field", "max_concurrency"), error.metadata());
      assertTrue(error.retryAfter().isEmpty());
      assertEquals("as scripted", error.getMessage());
      assertInstanceOf(StatusRuntimeException.class, error.getCause());
    }
  }

  @Test
  void aJournalThatIsGoneIsReported() {
    server
        .then(
            stream -> {
              stream.open(fresh());
              stream.items(2);
              stream.accept(2, 2);
              stream.results(1, 1);
              stream.fail(broken());
            })
        .then(stream -> stream.open(fresh()));
    try (Batch batch = client.processBatch(Helpers.items(2), OPTIONS)) {
      var lost = assertThrows(BatchLostException.class, () -> sequences(batch));
      assertEquals("nightly", lost.batchId());
      assertEquals(2, lost.held());
      assertEquals(1, lost.lastSequence());
      assertFalse(lost.durable());
    }
  }

  @Test
  void aServerThatNoLongerKnowsTheLastResultHasLostTheBatch() {
    server
        .then(
            stream -> {
              stream.open(fresh().setDurable(true));
              stream.items(1);
              stream.accept(1, 1);
              stream.results(1, 1);
              stream.fail(broken());
            })
        .then(
            stream ->
                stream.fail(
                    ScriptedServer.error(
                        Status.Code.INVALID_ARGUMENT,
                        "INVALID_FIELD",
                        Map.of("field", "resume_after_sequence"),
                        null)));
    try (Batch batch = client.processBatch(Helpers.items(1), OPTIONS)) {
      assertTrue(assertThrows(BatchLostException.class, () -> sequences(batch)).durable());
    }
  }

  @Test
  void aServerThatLeavesResultsOutIsFoundOut() {
    server.then(
        stream -> {
          stream.open(fresh());
          stream.results(1, 1);
          stream.results(3, 3);
        });
    try (Batch batch = client.processBatch(List.of(), OPTIONS)) {
      var error = assertThrows(UnexpectedException.class, () -> sequences(batch));
      assertEquals("the server left out results: result 3 follows 1", error.getMessage());
    }
  }

  @Test
  void aServerThatLeavesTheLastResultsOutIsFoundOut() {
    server.then(
        stream -> {
          stream.open(fresh());
          stream.results(1, 1);
          stream.totals(2);
          stream.end();
        });
    try (Batch batch = client.processBatch(List.of(), OPTIONS)) {
      var error = assertThrows(UnexpectedException.class, () -> sequences(batch));
      assertEquals(
          "the server left out results: the batch has 2, the last one is 1", error.getMessage());
    }
  }

  @Test
  void aServerThatEndsWithoutTotalsIsFoundOut() {
    server.then(
        stream -> {
          stream.open(fresh());
          stream.end();
        });
    try (Batch batch = client.processBatch(List.of(), OPTIONS)) {
      var error = assertThrows(UnexpectedException.class, () -> sequences(batch));
      assertEquals("the server ended the stream without `batch_result`", error.getMessage());
      assertThrows(IllegalStateException.class, batch::totals);
    }
  }

  @Test
  void cancelEndsTheWaitForTheNextTry() throws Exception {
    CountDownLatch waiting = new CountDownLatch(1);
    ResumeClock still =
        new ResumeClock() {
          @Override
          public CompletableFuture<Void> after(Duration wait) {
            waiting.countDown();
            return new CompletableFuture<>();
          }
        };
    server.then(
        stream -> {
          stream.open(fresh());
          stream.fail(broken());
        });
    try (var other =
            BatchClient.connect(server.target(), ClientOptions.defaults().withClock(still));
        Batch batch = other.processBatch(List.of(), OPTIONS)) {
      CompletableFuture<?> reading = CompletableFuture.runAsync(() -> sequences(batch));
      waiting.await();
      batch.cancel();
      var failed = assertThrows(CompletionException.class, reading::join);
      assertInstanceOf(CallCancelledException.class, failed.getCause());
    }
  }

  @Test
  void aServerThatIsDownIsConnectedAnewWithEachTry() throws Exception {
    String target = server.target();
    server.close();
    clock.random = 0; // or the deadline would end it first
    var key = ItemOptions.idempotencyKey("order-7");
    var error =
        assertThrows(
            SidecarUnavailableException.class, () -> client.processItem(Helpers.item(1), key));
    assertTrue(error.getMessage().startsWith("no batch-llm sidecar answers at " + target));
    assertEquals(ResumePolicy.DEFAULT.maxTries(), clock.waits.size());
    // gRPC itself would go on to fail calls without a look for seconds by now.
    server = new ScriptedServer(server.port());
    WorkItemResult result = null;
    for (int call = 0; result == null; call++) {
      try {
        result = client.processItem(Helpers.item(1));
      } catch (SidecarUnavailableException stale) {
        // What the channel does is done by another thread, so that some may be told of the former
        // try. Its own pause
        // is a second.
        assertTrue(call < 100, "calls fail without a look");
        Thread.sleep(5);
      }
    }
  }

  @Test
  void aReaderThatDoesNotReadStopsTheServer() throws Exception {
    int frames = 64;
    AtomicInteger sent = new AtomicInteger();
    server.then(
        stream -> {
          stream.open(fresh());
          while (sent.get() < frames) {
            Helpers.eventually(stream::isReady, "the client takes no more");
            stream.large(sent.incrementAndGet(), 1 << 20);
          }
          stream.totals(frames);
          stream.end();
        });
    try (Batch batch = client.processBatch(List.of(), OPTIONS)) {
      batch.opened();
      for (int still = 0, before = -1; still < 20; still++) {
        if (before != sent.get()) {
          before = sent.get();
          still = 0;
        }
        Thread.sleep(20);
      }
      assertTrue(sent.get() < 16, "sent without being read: " + sent);
      assertEquals(frames, sequences(batch).size());
    }
  }

  @Test
  void aSourceThatFailsIsNoEndOfItems() throws Exception {
    CompletableFuture<Void> failNow = new CompletableFuture<>();
    CompletableFuture<String> seen = new CompletableFuture<>();
    server.then(
        stream -> {
          stream.open(fresh());
          stream.items(3);
          failNow.complete(null);
          stream.awaitCancel();
          seen.complete("cancelled, without a half-close");
        });
    RuntimeException bug = new IllegalStateException("a bug of the source");
    Stream<WorkItem> failing =
        Stream.concat(
            Helpers.items(3),
            Stream.generate(
                () -> {
                  failNow.join();
                  throw bug;
                }));
    try (Batch batch = client.processBatch(failing, OPTIONS)) {
      assertSame(bug, assertThrows(IllegalStateException.class, () -> sequences(batch)));
    }
    assertEquals("cancelled, without a half-close", seen.get(60, TimeUnit.SECONDS));
  }

  @Test
  void aCollectionGoesOutInFullFramesAndNoFrameIsLarger() {
    List<Integer> frames = new ArrayList<>();
    ScriptedServer.Script count =
        stream -> {
          stream.open(fresh());
          for (int items = 0; items < 130; ) {
            int size = stream.next().getItems().getItemsCount();
            frames.add(size);
            items += size;
          }
          stream.awaitHalfClose();
          stream.results(1, 130);
          stream.totals(130);
          stream.end();
        };
    server.then(count).then(count);
    try (Batch batch = client.processBatch(Helpers.items(130).toList(), OPTIONS)) {
      assertEquals(130, sequences(batch).size());
    }
    assertEquals(List.of(64, 64, 2), frames);
    frames.clear();
    try (Batch batch = client.processBatch(Helpers.items(130), OPTIONS)) {
      assertEquals(130, sequences(batch).size());
    }
    assertTrue(frames.stream().allMatch(size -> size <= 64), frames.toString());
  }

  @Test
  void aCallWithAnIdempotencyKeyIsMadeAgain() {
    server.thenItemFails(broken());
    var item = Helpers.item(1);
    var result = client.processItem(item, ItemOptions.idempotencyKey("order-7"));
    assertEquals(1, result.getSequence());
    assertEquals(
        List.of("order-7", "order-7"),
        server.itemCalls.stream().map(call -> call.getIdempotencyKey()).toList());
    assertEquals(1, clock.waits.size());
  }

  @Test
  void aCallWithoutAKeyIsMadeOnce() {
    server.thenItemFails(broken());
    assertThrows(SidecarUnavailableException.class, () -> client.processItem(Helpers.item(1)));
    assertEquals(1, server.itemCalls.size());
  }

  @Test
  void reasonsThatHaveAClassOfTheirOwnGoBeforeTheCode() {
    Map<String, Class<? extends BatchLlmException>> expected =
        Map.of(
            "SERVER_DRAINING", ServerDrainingException.class,
            "JOURNAL_UNAVAILABLE", JournalUnavailableException.class,
            "JOURNAL_FULL", JournalFullException.class,
            "BATCH_IN_USE", BatchInUseException.class,
            "BATCH_NOT_FOUND", BatchNotFoundException.class,
            "BATCH_NOT_FINISHED", BatchNotFinishedException.class,
            "IDEMPOTENCY_CONFLICT", IdempotencyConflictException.class);
    expected.forEach(
        (reason, type) -> {
          server.thenItemFails(
              ScriptedServer.error(Status.Code.UNKNOWN, reason, Map.of(), Duration.ofSeconds(3)));
          var error = assertThrows(type, () -> client.processItem(Helpers.item(1)));
          assertEquals(reason, error.reason());
          assertEquals(Duration.ofSeconds(3), error.retryAfter().orElseThrow());
        });
  }

  @Test
  void everyCodeHasItsClass() {
    Map<Status.Code, Class<? extends BatchLlmException>> expected =
        Map.ofEntries(
            Map.entry(Status.Code.UNAVAILABLE, SidecarUnavailableException.class),
            Map.entry(Status.Code.INVALID_ARGUMENT, InvalidRequestException.class),
            Map.entry(Status.Code.OUT_OF_RANGE, InvalidRequestException.class),
            Map.entry(Status.Code.NOT_FOUND, NotFoundException.class),
            Map.entry(Status.Code.ALREADY_EXISTS, AlreadyExistsException.class),
            Map.entry(Status.Code.PERMISSION_DENIED, PermissionDeniedException.class),
            Map.entry(Status.Code.UNAUTHENTICATED, PermissionDeniedException.class),
            Map.entry(Status.Code.FAILED_PRECONDITION, FailedPreconditionException.class),
            Map.entry(Status.Code.ABORTED, AbortedException.class),
            Map.entry(Status.Code.DEADLINE_EXCEEDED, DeadlineExceededException.class),
            Map.entry(Status.Code.RESOURCE_EXHAUSTED, ResourceExhaustedException.class),
            Map.entry(Status.Code.CANCELLED, CallCancelledException.class),
            Map.entry(Status.Code.INTERNAL, UnexpectedException.class),
            Map.entry(Status.Code.UNIMPLEMENTED, UnexpectedException.class));
    expected.forEach(
        (code, type) -> {
          server.thenItemFails(code.toStatus().asRuntimeException());
          var error =
              assertThrows(BatchLlmException.class, () -> client.processItem(Helpers.item(1)));
          assertEquals(type, error.getClass());
          assertEquals("", error.reason());
        });
  }
}
