package dev.batchllm.client;

/** The batch id is open on another stream. */
public final class BatchInUseException extends AbortedException {
  private static final long serialVersionUID = 1L;

  BatchInUseException(Failure failure) {
    super(failure);
  }
}
