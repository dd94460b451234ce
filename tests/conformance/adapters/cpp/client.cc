#include "client.h"

#include <functional>
#include <map>
#include <utility>

#include "batchllm/v1/cache_lifecycle_service.grpc.pb.h"
#include "batchllm/v1/strategy_service.grpc.pb.h"

namespace conformance {
namespace {

using batchllm::v1::BatchService;
using batchllm::v1::CacheLifecycleService;
using batchllm::v1::StrategyService;
using Method = std::function<Json(const std::shared_ptr<grpc::Channel>&, grpc::ClientContext*, const Json&)>;

// A method of a generated stub, from JSON to JSON.
template <typename Service, typename Request, typename Response>
Method Unary(grpc::Status (Service::Stub::*method)(grpc::ClientContext*, const Request&, Response*)) {
  return [method](const std::shared_ptr<grpc::Channel>& channel, grpc::ClientContext* context, const Json& json) {
    Request request;
    Read(json, &request);
    Response response;
    const auto stub = Service::NewStub(channel);
    const grpc::Status status = (stub.get()->*method)(context, request, &response);
    return status.ok() ? Json{{"response", Show(response)}} : ShowError(status);
  };
}

const std::map<std::string, Method>& Methods() {
  static const std::map<std::string, Method> methods = {
      {"ProcessItem", Unary<BatchService>(&BatchService::Stub::ProcessItem)},
      {"GetBatch", Unary<BatchService>(&BatchService::Stub::GetBatch)},
      {"ListBatches", Unary<BatchService>(&BatchService::Stub::ListBatches)},
      {"CancelBatch", Unary<BatchService>(&BatchService::Stub::CancelBatch)},
      {"DeleteBatch", Unary<BatchService>(&BatchService::Stub::DeleteBatch)},
      {"RegisterStrategy", Unary<StrategyService>(&StrategyService::Stub::RegisterStrategy)},
      {"GetStrategy", Unary<StrategyService>(&StrategyService::Stub::GetStrategy)},
      {"ListStrategies", Unary<StrategyService>(&StrategyService::Stub::ListStrategies)},
      {"UnregisterStrategy", Unary<StrategyService>(&StrategyService::Stub::UnregisterStrategy)},
      {"CreateOrReuse", Unary<CacheLifecycleService>(&CacheLifecycleService::Stub::CreateOrReuse)},
      {"Renew", Unary<CacheLifecycleService>(&CacheLifecycleService::Stub::Renew)},
      {"Delete", Unary<CacheLifecycleService>(&CacheLifecycleService::Stub::Delete)},
      {"GetCache", Unary<CacheLifecycleService>(&CacheLifecycleService::Stub::GetCache)},
      {"ListCaches", Unary<CacheLifecycleService>(&CacheLifecycleService::Stub::ListCaches)},
  };
  return methods;
}

std::shared_ptr<grpc::Channel> NewChannel(const std::string& target) {
  grpc::ChannelArguments arguments;
  // A connection of its own. Else one that an earlier client left would be shared, and gRPC for C++ may not have seen
  // yet that the sidecar at its other end is gone: without a call it looks every five seconds.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments);
}

}  // namespace

Stream::Stream(const std::shared_ptr<grpc::Channel>& channel, std::shared_ptr<grpc::ClientContext> context)
    : context_(std::move(context)), stub_(BatchService::NewStub(channel)), call_(stub_->ProcessBatch(context_.get())) {}

void Stream::Send(const Json& frame) {
  batchllm::v1::ProcessBatchRequest request;
  Read(frame, &request);
  call_->Write(request);  // False: the stream has ended, which Next tells.
}

void Stream::HalfClose() {
  call_->WritesDone();
}

Json Stream::Next() {
  batchllm::v1::ProcessBatchResponse response;
  if (call_->Read(&response)) return {{"frame", Show(response)}};
  const grpc::Status status = call_->Finish();
  return status.ok() ? Json{{"end", true}} : ShowError(status);
}

void Stream::Cancel() {
  context_->TryCancel();
}

Client::Client(const std::string& target) : channel_(NewChannel(target)) {}

Json Client::Call(const std::string& method, const Json& request, Timeout timeout) {
  const auto found = Methods().find(method);
  if (found == Methods().end()) throw Fault("no method " + method);
  return found->second(channel_, NewContext(timeout).get(), request);
}

std::shared_ptr<Stream> Client::Open(Timeout timeout) {
  return std::make_shared<Stream>(channel_, NewContext(timeout));
}

void Client::Close() {
  const std::lock_guard<std::mutex> guard(lock_);
  for (const auto& call : calls_) {
    if (const auto context = call.lock()) context->TryCancel();
  }
}

std::shared_ptr<grpc::ClientContext> Client::NewContext(Timeout timeout) {
  auto context = std::make_shared<grpc::ClientContext>();
  if (timeout) {
    context->set_deadline(std::chrono::system_clock::now() +
                          std::chrono::duration_cast<std::chrono::system_clock::duration>(*timeout));
  }
  const std::lock_guard<std::mutex> guard(lock_);
  calls_.push_back(context);
  return context;
}

}  // namespace conformance
