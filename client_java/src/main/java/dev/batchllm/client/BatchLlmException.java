package dev.batchllm.client;

import io.grpc.Status;
import java.time.Duration;
import java.util.Map;
import java.util.Optional;

/**
 * Something went wrong with a call or a stream. A failed item is no exception but a result.
 *
 * <p>Branch on the class or on {@link #reason()}, never on the message:
 *
 * <pre>
 * BatchLlmException
 * ├── SidecarUnavailableException      nobody answers at the target
 * │   ├── ServerDrainingException      the sidecar is shutting down; see retryAfter()
 * │   └── JournalUnavailableException  its journal cannot be written now
 * ├── InvalidRequestException
 * ├── NotFoundException
 * │   └── BatchNotFoundException
 * ├── AlreadyExistsException
 * │   └── IdempotencyConflictException the idempotency key was used for another item
 * ├── PermissionDeniedException
 * ├── FailedPreconditionException
 * │   └── BatchNotFinishedException    for instance deleting a batch that runs
 * ├── AbortedException
 * │   └── BatchInUseException          the batch id is open on another stream
 * ├── DeadlineExceededException
 * ├── ResourceExhaustedException
 * │   ├── JournalFullException         its disk is full
 * │   └── MessageTooLargeException     refused before it was sent
 * ├── BatchLostException               the sidecar no longer holds what it had accepted
 * ├── CallCancelledException           by cancel(), an interrupt, closing the client, or the server
 * ├── ClientClosedException            the client was closed before the call
 * └── UnexpectedException              anything else: a bug, or no sidecar behind the target
 * </pre>
 *
 * @serial exclude
 */
public class BatchLlmException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  private final Status.Code code;
  private final String reason;

  @SuppressWarnings("serial") // what Map.copyOf gives is serializable
  private final Map<String, String> metadata;

  private final Duration retryAfter;

  /** What an exception is made of; {@code retryAfter} and {@code cause} may be null. */
  record Failure(
      String message,
      Status.Code code,
      String reason,
      Map<String, String> metadata,
      Duration retryAfter,
      Throwable cause) {

    Failure(String message, Status.Code code) {
      this(message, code, "", Map.of(), null, null);
    }
  }

  BatchLlmException(Failure failure) {
    super(failure.message(), failure.cause());
    this.code = failure.code();
    this.reason = failure.reason();
    this.metadata = Map.copyOf(failure.metadata());
    this.retryAfter = failure.retryAfter();
  }

  /**
   * The gRPC status code.
   *
   * @return for instance {@code NOT_FOUND}
   */
  public Status.Code code() {
    return code;
  }

  /**
   * The sidecar's reason: a name of {@link dev.batchllm.v1.ErrorReason} without its prefix.
   *
   * @return for instance {@code STRATEGY_NOT_FOUND}; empty when it gave none
   */
  public String reason() {
    return reason;
  }

  /**
   * Facts behind the reason.
   *
   * @return by the names that the reason's comment lists; empty when there are none
   */
  public Map<String, String> metadata() {
    return metadata;
  }

  /**
   * How long to wait before trying again, as the sidecar asks.
   *
   * @return empty when it does not ask
   */
  public Optional<Duration> retryAfter() {
    return Optional.ofNullable(retryAfter);
  }
}
