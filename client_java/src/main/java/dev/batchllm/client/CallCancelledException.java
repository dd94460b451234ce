package dev.batchllm.client;

/**
 * The call or stream was cancelled: by {@link Batch#cancel()}, by closing the client, by the
 * server, or because the thread that waited for it was interrupted; then its interrupt flag is set.
 */
public final class CallCancelledException extends BatchLlmException {
  private static final long serialVersionUID = 1L;

  CallCancelledException(Failure failure) {
    super(failure);
  }
}
