package dev.batchllm.conformance;

import com.google.gson.JsonArray;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.gson.JsonPrimitive;
import com.google.protobuf.Message;
import com.google.protobuf.MessageOrBuilder;
import com.google.protobuf.util.JsonFormat;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;

/**
 * What the conformance suite drives: reads commands from stdin and writes answers to stdout, a JSON
 * object a line. See tests/conformance/README.md. Its argument says what is driven: {@code client},
 * or {@code raw} for the generated code.
 */
public final class Adapter {
  /** Does one command: gives the answer's fields. */
  interface Commands {
    JsonObject run(JsonObject command) throws Exception;
  }

  private static final JsonFormat.Printer PRINTER =
      JsonFormat.printer().preservingProtoFieldNames().omittingInsignificantWhitespace();

  private final Commands commands;
  private final PrintStream out;

  private Adapter(Commands commands, PrintStream out) {
    this.commands = commands;
    this.out = out;
  }

  /** Runs until stdin ends. */
  public static void main(String[] arguments) throws IOException, InterruptedException {
    Commands commands = arguments[0].equals("raw") ? new RawCommands() : new ClientCommands();
    PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
    Adapter adapter = new Adapter(commands, out);
    ExecutorService threads = Executors.newCachedThreadPool();
    var in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = in.readLine(); line != null; line = in.readLine()) {
      JsonObject command = JsonParser.parseString(line).getAsJsonObject();
      threads.execute(() -> adapter.answer(command));
    }
    threads.shutdown();
    threads.awaitTermination(1, TimeUnit.SECONDS);
    System.exit(0); // whatever still waits
  }

  private void answer(JsonObject command) {
    JsonObject answer;
    try {
      answer = commands.run(command);
    } catch (Throwable fault) {
      answer = new JsonObject();
      answer.addProperty("fault", fault.toString());
      fault.printStackTrace();
    }
    answer.add("id", command.get("id"));
    synchronized (out) {
      out.println(answer);
      out.flush();
    }
  }

  static JsonObject hello(String name, String set) {
    JsonArray sets = new JsonArray();
    sets.add(set);
    JsonObject answer = new JsonObject();
    answer.addProperty("name", name);
    answer.add("sets", sets);
    return answer;
  }

  static JsonObject with(String name, MessageOrBuilder message) throws IOException {
    JsonObject answer = new JsonObject();
    answer.add(name, json(message));
    return answer;
  }

  static JsonObject json(MessageOrBuilder message) throws IOException {
    return JsonParser.parseString(PRINTER.print(message)).getAsJsonObject();
  }

  @SuppressWarnings("unchecked") // a builder builds what its default instance is
  static <M extends Message> M message(JsonObject json, M type) throws IOException {
    Message.Builder builder = type.newBuilderForType();
    JsonFormat.parser().merge(json.toString(), builder);
    return (M) builder.build();
  }

  static String text(JsonObject command, String name) {
    return command.get(name).getAsString();
  }

  static boolean flag(JsonObject command, String name, boolean otherwise) {
    return command.has(name) ? command.get(name).getAsBoolean() : otherwise;
  }

  static JsonObject unknown(JsonObject command) {
    JsonObject answer = new JsonObject();
    answer.add("fault", new JsonPrimitive("unknown command " + text(command, "do")));
    return answer;
  }
}
