package dev.batchllm.client;

import dev.batchllm.client.BatchLlmException.Failure;
import io.grpc.Status;
import java.time.Duration;
import java.util.Map;
import java.util.Set;

/**
 * Says when a batch or call is tried again, after how long, and when that is over; counts its
 * tries.
 */
final class Retries {
  // The sidecar has not noticed yet that the stream before is gone; somebody is making room.
  private static final Set<String> RESUMABLE_REASONS = Set.of("BATCH_IN_USE", "JOURNAL_FULL");
  // Whatever a server asks for counts as so many seconds at least: what is bounded must come to an
  // end.
  private static final double LEAST_ASKED_SECONDS = 1.0;
  private static final double NANOS = 1e9;

  private final ResumePolicy policy;
  private final ResumeClock clock;
  private final long start;
  private final double deadline; // in seconds from the start; infinite: none
  private double goneSince = Double.NaN; // NaN: there is a stream
  private int tries;
  private double away;
  private double asked;

  /**
   * Counts from now; {@code policy} null: there is no other try; {@code timeout} null: no limit.
   */
  Retries(ResumePolicy policy, Duration timeout, ResumeClock clock) {
    this.policy = policy;
    this.clock = clock;
    this.start = clock.nanoTime();
    this.deadline = timeout == null ? Double.POSITIVE_INFINITY : seconds(timeout);
  }

  /** Whether a batch that was open, or a call with an idempotency key, may go on after an error. */
  static boolean isResumable(BatchLlmException error) {
    return switch (error.code()) {
      // The connection broke, nobody answers, the sidecar drains, or its journal cannot be written
      // now.
      case UNAVAILABLE -> true;
      // Without a reason they come from a connection that broke, or from a proxy (RST_STREAM), not
      // from a sidecar.
      case INTERNAL, UNKNOWN, CANCELLED -> error.reason().isEmpty();
      case OK,
          INVALID_ARGUMENT,
          DEADLINE_EXCEEDED,
          NOT_FOUND,
          ALREADY_EXISTS,
          PERMISSION_DENIED,
          RESOURCE_EXHAUSTED,
          FAILED_PRECONDITION,
          ABORTED,
          OUT_OF_RANGE,
          UNIMPLEMENTED,
          DATA_LOSS,
          UNAUTHENTICATED ->
          RESUMABLE_REASONS.contains(error.reason());
    };
  }

  /** Counts anew: something new has come. */
  void progress() {
    tries = 0;
    away = 0;
    asked = 0;
  }

  /** Notes that there is a stream again. */
  void connected() {
    if (!Double.isNaN(goneSince)) {
      away += now() - goneSince;
      goneSince = Double.NaN;
    }
  }

  /** What is left of the timeout, for the next call; null: there is none. */
  Duration timeout() {
    return Double.isInfinite(deadline) ? null : duration(Math.max(deadline - now(), 0));
  }

  /**
   * Says how long to wait before the next try.
   *
   * @throws BatchLlmException {@code error} when there is to be none
   */
  Duration delay(BatchLlmException error) {
    if (policy == null || !isResumable(error)) {
      throw error;
    }
    double now = now();
    if (Double.isNaN(goneSince)) {
      goneSince = now;
    }
    if (away + now - goneSince - asked >= seconds(policy.maxAway())) {
      throw error;
    }
    double askedNow = error.retryAfter().map(Retries::seconds).orElse(0.0);
    if (askedNow > 0) {
      if (asked + askedNow > seconds(policy.maxAsked())) {
        throw error;
      }
      asked += Math.max(askedNow, LEAST_ASKED_SECONDS);
    } else if (tries >= policy.maxTries()) {
      throw error;
    } else {
      tries++;
    }
    double growth = Math.pow(2, Math.max(tries - 1, 0));
    double most = Math.min(seconds(policy.initialBackoff()) * growth, seconds(policy.maxBackoff()));
    double delay = askedNow + clock.random() * most;
    if (now + delay >= deadline) {
      String message =
          "the timeout runs out before the next try, in %.1f s; the last one: %s"
              .formatted(delay, error.getMessage());
      throw new DeadlineExceededException(
          new Failure(message, Status.Code.DEADLINE_EXCEEDED, "", Map.of(), null, error));
    }
    return duration(delay);
  }

  private double now() {
    return (clock.nanoTime() - start) / NANOS;
  }

  private static double seconds(Duration duration) {
    return duration.getSeconds() + duration.getNano() / NANOS;
  }

  private static Duration duration(double seconds) {
    return Duration.ofNanos((long) (seconds * NANOS));
  }
}
