package dev.batchllm.client;

/** The idempotency key was used for another item. */
public final class IdempotencyConflictException extends AlreadyExistsException {
  private static final long serialVersionUID = 1L;

  IdempotencyConflictException(Failure failure) {
    super(failure);
  }
}
