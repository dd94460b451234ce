// Adapter of the code that protoc and gRPC's plugin generate, with nothing of ours around it: see ../../README.md.

#include <cstdlib>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "client.h"
#include "messages.h"

namespace conformance {
namespace {

// What was made, by name.
template <typename T>
class Made {
 public:
  void Add(const std::string& name, std::shared_ptr<T> made) {
    const std::lock_guard<std::mutex> guard(lock_);
    made_[name] = std::move(made);
  }

  // Throws Fault: there is none.
  std::shared_ptr<T> Find(const std::string& name) {
    const std::lock_guard<std::mutex> guard(lock_);
    const auto found = made_.find(name);
    if (found == made_.end()) throw Fault("nothing has the name " + name);
    return found->second;
  }

 private:
  std::mutex lock_;
  std::map<std::string, std::shared_ptr<T>> made_;
};

class Adapter {
 public:
  Json Run(const Json& command) {
    const std::string what = command.at("do");
    if (what == "hello") return {{"name", "cpp-generated"}, {"sets", {"raw"}}};
    if (what == "connect") {
      clients_.Add(command.at("client"), std::make_shared<Client>(command.at("target").get<std::string>()));
    } else if (what == "close") {
      ClientOf(command)->Close();
    } else if (what == "call") {
      return ClientOf(command)->Call(command.at("method"), command.at("request"), TimeoutOf(command));
    } else if (what == "stream.open") {
      streams_.Add(command.at("stream"), ClientOf(command)->Open(TimeoutOf(command)));
    } else if (what == "stream.send") {
      StreamOf(command)->Send(command.at("frame"));
    } else if (what == "stream.half_close") {
      StreamOf(command)->HalfClose();
    } else if (what == "stream.next") {
      return StreamOf(command)->Next();
    } else if (what == "stream.cancel") {
      StreamOf(command)->Cancel();
    } else {
      throw Fault("no command " + what);
    }
    return Json::object();
  }

 private:
  std::shared_ptr<Client> ClientOf(const Json& command) { return clients_.Find(command.at("client")); }
  std::shared_ptr<Stream> StreamOf(const Json& command) { return streams_.Find(command.at("stream")); }

  static Timeout TimeoutOf(const Json& command) {
    const auto found = command.find("timeout");
    if (found == command.end()) return std::nullopt;
    return std::chrono::duration<double>(found->get<double>());
  }

  Made<Client> clients_;
  Made<Stream> streams_;
};

Json Answer(Adapter& adapter, const Json& command) {
  try {
    return adapter.Run(command);
  } catch (const std::exception& error) {
    return {{"fault", error.what()}};
  }
}

// Until the input ends.
void Serve() {
  Adapter adapter;
  std::mutex writing;
  for (std::string line; std::getline(std::cin, line);) {
    // The command's own thread, as it may wait for what a later one does.
    std::thread([&adapter, &writing, command = Json::parse(line)] {
      Json answer = Answer(adapter, command);
      answer["id"] = command.at("id");
      const std::string said = answer.dump(-1, ' ', false, Json::error_handler_t::replace);
      const std::lock_guard<std::mutex> guard(writing);
      std::cout << said << std::endl;
    }).detach();
  }
  // At once: what waits for a stream that never ends must not keep the program, nor lose what it uses.
  std::_Exit(EXIT_SUCCESS);
}

}  // namespace
}  // namespace conformance

int main() {
  std::ios::sync_with_stdio(false);
  std::cin.tie(nullptr);  // Reading would flush what other threads write.
  conformance::Serve();
}
