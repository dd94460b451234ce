package dev.batchllm.client;

/** There is no such strategy, cache or batch. */
public class NotFoundException extends BatchLlmException {
  private static final long serialVersionUID = 1L;

  NotFoundException(Failure failure) {
    super(failure);
  }
}
