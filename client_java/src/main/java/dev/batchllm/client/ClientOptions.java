package dev.batchllm.client;

import java.time.Duration;
import java.util.Objects;

/** How a client behaves; immutable. Start from {@link #defaults()}. */
public final class ClientOptions {
  private static final Limits LIMITS =
      new Limits(64, 512 * 1024, 16 * 1024 * 1024, 4096, 32 * 1024 * 1024);

  private final Duration timeout;
  private final Limits limits;
  private final ResumePolicy resumePolicy;
  private final ResumeClock clock;

  private ClientOptions(
      Duration timeout, Limits limits, ResumePolicy resumePolicy, ResumeClock clock) {
    this.timeout = Checks.timeout(timeout);
    this.limits = limits;
    this.resumePolicy = Objects.requireNonNull(resumePolicy, "resumePolicy");
    this.clock = Objects.requireNonNull(clock, "clock");
  }

  /**
   * The defaults, see each setting.
   *
   * @return options
   */
  public static ClientOptions defaults() {
    return new ClientOptions(
        Duration.ofSeconds(60), LIMITS, ResumePolicy.DEFAULT, ResumeClock.SYSTEM);
  }

  /**
   * Sets the deadline of one call; batches have their own. Default 60 s.
   *
   * @param timeout the deadline
   * @return other options
   * @throws IllegalArgumentException it is negative
   */
  public ClientOptions withTimeout(Duration timeout) {
    return new ClientOptions(timeout, limits, resumePolicy, clock);
  }

  /**
   * Sets what a message may weigh: larger items are refused before sending. Default 16 MiB; the
   * server's limit holds as well.
   *
   * @param bytes at least 1
   * @return other options
   * @throws IllegalArgumentException it is out of its range
   */
  public ClientOptions withMaxMessageBytes(int bytes) {
    return with(
        new Limits(
            limits.frameItems(),
            limits.frameBytes(),
            bytes,
            limits.unconfirmedItems(),
            limits.unconfirmedBytes()));
  }

  /**
   * Sets what a frame may hold. Default 64 items of together 512 KiB; one item may exceed the
   * bytes.
   *
   * @param items at least 1
   * @param bytes at least 1
   * @return other options
   */
  public ClientOptions withFrames(int items, int bytes) {
    return with(
        new Limits(
            items,
            bytes,
            limits.maxMessageBytes(),
            limits.unconfirmedItems(),
            limits.unconfirmedBytes()));
  }

  /**
   * Sets how much of a batch is kept to be sent again until the sidecar has confirmed it; then its
   * source is read on. Default 4,096 items of together 32 MiB; one item may exceed the bytes.
   *
   * @param items at least 1
   * @param bytes at least 1
   * @return other options
   */
  public ClientOptions withUnconfirmed(int items, long bytes) {
    return with(
        new Limits(
            limits.frameItems(), limits.frameBytes(), limits.maxMessageBytes(), items, bytes));
  }

  /**
   * Sets how long batches, and calls with an idempotency key, go on trying when the connection
   * breaks.
   *
   * @param policy default {@link ResumePolicy#DEFAULT}
   * @return other options
   */
  public ClientOptions withResumePolicy(ResumePolicy policy) {
    return new ClientOptions(timeout, limits, policy, clock);
  }

  /**
   * Sets time and randomness of the waits between tries.
   *
   * @param clock default {@link ResumeClock#SYSTEM}
   * @return other options
   */
  public ClientOptions withClock(ResumeClock clock) {
    return new ClientOptions(timeout, limits, resumePolicy, clock);
  }

  Duration timeout() {
    return timeout;
  }

  ResumePolicy resumePolicy() {
    return resumePolicy;
  }

  ResumeClock clock() {
    return clock;
  }

  Limits limits() {
    return limits;
  }

  private ClientOptions with(Limits other) {
    return new ClientOptions(timeout, other, resumePolicy, clock);
  }
}
