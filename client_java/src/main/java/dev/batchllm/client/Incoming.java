package dev.batchllm.client;

import dev.batchllm.v1.BatchOpened;
import dev.batchllm.v1.BatchProgress;
import dev.batchllm.v1.BatchResult;
import dev.batchllm.v1.ItemsAccepted;
import dev.batchllm.v1.OpenBatch;
import dev.batchllm.v1.ProcessBatchRequest;
import dev.batchllm.v1.ProcessBatchResponse;
import dev.batchllm.v1.WorkItemResult;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Consumer;

/**
 * What the server has said of a batch so far, on all its streams. Told by the reading thread, shown
 * to any.
 */
final class Incoming {
  private final OpenBatch first;
  private final Outgoing outgoing;
  private final Retries retries;
  private final Consumer<BatchProgress> onProgress;
  private long newestSequence; // of all streams
  private long receivedSequence; // of the present one
  private volatile long held;
  private volatile long lastSequence;
  private volatile BatchOpened opened;
  private volatile BatchProgress progress;
  private volatile BatchResult totals;

  /**
   * Begins with what the batch is opened with first; {@code onProgress} is called with each report.
   */
  Incoming(
      OpenBatch first, Outgoing outgoing, Retries retries, Consumer<BatchProgress> onProgress) {
    this.first = first;
    this.outgoing = outgoing;
    this.retries = retries;
    this.onProgress = onProgress;
    this.newestSequence = first.getResumeAfterSequence();
    this.lastSequence = first.getResumeAfterSequence();
  }

  String batchId() {
    return first.getBatchId();
  }

  boolean isDetached() {
    return first.getDetach();
  }

  /** How many items the server was last known to hold. */
  long held() {
    return held;
  }

  /** Sequence of the last result that was handed out. */
  long lastSequence() {
    return lastSequence;
  }

  /** The server's answer to `open`, the latest; null: none yet. */
  BatchOpened opened() {
    return opened;
  }

  /** The latest report; null: none yet. */
  BatchProgress progress() {
    return progress;
  }

  /** The last frame; null: it has not come. */
  BatchResult totals() {
    return totals;
  }

  /** Gives the first frame of the next stream. */
  ProcessBatchRequest opening() {
    receivedSequence = lastSequence;
    return ProcessBatchRequest.newBuilder()
        .setOpen(first.toBuilder().setResumeAfterSequence(lastSequence))
        .build();
  }

  /**
   * Notes what a frame says and gives the results in it that are new; a frame of a kind unknown
   * here says nothing.
   *
   * @throws BatchLostException the server no longer holds what it had accepted
   * @throws UnexpectedException the server breaks the protocol
   */
  List<WorkItemResult> take(ProcessBatchResponse frame) {
    switch (frame.getFrameCase()) {
      case RESULTS -> {
        return take(frame.getResults().getResultsList());
      }
      case ACCEPTED -> accept(frame.getAccepted());
      case OPENED -> open(frame.getOpened());
      case PROGRESS -> {
        progress = frame.getProgress();
        onProgress.accept(progress);
      }
      case BATCH_RESULT -> end(frame.getBatchResult());
      case FRAME_NOT_SET -> {}
    }
    return List.of();
  }

  /** Notes that a result was handed out. */
  void handedOut(WorkItemResult result) {
    lastSequence = result.getSequence();
  }

  /** Holds the server to its word when it ends the stream with OK. */
  void checkComplete() {
    if (opened == null || totals == null) {
      throw Errors.brokenProtocol(
          "the server ended the stream without "
              + (opened == null ? "`opened`" : "`batch_result`"));
    }
  }

  /**
   * Says what it means when a server that knew the batch refuses to go on after the last result.
   */
  BatchLlmException explain(BatchLlmException error) {
    boolean refused = "resume_after_sequence".equals(error.metadata().get("field"));
    return refused && opened != null ? lost() : error;
  }

  private void open(BatchOpened now) {
    if (opened != null && (now.getItems() < held || now.getLastSequence() < lastSequence)) {
      throw lost();
    }
    opened = now;
    held = now.getItems();
    retries.connected();
    outgoing.begin(now.getMaxMessageBytes());
  }

  private void accept(ItemsAccepted accepted) {
    if (accepted.getItems() > held) {
      held = accepted.getItems();
      retries.progress();
    }
    outgoing.confirm(accepted.getReceived());
  }

  private List<WorkItemResult> take(List<WorkItemResult> results) {
    List<WorkItemResult> following = new ArrayList<>(results.size());
    for (WorkItemResult result : results) {
      long sequence = result.getSequence();
      if (sequence > receivedSequence + 1) {
        throw Errors.brokenProtocol(
            "the server left out results: result %d follows %d"
                .formatted(sequence, receivedSequence));
      }
      if (sequence > receivedSequence) {
        receivedSequence = sequence;
        following.add(result);
      }
    }
    if (receivedSequence > newestSequence) {
      newestSequence = receivedSequence;
      retries.progress();
    }
    return following;
  }

  private void end(BatchResult result) {
    if (result.getTotalItems() > newestSequence) {
      throw Errors.brokenProtocol(
          "the server left out results: the batch has %d, the last one is %d"
              .formatted(result.getTotalItems(), newestSequence));
    }
    totals = result;
  }

  private BatchLostException lost() {
    return new BatchLostException(batchId(), held, lastSequence, opened.getDurable());
  }
}
