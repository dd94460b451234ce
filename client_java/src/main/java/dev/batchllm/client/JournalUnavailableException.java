package dev.batchllm.client;

/** The sidecar cannot write its journal now; what it accepted is safe. Try again after a moment. */
public final class JournalUnavailableException extends SidecarUnavailableException {
  private static final long serialVersionUID = 1L;

  JournalUnavailableException(Failure failure) {
    super(failure);
  }
}
