package dev.batchllm.client;

import dev.batchllm.v1.BatchServiceGrpc;
import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.ConnectivityState;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.netty.channel.ChannelOption;
import io.grpc.netty.shaded.io.netty.channel.EventLoopGroup;
import io.grpc.netty.shaded.io.netty.channel.nio.NioEventLoopGroup;
import io.grpc.netty.shaded.io.netty.channel.socket.nio.NioDomainSocketChannel;
import io.grpc.netty.shaded.io.netty.channel.socket.nio.NioSocketChannel;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.StreamObserver;
import java.math.BigInteger;
import java.net.UnixDomainSocketAddress;
import java.time.Duration;
import java.util.Objects;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Executor;
import java.util.concurrent.SynchronousQueue;
import java.util.concurrent.ThreadFactory;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.ReadWriteLock;
import java.util.concurrent.locks.ReentrantReadWriteLock;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** One channel to a sidecar, with the threads that it needs and the batches that are open on it. */
final class Connection implements AutoCloseable {
  private static final Duration KEEPALIVE = Duration.ofSeconds(10);
  private static final Duration RECONNECT_POLL = Duration.ofMillis(100);
  private static final long CLOSE_SECONDS = 5;
  private static final long IDLE_THREAD_SECONDS = 5;
  private static final String UNIX = "unix:";
  private static final String EXAMPLE = "host:port or unix:PATH, e.g. 127.0.0.1:50051";
  private static final Pattern PORT = Pattern.compile(".*:(\\d+)");

  private final String target;
  private final ResumeClock clock;
  private final EventLoopGroup network;
  private final ThreadPoolExecutor executor;
  private final ManagedChannel channel;
  private final Set<Batch> batches = ConcurrentHashMap.newKeySet();
  private final CompletableFuture<Void> closed = new CompletableFuture<>();
  // A call that starts on a channel that has ended throws what it likes: none starts once closed.
  private final ReadWriteLock starting = new ReentrantReadWriteLock();
  private boolean closing;

  Connection(String target, ResumeClock clock) {
    this.target = target;
    this.clock = clock;
    NettyChannelBuilder builder = builder(Objects.requireNonNull(target, "target"));
    this.network = network();
    // As many threads as callbacks run at once.
    this.executor =
        new ThreadPoolExecutor(
            0,
            Integer.MAX_VALUE,
            IDLE_THREAD_SECONDS,
            TimeUnit.SECONDS,
            new SynchronousQueue<>(),
            daemons("calls"));
    this.channel =
        builder
            .usePlaintext()
            .eventLoopGroup(network)
            .executor(executor)
            .maxInboundMessageSize(Integer.MAX_VALUE)
            // A sidecar is beside its service: a company's proxy must not come between.
            .proxyDetector(address -> null)
            // A network that is gone without a reset would leave a batch waiting for ever. The
            // sidecar allows these
            // pings; see https://github.com/grpc/grpc/blob/master/doc/keepalive.md.
            .keepAliveTime(KEEPALIVE.toSeconds(), TimeUnit.SECONDS)
            .keepAliveTimeout(KEEPALIVE.toSeconds(), TimeUnit.SECONDS)
            .build();
  }

  private static NettyChannelBuilder builder(String target) {
    if (target.isEmpty()) {
      throw new IllegalArgumentException("the target must not be empty: give " + EXAMPLE);
    }
    if (target.equals(UNIX) || target.equals(UNIX + "//")) {
      throw new IllegalArgumentException(
          "the target must have a path after \"" + target + "\": give " + EXAMPLE);
    }
    if (!target.startsWith(UNIX)) {
      // gRPC trips over such a port in a thread of its own, and calls wait for their deadline.
      Matcher port = PORT.matcher(target);
      if (port.matches() && new BigInteger(port.group(1)).bitLength() > Short.SIZE) {
        throw new IllegalArgumentException(
            "the target's port must be at most 65535, not " + port.group(1) + " (" + target + ")");
      }
      return NettyChannelBuilder.forTarget(target).channelType(NioSocketChannel.class);
    }
    String path = target.substring(UNIX.length());
    // unix:path, unix:/path and unix:///path, see
    // https://github.com/grpc/grpc/blob/master/doc/naming.md
    String plain = path.startsWith("//") ? path.substring(2) : path;
    return NettyChannelBuilder.forAddress(UnixDomainSocketAddress.of(plain))
        .channelType(NioDomainSocketChannel.class, UnixDomainSocketAddress.class)
        .overrideAuthority("localhost")
        // gRPC sets it on every socket, and Netty warns of it on this kind; null takes it away
        // again.
        .withOption(ChannelOption.SO_KEEPALIVE, null);
  }

  // NIO: it has Unix sockets on every system that Java has them on, without native code.
  @SuppressWarnings(
      "deprecation") // what Netty 4.2 has instead is not in 4.1, which grpc-java came with until
  // 2025
  private static EventLoopGroup network() {
    return new NioEventLoopGroup(1, daemons("net"));
  }

  private static ThreadFactory daemons(String name) {
    return work -> {
      Thread thread = new Thread(work, "batch-llm-" + name);
      thread.setDaemon(true);
      return thread;
    };
  }

  String target() {
    return target;
  }

  ResumeClock clock() {
    return clock;
  }

  Executor executor() {
    return executor;
  }

  /** Done when the client is closed. */
  CompletableFuture<Void> closed() {
    return closed;
  }

  void checkOpen() {
    if (closed.isDone()) {
      throw Errors.closed(target);
    }
  }

  /**
   * Keeps a batch, to be cancelled when the client is closed.
   *
   * @throws ClientClosedException it is
   */
  void opened(Batch batch) {
    batches.add(batch);
    if (closed.isDone()) { // perhaps too late for the one who closes to see it
      batches.remove(batch);
      throw Errors.closed(target);
    }
  }

  void ended(Batch batch) {
    batches.remove(batch);
  }

  StreamCall newStream(Duration timeout, Runnable onReady) {
    return new StreamCall(newCall(BatchServiceGrpc.getProcessBatchMethod(), timeout), onReady);
  }

  /**
   * Makes a unary call; a future that is cancelled cancels it. It fails with a {@link
   * BatchLlmException}.
   */
  <Q, R> CompletableFuture<R> call(MethodDescriptor<Q, R> method, Q request, Duration timeout) {
    CompletableFuture<R> answer = new CompletableFuture<>();
    ClientCall<Q, R> call = newCall(method, timeout);
    starting.readLock().lock();
    try {
      if (closing) {
        return CompletableFuture.failedFuture(Errors.closed(target));
      }
      ClientCalls.asyncUnaryCall(
          call,
          request,
          new StreamObserver<R>() {
            @Override
            public void onNext(R response) {
              answer.complete(response);
            }

            @Override
            public void onError(Throwable raw) {
              Metadata trailers = Status.trailersFromThrowable(raw);
              answer.completeExceptionally(
                  failure(Status.fromThrowable(raw), trailers == null ? new Metadata() : trailers));
            }

            @Override
            public void onCompleted() {}
          });
    } finally {
      starting.readLock().unlock();
    }
    answer.whenComplete(
        (response, error) -> {
          if (answer.isCancelled()) {
            call.cancel("cancelled by the caller", null);
          }
        });
    return answer;
  }

  /** Turns the status that a call ended with into an exception. */
  BatchLlmException failure(Status status, Metadata trailers) {
    // A channel that is shut down says UNAVAILABLE, as if nobody answered.
    return closed.isDone() ? Errors.cancelled(target) : Errors.fromStatus(status, trailers, target);
  }

  /**
   * Waits for an answer.
   *
   * @throws BatchLlmException the call failed, or the waiting thread was interrupted: then the call
   *     is cancelled
   */
  <R> R await(CompletableFuture<R> answer) {
    try {
      return answer.get();
    } catch (InterruptedException interrupt) {
      answer.cancel(true);
      throw Errors.interrupted(target, interrupt);
    } catch (ExecutionException failed) {
      if (failed.getCause() instanceof BatchLlmException error) {
        error.fillInStackTrace(); // the caller's, who knows nothing of the thread that it came on
        throw error;
      }
      throw new IllegalStateException(failed.getCause());
    }
  }

  /** Waits until the sidecar can be reached. */
  void waitUntilReady(Duration timeout) {
    checkOpen();
    long deadline = System.nanoTime() + Checks.timeout(timeout).toNanos();
    ConnectivityState state = channel.getState(true);
    while (state != ConnectivityState.READY) {
      if (state == ConnectivityState.TRANSIENT_FAILURE) {
        channel.enterIdle();
      }
      CompletableFuture<Void> changed = new CompletableFuture<>();
      channel.notifyWhenStateChanged(state, () -> changed.complete(null));
      // Nobody is told of a connection that is refused again.
      changed.completeOnTimeout(null, RECONNECT_POLL.toMillis(), TimeUnit.MILLISECONDS);
      await(changed);
      checkOpen();
      if (System.nanoTime() >= deadline) {
        throw Errors.unavailable(target, timeout);
      }
      state = channel.getState(true);
    }
  }

  private <Q, R> ClientCall<Q, R> newCall(MethodDescriptor<Q, R> method, Duration timeout) {
    // A channel that could not connect gives that error to all calls for a second, then for longer
    // and longer: here
    // each call has it connect anew, and the pauses are those of ResumePolicy.
    if (channel.getState(false) == ConnectivityState.TRANSIENT_FAILURE) {
      channel.enterIdle();
    }
    CallOptions options =
        timeout == null
            ? CallOptions.DEFAULT
            : CallOptions.DEFAULT.withDeadlineAfter(timeout.toNanos(), TimeUnit.NANOSECONDS);
    return channel.newCall(method, options);
  }

  @Override
  public void close() {
    starting.writeLock().lock();
    try {
      if (closing) {
        return;
      }
      closing = true;
    } finally {
      starting.writeLock().unlock();
    }
    closed.complete(null);
    batches.forEach(Batch::cancel);
    channel.shutdownNow();
    try {
      channel.awaitTermination(CLOSE_SECONDS, TimeUnit.SECONDS);
    } catch (InterruptedException interrupt) {
      Thread.currentThread().interrupt();
    }
    // Not shut down: who waits for a call that is still ending must be told. Its threads end.
    executor.setKeepAliveTime(0, TimeUnit.SECONDS);
    network.shutdownGracefully(0, CLOSE_SECONDS, TimeUnit.SECONDS);
  }
}
