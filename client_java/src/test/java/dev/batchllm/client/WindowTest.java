package dev.batchllm.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.batchllm.v1.ProcessBatchRequest;
import dev.batchllm.v1.WorkItem;
import java.util.List;
import org.junit.jupiter.api.Test;

class WindowTest {
  private static final long COST = limits(2, 1000).cost(Helpers.item(0));

  private static Limits limits(int frameItems, int unconfirmedItems) {
    return new Limits(frameItems, 1 << 20, 1 << 20, unconfirmedItems, 1 << 20);
  }

  private static void add(Window window, int number) {
    assertTrue(window.fits(COST));
    window.add(Helpers.item(number), COST);
  }

  private static List<String> ids(ProcessBatchRequest frame) {
    return frame.getItems().getItemsList().stream().map(WorkItem::getItemId).toList();
  }

  @Test
  void aFrameIsBoundedByCount() {
    Window window = new Window(limits(2, 100));
    add(window, 0);
    add(window, 1);
    assertFalse(window.fits(COST));
    assertEquals(List.of("0", "1"), ids(window.take()));
    assertFalse(window.hasWaiting());
    assertFalse(window.isEmpty());
  }

  @Test
  void aFrameIsBoundedByBytesAndIsNoLargerThanSaid() {
    Window window =
        new Window(new Limits(100, Limits.FRAME_OVERHEAD + 2 * COST, 1 << 20, 100, 1 << 20));
    add(window, 0);
    add(window, 1);
    assertFalse(window.fits(COST));
    assertTrue(window.take().getSerializedSize() <= Limits.FRAME_OVERHEAD + 2 * COST);
  }

  @Test
  void whatIsUnconfirmedIsBoundedByCount() {
    Window window = new Window(limits(1, 2));
    add(window, 0);
    window.take();
    add(window, 1);
    window.take();
    assertFalse(window.fits(COST));
    window.confirm(1);
    assertTrue(window.fits(COST));
  }

  @Test
  void whatIsUnconfirmedIsBoundedByBytesButAnEmptyWindowTakesAnything() {
    Window window = new Window(new Limits(1, 1 << 20, 1 << 20, 100, COST));
    assertTrue(window.fits(COST + 1));
    add(window, 0);
    window.take();
    assertFalse(window.fits(COST));
    window.confirm(1);
    assertTrue(window.isEmpty());
    add(window, 1);
  }

  @Test
  void aNewStreamSendsAgainWhatWasNotConfirmedInOrderAndInFrames() {
    Window window = new Window(limits(2, 100));
    for (int number = 0; number < 6; number += 2) {
      add(window, number);
      add(window, number + 1);
      window.take();
    }
    window.confirm(3);
    window.rewind();
    assertEquals(List.of("3", "4"), ids(window.take()));
    assertEquals(List.of("5"), ids(window.take()));
    window.confirm(3);
    assertTrue(window.isEmpty());
  }

  @Test
  void aConfirmationOfWhatWasNeverSentIsRefused() {
    Window window = new Window(limits(2, 100));
    add(window, 0);
    window.take();
    assertThrows(UnexpectedException.class, () -> window.confirm(2));
  }

  @Test
  void limitsAreCheckedAndClampedToTheServers() {
    assertThrows(IllegalArgumentException.class, () -> limits(0, 1));
    Limits within = limits(1, 1).within(100);
    assertEquals(100, within.maxMessageBytes());
    assertEquals(100, within.frameBytes());
    assertEquals(limits(1, 1), limits(1, 1).within(0));
  }
}
