"""The network face: gRPC services over the engine, and the command that serves them."""
