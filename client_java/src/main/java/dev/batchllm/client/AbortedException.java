package dev.batchllm.client;

/** Somebody else is at it. */
public class AbortedException extends BatchLlmException {
  private static final long serialVersionUID = 1L;

  AbortedException(Failure failure) {
    super(failure);
  }
}
