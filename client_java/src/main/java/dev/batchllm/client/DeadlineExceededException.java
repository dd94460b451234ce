package dev.batchllm.client;

/** The timeout of the call or batch ran out. */
public final class DeadlineExceededException extends BatchLlmException {
  private static final long serialVersionUID = 1L;

  DeadlineExceededException(Failure failure) {
    super(failure);
  }
}
