package dev.batchllm.client;

import java.time.Duration;

/**
 * How a single item is run; immutable. Start from {@link #idempotencyKey} or {@link #defaults()}.
 */
public final class ItemOptions {
  private final String key;
  private final Duration timeout;

  private ItemOptions(String key, Duration timeout) {
    this.key = key;
    this.timeout = timeout;
  }

  /**
   * Options without a key: the call is made once.
   *
   * @return options
   */
  public static ItemOptions defaults() {
    return new ItemOptions("", null);
  }

  /**
   * Options with your name for the call. Called again with the same key and item, within the
   * journal's retention, it gives the recorded result, {@code replayed}; so a call whose connection
   * broke is made again, as far as the client's {@link ResumePolicy} goes.
   *
   * @param key at most 512 bytes
   * @return options
   */
  public static ItemOptions idempotencyKey(String key) {
    return new ItemOptions(Checks.text("key", key), null);
  }

  /**
   * Sets the deadline of the call, further tries included. Default: the client's.
   *
   * @param timeout the deadline
   * @return other options
   * @throws IllegalArgumentException it is negative
   */
  public ItemOptions withTimeout(Duration timeout) {
    return new ItemOptions(key, Checks.timeout(timeout));
  }

  String key() {
    return key;
  }

  /** The deadline; {@code otherwise} where none is set. */
  Duration timeout(Duration otherwise) {
    return timeout == null ? otherwise : timeout;
  }
}
