#include "messages.h"

#include <google/protobuf/util/json_util.h>
#include <google/protobuf/wrappers.pb.h>

#include <array>

namespace conformance {
namespace {

// By number: https://github.com/grpc/grpc/blob/master/doc/statuscodes.md
constexpr std::array kCodes = {
    "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED"};

// Protobuf has base64 for its own JSON alone.
Json Base64(const std::string& bytes) {
  google::protobuf::BytesValue value;
  value.set_value(bytes);
  return Show(value);
}

}  // namespace

void Read(const Json& json, google::protobuf::Message* message) {
  const auto status = google::protobuf::util::JsonStringToMessage(json.dump(), message);
  if (!status.ok()) throw Fault("no " + message->GetDescriptor()->name() + ": " + std::string(status.message()));
}

Json Show(const google::protobuf::Message& message) {
  std::string shown;
  const auto status = google::protobuf::util::MessageToJsonString(message, &shown);
  if (!status.ok())
    throw Fault("a " + message.GetDescriptor()->name() + " has no JSON: " + std::string(status.message()));
  return Json::parse(shown);
}

Json ShowError(const grpc::Status& status) {
  return {{"error",
           {{"code", kCodes.at(status.error_code())},
            {"message", status.error_message()},
            {"details", Base64(status.error_details())}}}};
}

}  // namespace conformance
