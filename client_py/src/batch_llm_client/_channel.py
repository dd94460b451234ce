"""How both clients connect."""

from typing import Final

DEFAULT_TARGET: Final = "127.0.0.1:50051"
DEFAULT_TIMEOUT: Final = 60.0
DEFAULT_MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
DEFAULT_FRAME_ITEMS: Final = 64
DEFAULT_FRAME_BYTES: Final = 512 * 1024


def channel_options(max_message_bytes: int) -> list[tuple[str, int]]:
    """List the channel's options; `max_message_bytes` bounds what is sent."""
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", -1),
        # A sidecar is beside its service: a company's http_proxy must not come between.
        ("grpc.enable_http_proxy", 0),
    ]
