package dev.batchllm.client;

/** The sidecar is shutting down: try again after {@link #retryAfter()}. */
public final class ServerDrainingException extends SidecarUnavailableException {
  private static final long serialVersionUID = 1L;

  ServerDrainingException(Failure failure) {
    super(failure);
  }
}
