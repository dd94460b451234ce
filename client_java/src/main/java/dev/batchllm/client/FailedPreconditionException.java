package dev.batchllm.client;

/** It cannot be done as things are, for instance unregistering a strategy in use. */
public class FailedPreconditionException extends BatchLlmException {
  private static final long serialVersionUID = 1L;

  FailedPreconditionException(Failure failure) {
    super(failure);
  }
}
