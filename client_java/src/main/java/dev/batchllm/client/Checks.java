package dev.batchllm.client;

import java.time.Duration;
import java.util.Objects;

/** Refuses by name what cannot be meant. */
final class Checks {
  private Checks() {}

  /**
   * Gives back a text that protobuf can hold: it would send '?' for a lone surrogate.
   *
   * @throws IllegalArgumentException it has one
   */
  static String text(String name, String text) {
    int lone = loneSurrogate(Objects.requireNonNull(text, name));
    if (lone >= 0) {
      throw new IllegalArgumentException(
          name + " must be valid Unicode: it has a lone surrogate at " + lone);
    }
    return text;
  }

  /**
   * Gives back the time that something may take.
   *
   * @throws IllegalArgumentException it is negative
   */
  static Duration timeout(Duration timeout) {
    if (Objects.requireNonNull(timeout, "timeout").isNegative()) {
      throw new IllegalArgumentException("timeout must be at least 0, not " + timeout);
    }
    return timeout;
  }

  /** Where the first surrogate without its other half is; -1: nowhere. */
  static int loneSurrogate(String text) {
    for (int at = 0; at < text.length(); at++) {
      char unit = text.charAt(at);
      if (Character.isSurrogate(unit)) {
        boolean pair =
            at + 1 < text.length() && Character.isSurrogatePair(unit, text.charAt(at + 1));
        if (!pair) {
          return at;
        }
        at++;
      }
    }
    return -1;
  }
}
