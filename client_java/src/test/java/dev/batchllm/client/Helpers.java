package dev.batchllm.client;

import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.batchllm.v1.WorkItem;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.function.BooleanSupplier;
import java.util.function.Consumer;
import java.util.logging.Handler;
import java.util.logging.LogRecord;
import java.util.stream.IntStream;
import java.util.stream.Stream;

/** What several tests use. */
final class Helpers {
  static final Duration BOUND = Duration.ofSeconds(60);

  private Helpers() {}

  static WorkItem item(int number) {
    return WorkItem.newBuilder().setItemId("" + number).setPrompt("Hello " + number).build();
  }

  static Stream<WorkItem> items(int count) {
    return IntStream.range(0, count).mapToObj(Helpers::item);
  }

  /** An item that the simulated provider answers after a while. */
  static WorkItem slow(int number, int milliseconds) {
    return item(number).toBuilder()
        .setPrompt("{\"simulate\": {\"latency_ms\": %d}}".formatted(milliseconds))
        .build();
  }

  /** Polls until it is so. */
  static void eventually(BooleanSupplier condition, String what) throws InterruptedException {
    long deadline = System.nanoTime() + BOUND.toNanos();
    while (!condition.getAsBoolean()) {
      assertTrue(System.nanoTime() < deadline, what);
      Thread.sleep(5);
    }
  }

  static boolean hasThread(String name) {
    return Thread.getAllStackTraces().keySet().stream()
        .anyMatch(thread -> thread.getName().equals(name));
  }

  /** Is told what is logged. */
  static Handler handler(Consumer<String> log) {
    return new Handler() {
      @Override
      public void publish(LogRecord entry) {
        log.accept(entry.getMessage());
      }

      @Override
      public void flush() {}

      @Override
      public void close() {}
    };
  }

  /** A clock that stands still but for the waits, which take no time and are kept. */
  static final class TestClock implements ResumeClock {
    final List<Duration> waits = new ArrayList<>();
    double random = 1;
    private long now;

    void advance(Duration time) {
      now += time.toNanos();
    }

    @Override
    public long nanoTime() {
      return now;
    }

    @Override
    public double random() {
      return random;
    }

    @Override
    public CompletableFuture<Void> after(Duration wait) {
      waits.add(wait);
      advance(wait);
      return CompletableFuture.completedFuture(null);
    }
  }
}
