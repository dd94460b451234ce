package dev.batchllm.client;

/** The client was closed before the call. */
public final class ClientClosedException extends BatchLlmException {
  private static final long serialVersionUID = 1L;

  ClientClosedException(Failure failure) {
    super(failure);
  }
}
