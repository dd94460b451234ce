package dev.batchllm.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import dev.batchllm.client.BatchLlmException.Failure;
import io.grpc.Metadata;
import io.grpc.Status;
import java.time.Duration;
import java.util.Map;
import java.util.function.Function;

/** The one place where gRPC's errors become this package's. */
final class Errors {
  private static final String DOMAIN = "batchllm.v1";
  // A raw key: a proxy's garbage must not hide the status itself.
  private static final Metadata.Key<byte[]> DETAILS =
      Metadata.Key.of("grpc-status-details-bin", Metadata.BINARY_BYTE_MARSHALLER);

  private static final Map<String, Function<Failure, BatchLlmException>> BY_REASON =
      Map.of(
          "SERVER_DRAINING", ServerDrainingException::new,
          "JOURNAL_UNAVAILABLE", JournalUnavailableException::new,
          "JOURNAL_FULL", JournalFullException::new,
          "BATCH_IN_USE", BatchInUseException::new,
          "BATCH_NOT_FOUND", BatchNotFoundException::new,
          "BATCH_NOT_FINISHED", BatchNotFinishedException::new,
          "IDEMPOTENCY_CONFLICT", IdempotencyConflictException::new);

  private Errors() {}

  /** Turns the status that a call to {@code target} ended with into an exception. */
  static BatchLlmException fromStatus(Status status, Metadata trailers, String target) {
    Details details = Details.of(trailers);
    Status.Code code = status.getCode();
    String message = details.reason.isEmpty() ? plainWords(status, target) : describe(status);
    Failure failure =
        new Failure(
            message,
            code,
            details.reason,
            details.metadata,
            details.retryAfter,
            status.asRuntimeException(trailers));
    return BY_REASON.getOrDefault(details.reason, byCode(code)).apply(failure);
  }

  static SidecarUnavailableException unavailable(String target, Duration waited) {
    Status status =
        Status.UNAVAILABLE.withDescription("waited " + waited.toMillis() / 1000.0 + " s");
    return new SidecarUnavailableException(
        new Failure(plainWords(status, target), status.getCode()));
  }

  static CallCancelledException cancelled(String target) {
    return new CallCancelledException(
        new Failure("the call to " + target + " was cancelled", Status.Code.CANCELLED));
  }

  /** Says that the waiting thread was interrupted, and sets its flag again. */
  static CallCancelledException interrupted(String target, InterruptedException cause) {
    Thread.currentThread().interrupt();
    return new CallCancelledException(
        new Failure(
            "the thread that waited for " + target + " was interrupted",
            Status.Code.CANCELLED,
            "",
            Map.of(),
            null,
            cause));
  }

  static ClientClosedException closed(String target) {
    return new ClientClosedException(
        new Failure(
            "the client of " + target + " is closed: make a new one", Status.Code.CANCELLED));
  }

  static UnexpectedException brokenProtocol(String message) {
    return new UnexpectedException(new Failure(message, Status.Code.OK));
  }

  private static Function<Failure, BatchLlmException> byCode(Status.Code code) {
    return switch (code) {
      case UNAVAILABLE -> SidecarUnavailableException::new;
      case INVALID_ARGUMENT, OUT_OF_RANGE -> InvalidRequestException::new;
      case NOT_FOUND -> NotFoundException::new;
      case ALREADY_EXISTS -> AlreadyExistsException::new;
      case PERMISSION_DENIED, UNAUTHENTICATED -> PermissionDeniedException::new;
      case FAILED_PRECONDITION -> FailedPreconditionException::new;
      case ABORTED -> AbortedException::new;
      case DEADLINE_EXCEEDED -> DeadlineExceededException::new;
      case RESOURCE_EXHAUSTED -> ResourceExhaustedException::new;
      case CANCELLED -> CallCancelledException::new;
      case OK, UNKNOWN, UNIMPLEMENTED, INTERNAL, DATA_LOSS -> UnexpectedException::new;
    };
  }

  // Where gRPC itself speaks, not the sidecar, its words lack the way out.
  private static String plainWords(Status status, String target) {
    String details = describe(status);
    return switch (status.getCode()) {
      case UNAVAILABLE ->
          "no batch-llm sidecar answers at %s (%s): start one with `batch-llm-sidecar serve`, or give the target of the one that runs"
              .formatted(target, details);
      case DEADLINE_EXCEEDED ->
          "%s did not finish within the timeout: allow more time".formatted(target);
      case UNIMPLEMENTED ->
          "%s does not know this call: it is no batch-llm sidecar, or an older one"
              .formatted(target);
      default -> details;
    };
  }

  private static String describe(Status status) {
    String description = status.getDescription();
    Throwable cause = status.getCause();
    if (cause != null && cause.getMessage() != null) {
      return description == null ? cause.getMessage() : description + ": " + cause.getMessage();
    }
    return description == null ? "no details given" : description;
  }

  /** What a status says beyond code and message. */
  private record Details(String reason, Map<String, String> metadata, Duration retryAfter) {
    static Details of(Metadata trailers) {
      byte[] serialized = trailers.get(DETAILS);
      String reason = "";
      Map<String, String> metadata = Map.of();
      Duration retryAfter = null;
      if (serialized == null) {
        return new Details(reason, metadata, retryAfter);
      }
      try {
        for (Any detail : com.google.rpc.Status.parseFrom(serialized).getDetailsList()) {
          if (detail.is(ErrorInfo.class)) {
            ErrorInfo info = detail.unpack(ErrorInfo.class);
            if (info.getDomain().equals(DOMAIN)) {
              reason = info.getReason();
              metadata = info.getMetadataMap();
            }
          } else if (detail.is(RetryInfo.class)) {
            var delay = detail.unpack(RetryInfo.class).getRetryDelay();
            retryAfter = Duration.ofSeconds(delay.getSeconds(), delay.getNanos());
          }
        }
      } catch (InvalidProtocolBufferException unreadable) {
        // What was read before it stands.
      }
      return new Details(reason, metadata, retryAfter);
    }
  }
}
