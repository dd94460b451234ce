package dev.batchllm.client;

/** A field of the request is out of its range; {@code metadata().get("field")} names it. */
public final class InvalidRequestException extends BatchLlmException {
  private static final long serialVersionUID = 1L;

  InvalidRequestException(Failure failure) {
    super(failure);
  }
}
