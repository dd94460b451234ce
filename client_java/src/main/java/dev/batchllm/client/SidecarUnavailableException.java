package dev.batchllm.client;

/** Nobody answers at the target, or the connection broke. */
public class SidecarUnavailableException extends BatchLlmException {
  private static final long serialVersionUID = 1L;

  SidecarUnavailableException(Failure failure) {
    super(failure);
  }
}
