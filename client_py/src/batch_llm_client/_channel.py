"""How both clients connect."""

import re
from typing import Final

import grpc

DEFAULT_TARGET: Final = "127.0.0.1:50051"
_EXAMPLE: Final = f"host:port or unix:PATH, e.g. {DEFAULT_TARGET}"
DEFAULT_TIMEOUT: Final = 60.0
DEFAULT_MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
DEFAULT_FRAME_ITEMS: Final = 64
DEFAULT_FRAME_BYTES: Final = 512 * 1024
DEFAULT_UNCONFIRMED_ITEMS: Final = 4096
DEFAULT_UNCONFIRMED_BYTES: Final = 32 * 1024 * 1024
# Its messages stay bytes: whatever the answer, somebody is there. Not gRPC's watch of the channel's state, whose thread
# breaks with a traceback when the channel is closed.
HEALTH_CHECK: Final = "/grpc.health.v1.Health/Check"
_KEEPALIVE_MS: Final = 10_000
_NO_PATH: Final = re.compile("unix:(//)?")
_PORT: Final = re.compile(r"(?!unix:|unix-abstract:|vsock:).*:(\d+)", re.DOTALL)
_MAX_PORT: Final = 65535


def check_target(target: str) -> str:
    """Give back what may be a target. TypeError or ValueError: it can be none."""
    if not isinstance(target, str):
        raise TypeError(f"the target must be a str, {_EXAMPLE}, not {type(target).__name__}")
    if not target:
        raise ValueError(f"the target must not be empty: give {_EXAMPLE}")
    if _NO_PATH.fullmatch(target):
        raise ValueError(f"the target must have a path after {target!r}: give {_EXAMPLE}")
    # gRPC would take such a port modulo 65536, and connect to whoever listens there.
    if (port := _PORT.fullmatch(target)) and int(port[1]) > _MAX_PORT:
        raise ValueError(f"the target's port must be at most {_MAX_PORT}, not {port[1]} ({target})")
    return target


def is_answer(code: grpc.StatusCode) -> bool:
    """Say whether a call that failed has reached somebody, instead of losing its connection."""
    return code not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


def channel_options(max_message_bytes: int) -> list[tuple[str, int]]:
    """List the channel's options; `max_message_bytes` bounds what is sent."""
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", -1),
        # A sidecar is beside its service: a company's http_proxy must not come between.
        ("grpc.enable_http_proxy", 0),
        # gRPC's own pause between attempts to connect grows to 120 s; ours are in ResumePolicy.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        # A network that is gone without a reset would leave a batch waiting for ever. The sidecar allows these pings;
        # see https://github.com/grpc/grpc/blob/master/doc/keepalive.md.
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_MS),
        ("grpc.http2.ping_timeout_ms", _KEEPALIVE_MS),  # of pings that measure, instead of those
        ("grpc.http2.max_pings_without_data", 0),
    ]
