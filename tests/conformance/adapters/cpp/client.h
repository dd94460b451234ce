// A channel, and the calls that are made through it.
#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "batchllm/v1/batch_service.grpc.pb.h"
#include "messages.h"

namespace conformance {

using Timeout = std::optional<std::chrono::duration<double>>;

// A call of `ProcessBatch`. Frames may be sent by one thread while another reads.
class Stream {
 public:
  Stream(const std::shared_ptr<grpc::Channel>& channel, std::shared_ptr<grpc::ClientContext> context);

  // Returns once gRPC has taken the frame, or the stream has ended.
  void Send(const Json& frame);
  void HalfClose();
  // The next frame, the end or the error.
  Json Next();
  void Cancel();

 private:
  const std::shared_ptr<grpc::ClientContext> context_;
  const std::unique_ptr<batchllm::v1::BatchService::Stub> stub_;
  const std::unique_ptr<grpc::ClientReaderWriter<batchllm::v1::ProcessBatchRequest, batchllm::v1::ProcessBatchResponse>>
      call_;
};

class Client {
 public:
  // Connects when it is used.
  explicit Client(const std::string& target);

  // Makes a unary call. Throws Fault: there is no such method, or the request is none of it.
  Json Call(const std::string& method, const Json& request, Timeout timeout);
  std::shared_ptr<Stream> Open(Timeout timeout);
  // Cancels its calls.
  void Close();

 private:
  std::shared_ptr<grpc::ClientContext> NewContext(Timeout timeout);

  const std::shared_ptr<grpc::Channel> channel_;
  std::mutex lock_;
  std::vector<std::weak_ptr<grpc::ClientContext>> calls_;
};

}  // namespace conformance
