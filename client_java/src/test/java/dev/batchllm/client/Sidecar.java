package dev.batchllm.client;

import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * A real {@code batch-llm-sidecar serve} with the simulated provider, on a TCP port and a Unix
 * socket.
 */
final class Sidecar implements AutoCloseable {
  private static final Pattern SERVING = Pattern.compile("serving on 127\\.0\\.0\\.1:(\\d+)");
  private static final String CONFIG =
      """
      [server]
      drain_timeout_seconds = 1
      [providers.simulated]
      kind = "simulated"
      [strategies.echo]
      provider = "simulated"
      [strategies.one]
      provider = "simulated"
      max_concurrency = 1
      [strategies.cached]
      provider = "simulated"
      cached_content = ["a handbook that all items share, long enough to count"]
      """;

  private final Path folder;
  private Process process;
  private int port;

  /** Starts one; {@code folder} holds its socket and its journal. */
  Sidecar(Path folder) throws Exception {
    this.folder = folder;
    Files.writeString(folder.resolve("sidecar.toml"), CONFIG);
    start();
  }

  /**
   * Starts it again, on the same socket, with the same journal. Its port is another one: the former
   * may be somebody else's by now.
   */
  void start() throws Exception {
    process =
        new ProcessBuilder(
                program(),
                "serve",
                "--config",
                folder.resolve("sidecar.toml").toString(),
                "--listen",
                "127.0.0.1:0",
                "--listen",
                unixTarget(),
                "--state-dir",
                folder.resolve("state").toString())
            .redirectErrorStream(true)
            .start();
    CompletableFuture<Integer> serving = new CompletableFuture<>();
    Thread log = new Thread(() -> readLog(process, serving), "sidecar-log");
    log.setDaemon(true);
    log.start();
    port = serving.get(60, TimeUnit.SECONDS);
  }

  String target() {
    return "127.0.0.1:" + port;
  }

  String unixTarget() {
    return "unix:" + folder.resolve("sidecar.sock");
  }

  /** Kills it as {@code kill -9} does. */
  void kill() throws InterruptedException {
    process.destroyForcibly().waitFor();
  }

  @Override
  public void close() {
    process.destroy();
    process.onExit().completeOnTimeout(process, 30, TimeUnit.SECONDS).join();
    process.destroyForcibly();
  }

  private static String program() {
    String named = System.getenv("BATCH_LLM_SIDECAR");
    if (named != null) {
      return named;
    }
    for (String place : List.of(System.getenv("PATH").split(File.pathSeparator))) {
      Path program = Path.of(place, "batch-llm-sidecar");
      if (Files.isExecutable(program)) {
        return program.toString();
      }
    }
    throw new AssertionError(
        "these tests need a sidecar: `pip install ./server`, then put batch-llm-sidecar in PATH or"
            + " name it in BATCH_LLM_SIDECAR");
  }

  private static void readLog(Process process, CompletableFuture<Integer> serving) {
    StringBuilder log = new StringBuilder();
    try (var lines =
        new BufferedReader(
            new InputStreamReader(process.getInputStream(), StandardCharsets.UTF_8))) {
      for (String line = lines.readLine(); line != null; line = lines.readLine()) {
        log.append(line).append('\n');
        Matcher matcher = SERVING.matcher(line);
        if (matcher.find()) {
          serving.complete(Integer.valueOf(matcher.group(1)));
        }
      }
    } catch (IOException killed) {
      log.append(killed);
    }
    serving.completeExceptionally(new AssertionError("the sidecar ended:\n" + log));
  }
}
