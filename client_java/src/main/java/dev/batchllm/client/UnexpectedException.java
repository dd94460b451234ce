package dev.batchllm.client;

/** What should not happen: a bug in the sidecar, or something else behind the target. */
public final class UnexpectedException extends BatchLlmException {
  private static final long serialVersionUID = 1L;

  UnexpectedException(Failure failure) {
    super(failure);
  }
}
