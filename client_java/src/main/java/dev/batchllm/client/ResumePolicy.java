package dev.batchllm.client;

import java.time.Duration;
import java.util.Objects;

/**
 * How long a client goes on trying after a connection broke. All bounds count anew when there is
 * progress.
 *
 * @param maxTries at most so many tries
 * @param maxAway no further try after so long without a stream, what the server asked for not
 *     counted
 * @param maxAsked at most so much waiting that the server asked for (RetryInfo); such waits are no
 *     tries
 * @param initialBackoff the most that is waited before the first try; twice as much before each one
 *     that follows
 * @param maxBackoff the most that is waited before any try; each wait is drawn evenly from 0 to its
 *     most (full jitter)
 */
public record ResumePolicy(
    int maxTries,
    Duration maxAway,
    Duration maxAsked,
    Duration initialBackoff,
    Duration maxBackoff) {

  /**
   * 10 tries, 60 s without a stream, 300 s of waits that the server asks for, waits from 0.2 to 15
   * s.
   */
  public static final ResumePolicy DEFAULT =
      new ResumePolicy(
          10,
          Duration.ofSeconds(60),
          Duration.ofSeconds(300),
          Duration.ofMillis(200),
          Duration.ofSeconds(15));

  /**
   * Checks the bounds.
   *
   * @param maxTries at most so many tries
   * @param maxAway no further try after so long without a stream
   * @param maxAsked at most so much waiting that the server asked for
   * @param initialBackoff the most that is waited before the first try
   * @param maxBackoff the most that is waited before any try
   * @throws IllegalArgumentException one is negative
   */
  public ResumePolicy {
    if (maxTries < 0) {
      throw new IllegalArgumentException("maxTries must be at least 0, not " + maxTries);
    }
    notNegative("maxAway", maxAway);
    notNegative("maxAsked", maxAsked);
    notNegative("initialBackoff", initialBackoff);
    notNegative("maxBackoff", maxBackoff);
  }

  private static void notNegative(String name, Duration value) {
    if (Objects.requireNonNull(value, name).isNegative()) {
      throw new IllegalArgumentException(name + " must be at least 0, not " + value);
    }
  }

  /**
   * The same with other tries.
   *
   * @param maxTries at most so many
   * @return another policy
   */
  public ResumePolicy withMaxTries(int maxTries) {
    return new ResumePolicy(maxTries, maxAway, maxAsked, initialBackoff, maxBackoff);
  }

  /**
   * The same with another bound on the time without a stream.
   *
   * @param maxAway the bound
   * @return another policy
   */
  public ResumePolicy withMaxAway(Duration maxAway) {
    return new ResumePolicy(maxTries, maxAway, maxAsked, initialBackoff, maxBackoff);
  }

  /**
   * The same with another bound on waits that the server asks for.
   *
   * @param maxAsked the bound
   * @return another policy
   */
  public ResumePolicy withMaxAsked(Duration maxAsked) {
    return new ResumePolicy(maxTries, maxAway, maxAsked, initialBackoff, maxBackoff);
  }

  /**
   * The same with other waits.
   *
   * @param initialBackoff the most before the first try
   * @param maxBackoff the most before any
   * @return another policy
   */
  public ResumePolicy withBackoff(Duration initialBackoff, Duration maxBackoff) {
    return new ResumePolicy(maxTries, maxAway, maxAsked, initialBackoff, maxBackoff);
  }
}
