package dev.batchllm.client;

/** The batch has not ended: wait for it, or cancel it. */
public final class BatchNotFinishedException extends FailedPreconditionException {
  private static final long serialVersionUID = 1L;

  BatchNotFinishedException(Failure failure) {
    super(failure);
  }
}
