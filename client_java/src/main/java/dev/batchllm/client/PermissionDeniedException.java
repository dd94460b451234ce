package dev.batchllm.client;

/** The operator does not allow it. */
public final class PermissionDeniedException extends BatchLlmException {
  private static final long serialVersionUID = 1L;

  PermissionDeniedException(Failure failure) {
    super(failure);
  }
}
