package dev.batchllm.client;

/**
 * The disk of the sidecar's journal is full; what it accepted is safe. Make room, or delete
 * finished batches.
 */
public final class JournalFullException extends ResourceExhaustedException {
  private static final long serialVersionUID = 1L;

  JournalFullException(Failure failure) {
    super(failure);
  }
}
