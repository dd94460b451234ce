package dev.batchllm.client;

/** No batch of that id is known: it was deleted, its retention is over, or it never was. */
public final class BatchNotFoundException extends NotFoundException {
  private static final long serialVersionUID = 1L;

  BatchNotFoundException(Failure failure) {
    super(failure);
  }
}
