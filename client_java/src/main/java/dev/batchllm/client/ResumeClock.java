package dev.batchllm.client;

import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;

/** Time and randomness, as resuming takes them: tests bring their own. */
public interface ResumeClock {
  /** The machine's. */
  ResumeClock SYSTEM = new ResumeClock() {};

  /**
   * Reads the clock.
   *
   * @return nanoseconds; only differences count
   */
  default long nanoTime() {
    return System.nanoTime();
  }

  /**
   * Draws a number.
   *
   * @return from 0 (inclusive) to 1 (exclusive)
   */
  default double random() {
    return ThreadLocalRandom.current().nextDouble();
  }

  /**
   * Lets time pass.
   *
   * @param wait how long
   * @return done when it is over
   */
  default CompletableFuture<Void> after(Duration wait) {
    return new CompletableFuture<Void>()
        .completeOnTimeout(null, wait.toNanos(), TimeUnit.NANOSECONDS);
  }
}
