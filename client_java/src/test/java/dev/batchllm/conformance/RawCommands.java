package dev.batchllm.conformance;

import com.google.gson.JsonObject;
import com.google.protobuf.Message;
import dev.batchllm.v1.BatchServiceGrpc;
import dev.batchllm.v1.CacheLifecycleServiceGrpc;
import dev.batchllm.v1.ProcessBatchRequest;
import dev.batchllm.v1.ProcessBatchResponse;
import dev.batchllm.v1.StrategyServiceGrpc;
import io.grpc.CallOptions;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.MethodDescriptor.PrototypeMarshaller;
import io.grpc.Status;
import io.grpc.StatusException;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.BlockingClientCall;
import io.grpc.stub.ClientCalls;
import java.util.Base64;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;

/** The generated code alone. */
final class RawCommands implements Adapter.Commands {
  private static final Metadata.Key<byte[]> DETAILS =
      Metadata.Key.of("grpc-status-details-bin", Metadata.BINARY_BYTE_MARSHALLER);

  private final Map<String, ManagedChannel> channels = new ConcurrentHashMap<>();
  private final Map<String, BlockingClientCall<ProcessBatchRequest, ProcessBatchResponse>> streams =
      new ConcurrentHashMap<>();

  @Override
  public JsonObject run(JsonObject command) throws Exception {
    try {
      return answer(command);
    } catch (StatusRuntimeException error) {
      return failed(error.getStatus(), error.getTrailers());
    } catch (StatusException error) {
      return failed(error.getStatus(), error.getTrailers());
    }
  }

  private JsonObject answer(JsonObject command) throws Exception {
    switch (Adapter.text(command, "do")) {
      case "hello" -> {
        return Adapter.hello("java-generated", "raw");
      }
      case "connect" ->
          channels.put(
              Adapter.text(command, "client"),
              ManagedChannelBuilder.forTarget(Adapter.text(command, "target"))
                  .usePlaintext()
                  .build());
      case "close" -> channels.remove(Adapter.text(command, "client")).shutdownNow();
      case "call" -> {
        return call(command);
      }
      case "stream.open" -> {
        var stub = BatchServiceGrpc.newBlockingV2Stub(channel(command));
        if (command.has("timeout")) {
          stub = stub.withDeadlineAfter(nanos(command), TimeUnit.NANOSECONDS);
        }
        streams.put(Adapter.text(command, "stream"), stub.processBatch());
      }
      case "stream.send" ->
          stream(command)
              .write(
                  Adapter.message(
                      command.getAsJsonObject("frame"), ProcessBatchRequest.getDefaultInstance()));
      case "stream.half_close" -> stream(command).halfClose();
      case "stream.next" -> {
        ProcessBatchResponse frame = stream(command).read();
        if (frame != null) {
          return Adapter.with("frame", frame);
        }
        JsonObject end = new JsonObject();
        end.addProperty("end", true);
        return end;
      }
      case "stream.cancel" -> stream(command).cancel("cancelled by the case", null);
      default -> {
        return Adapter.unknown(command);
      }
    }
    return new JsonObject();
  }

  private JsonObject call(JsonObject command) throws Exception {
    String name = Adapter.text(command, "method");
    MethodDescriptor<?, ?> method =
        Stream.of(
                BatchServiceGrpc.getServiceDescriptor(),
                StrategyServiceGrpc.getServiceDescriptor(),
                CacheLifecycleServiceGrpc.getServiceDescriptor())
            .flatMap(service -> service.getMethods().stream())
            .filter(candidate -> name.equals(candidate.getBareMethodName()))
            .findFirst()
            .orElseThrow();
    return call(command, method);
  }

  private <Q, R> JsonObject call(JsonObject command, MethodDescriptor<Q, R> method)
      throws Exception {
    var requests = (PrototypeMarshaller<Q>) method.getRequestMarshaller();
    Message type = (Message) requests.getMessagePrototype();
    Message request = Adapter.message(command.getAsJsonObject("request"), type);
    CallOptions options =
        command.has("timeout")
            ? CallOptions.DEFAULT.withDeadlineAfter(nanos(command), TimeUnit.NANOSECONDS)
            : CallOptions.DEFAULT;
    Q typed = requests.getMessageClass().cast(request);
    return Adapter.with(
        "response",
        (Message) ClientCalls.blockingUnaryCall(channel(command), method, options, typed));
  }

  private ManagedChannel channel(JsonObject command) {
    return channels.get(Adapter.text(command, "client"));
  }

  private BlockingClientCall<ProcessBatchRequest, ProcessBatchResponse> stream(JsonObject command) {
    return streams.get(Adapter.text(command, "stream"));
  }

  private static long nanos(JsonObject command) {
    return (long) (command.get("timeout").getAsDouble() * 1e9);
  }

  private static JsonObject failed(Status status, Metadata trailers) {
    JsonObject error = new JsonObject();
    error.addProperty("code", status.getCode().name());
    error.addProperty("message", status.getDescription());
    byte[] details = trailers == null ? null : trailers.get(DETAILS);
    if (details != null) {
      error.addProperty("details", Base64.getEncoder().encodeToString(details));
    }
    JsonObject answer = new JsonObject();
    answer.add("error", error);
    return answer;
  }
}
