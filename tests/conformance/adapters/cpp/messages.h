// Protobuf's JSON of messages, and the answers that are made of it.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/grpcpp.h>

#include <nlohmann/json.hpp>
#include <stdexcept>

namespace conformance {

using Json = nlohmann::json;

// The adapter cannot do as told.
class Fault : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Reads a message of protobuf's JSON. Throws Fault: it is none of this message.
void Read(const Json& json, google::protobuf::Message* message);

// Protobuf's JSON of a message.
Json Show(const google::protobuf::Message& message);

// The answer of an RPC that failed.
Json ShowError(const grpc::Status& status);

}  // namespace conformance
