package dev.batchllm.client;

/**
 * A strategy of that name exists with another spec; {@code metadata().get("differs")} says where.
 */
public class AlreadyExistsException extends BatchLlmException {
  private static final long serialVersionUID = 1L;

  AlreadyExistsException(Failure failure) {
    super(failure);
  }
}
