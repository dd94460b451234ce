package dev.batchllm.client;

/** The sidecar refuses for size or load. */
public class ResourceExhaustedException extends BatchLlmException {
  private static final long serialVersionUID = 1L;

  ResourceExhaustedException(Failure failure) {
    super(failure);
  }
}
