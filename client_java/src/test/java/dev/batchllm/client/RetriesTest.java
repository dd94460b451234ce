package dev.batchllm.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;

import dev.batchllm.client.BatchLlmException.Failure;
import dev.batchllm.client.Helpers.TestClock;
import io.grpc.Status;
import java.time.Duration;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class RetriesTest {
  private static final ResumePolicy POLICY = ResumePolicy.DEFAULT;

  private final TestClock clock = new TestClock();

  private static BatchLlmException error(Status.Code code, String reason, Duration retryAfter) {
    return new BatchLlmException(new Failure("broken", code, reason, Map.of(), retryAfter, null));
  }

  private static BatchLlmException broken() {
    return error(Status.Code.UNAVAILABLE, "", null);
  }

  private Retries retries(ResumePolicy policy) {
    return new Retries(policy, null, clock);
  }

  @ParameterizedTest
  @CsvSource({
    "UNAVAILABLE, '', true",
    "UNAVAILABLE, SERVER_DRAINING, true",
    "INTERNAL, '', true",
    "UNKNOWN, '', true",
    "CANCELLED, '', true",
    "INTERNAL, SOMETHING, false",
    "CANCELLED, SOMETHING, false",
    "ABORTED, BATCH_IN_USE, true",
    "ABORTED, '', false",
    "RESOURCE_EXHAUSTED, JOURNAL_FULL, true",
    "RESOURCE_EXHAUSTED, '', false",
    "INVALID_ARGUMENT, '', false",
    "NOT_FOUND, STRATEGY_NOT_FOUND, false",
    "DEADLINE_EXCEEDED, '', false",
    "UNIMPLEMENTED, '', false",
  })
  void knowsWhatCanBeResumed(Status.Code code, String reason, boolean expected) {
    assertEquals(expected, Retries.isResumable(error(code, reason, null)));
  }

  @Test
  void waitsDoubleUpToTheBoundAndTriesAreCounted() {
    Retries retries = retries(POLICY.withMaxTries(9));
    for (long millis : new long[] {200, 400, 800, 1600, 3200, 6400, 12800, 15000, 15000}) {
      assertEquals(Duration.ofMillis(millis), retries.delay(broken()));
    }
    assertThrows(BatchLlmException.class, () -> retries.delay(broken()));
  }

  @Test
  void waitsAreDrawnFromZeroOn() {
    clock.random = 0;
    assertEquals(Duration.ZERO, retries(POLICY).delay(broken()));
  }

  @Test
  void progressCountsAnew() {
    Retries retries = retries(POLICY.withMaxTries(1));
    retries.delay(broken());
    retries.progress();
    assertEquals(Duration.ofMillis(200), retries.delay(broken()));
    assertThrows(BatchLlmException.class, () -> retries.delay(broken()));
  }

  @Test
  void timeAwayIsBoundedAndTimeOnAStreamDoesNotCount() {
    Retries retries = retries(POLICY);
    retries.delay(broken());
    clock.advance(Duration.ofSeconds(59));
    retries.connected();
    clock.advance(Duration.ofSeconds(3600));
    retries.delay(broken());
    clock.advance(Duration.ofSeconds(1));
    BatchLlmException last = broken();
    assertSame(last, assertThrows(BatchLlmException.class, () -> retries.delay(last)));
  }

  @Test
  void whatTheServerAsksForIsAFloorAndCountedApart() {
    Retries retries = retries(POLICY.withMaxTries(0).withMaxAsked(Duration.ofSeconds(25)));
    var draining = error(Status.Code.UNAVAILABLE, "SERVER_DRAINING", Duration.ofSeconds(10));
    assertEquals(Duration.ofMillis(10_200), retries.delay(draining));
    assertEquals(Duration.ofMillis(10_200), retries.delay(draining));
    assertThrows(BatchLlmException.class, () -> retries.delay(draining));
  }

  @Test
  void aServerThatAsksForNextToNothingIsBoundedToo() {
    Retries retries = retries(POLICY.withMaxAsked(Duration.ofSeconds(2)));
    var hasty = error(Status.Code.UNAVAILABLE, "", Duration.ofMillis(1));
    retries.delay(hasty);
    retries.delay(hasty);
    assertThrows(BatchLlmException.class, () -> retries.delay(hasty));
  }

  @Test
  void theDeadlineBoundsIt() {
    Retries retries = new Retries(POLICY, Duration.ofMillis(500), clock);
    assertEquals(Duration.ofMillis(500), retries.timeout());
    clock.advance(retries.delay(broken()));
    var late = assertThrows(DeadlineExceededException.class, () -> retries.delay(broken()));
    assertEquals(Status.Code.DEADLINE_EXCEEDED, late.code());
    clock.advance(Duration.ofSeconds(1));
    assertEquals(Duration.ZERO, retries.timeout());
  }

  @Test
  void withoutAPolicyThereIsNoTry() {
    assertNull(retries(null).timeout());
    assertThrows(BatchLlmException.class, () -> retries(null).delay(broken()));
  }

  @Test
  void aBadPolicyIsRefused() {
    var refused = assertThrows(IllegalArgumentException.class, () -> POLICY.withMaxTries(-1));
    assertEquals("maxTries must be at least 0, not -1", refused.getMessage());
    Duration negative = Duration.ofSeconds(-1);
    assertThrows(IllegalArgumentException.class, () -> POLICY.withMaxAway(negative));
    assertThrows(IllegalArgumentException.class, () -> POLICY.withMaxAsked(negative));
    assertThrows(IllegalArgumentException.class, () -> POLICY.withBackoff(negative, Duration.ZERO));
  }
}
