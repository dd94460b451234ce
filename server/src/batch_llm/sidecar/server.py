"""The sidecar as a process: listen, serve, drain."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sqlite3
import stat
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from batch_llm.caching import SqliteCacheRegistry
from batch_llm.executor import Executor
from batch_llm.journal.store import DamagedError, StoreError
from batch_llm.postgres import PostgresError
from batchllm.v1 import (
    batch_service_pb2,
    batch_service_pb2_grpc,
    cache_lifecycle_service_pb2,
    cache_lifecycle_service_pb2_grpc,
    strategy_service_pb2,
    strategy_service_pb2_grpc,
)

from .batch_service import BatchServicer
from .batches import Batches
from .cache_service import CacheServicer
from .catalogue import Catalogue
from .journals import fleet_budgets, fleet_registry, journal
from .live_batch import Engine
from .providers import Providers
from .registrations import Registrations
from .settings import ConfigError, GeminiProvider, Settings
from .single_items import SingleItems
from .strategy_service import StrategyServicer

logger = logging.getLogger("batch_llm")

SERVICES = (
    batch_service_pb2.DESCRIPTOR.services_by_name["BatchService"].full_name,
    strategy_service_pb2.DESCRIPTOR.services_by_name["StrategyService"].full_name,
    cache_lifecycle_service_pb2.DESCRIPTOR.services_by_name["CacheLifecycleService"].full_name,
)
_STOP_GRACE_SECONDS = 2.0
_CLEANUP_SECONDS = 10.0
_LAST_WRITES_SECONDS = 10.0
_PENDING_CALLS = 100_000
_KEEPALIVE_MS = 10_000
_SOCKET_PATH_BYTES = 99  # 107 in sockaddr_un on Linux, less a dot and a process id
_LOOPBACK = ("127.", "localhost:", "[::1]:")


class Sidecar:
    """All services over one engine.

    Args:
        settings: the operator's.

    Raises:
        ConfigError: the state directory or the journal's url cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        state_dir = _make_state_dir(settings.server.state_dir)
        try:
            self._registry = SqliteCacheRegistry(state_dir / "caches.db")
        except (sqlite3.Error, OSError) as error:
            raise ConfigError(
                f"server.state_dir: {state_dir / 'caches.db'}: {error}; delete the file, caches are then created anew"
            ) from None
        try:
            self._journal = journal(settings.journal, state_dir)
            self._fleet_registry = fleet_registry(settings.journal)
            self._fleet = fleet_budgets(settings)
        except (StoreError, PostgresError) as error:
            raise ConfigError(f"journal.url: {error}") from None
        self._providers = Providers(settings.providers, self._registry, state_dir, self._fleet_registry, self._fleet)
        self._catalogue = Catalogue(self._providers)
        self._catalogue.declare(settings.strategies)
        self._registrations = Registrations(self._catalogue, self._journal, allowed=settings.server.allow_registration)
        engine = Engine(self._catalogue, self._registrations, Executor(), settings.server, self._journal)
        self._batches = Batches(engine, retention_seconds=settings.journal.retention_seconds)
        self._service = BatchServicer(self._batches, SingleItems(engine))
        self._health = health.aio.HealthServicer()
        self._sockets: list[tuple[Path, int]] = []
        self._servers: list[grpc.aio.Server] = []
        self.addresses: list[str] = []
        self.health_address: str | None = None

    async def start(self) -> None:
        """Listen and serve.

        Raises:
            ConfigError: an address or the journal cannot be used.
        """
        try:
            await self._journal.store.open()
            if self._fleet_registry is not None:
                await self._fleet_registry.open()
            if self._fleet is not None:
                await self._fleet.open()
            await self._registrations.restore()
        except (DamagedError, StoreError, PostgresError) as error:
            raise ConfigError(f"journal.url: {error}") from None
        server = self._server()
        batch_service_pb2_grpc.add_BatchServiceServicer_to_server(self._service, server)
        strategy_service_pb2_grpc.add_StrategyServiceServicer_to_server(StrategyServicer(self._registrations), server)
        cache_lifecycle_service_pb2_grpc.add_CacheLifecycleServiceServicer_to_server(
            CacheServicer(self._catalogue, self._registrations, self._providers.cache_records), server
        )
        reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        self.addresses = [self._bind(server, address, "server.listen") for address in self._settings.server.listen]
        self._batches.start()
        await server.start()
        if self._settings.server.health_listen is not None:
            probe = self._server()
            self.health_address = self._bind(probe, self._settings.server.health_listen, "server.health_listen")
            await probe.start()
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def drain(self) -> None:
        """Take no more work, finish what is held within the limit, stop. Caches stay."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._service.drain(self._settings.server.drain_timeout_seconds)
        await asyncio.gather(*(server.stop(_STOP_GRACE_SECONDS) for server in self._servers))
        try:
            async with asyncio.timeout(_LAST_WRITES_SECONDS):
                await self._journal.writer.close()
        except TimeoutError:
            logger.warning("the journal cannot be written; what was not is lost")
        await self._journal.store.close()
        if self._fleet is not None:
            await self._fleet.close()
        try:
            async with asyncio.timeout(_CLEANUP_SECONDS):
                await self._catalogue.close()
        except TimeoutError:
            logger.warning("strategies were not cleaned up within %g s", _CLEANUP_SECONDS)
        if self._fleet_registry is not None:
            await self._fleet_registry.close()
        self._registry.close()
        self.remove_sockets()

    def remove_sockets(self) -> None:
        """Take Unix sockets off the file system."""
        for path, inode in self._sockets:
            try:
                if path.stat().st_ino == inode:  # else a sidecar that was started meanwhile has the path
                    path.unlink()
            except FileNotFoundError:
                pass
            except OSError as error:
                logger.warning("the socket %s stays: %s", path, error.strerror)

    def _server(self) -> grpc.aio.Server:
        limit = self._settings.server.max_message_bytes
        server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # else two sidecars could share a port without knowing
                # gRPC cancels calls beyond 1,000 that wait for their handler; single items may come in thousands.
                ("grpc.server.max_pending_requests", _PENDING_CALLS),
                ("grpc.server.max_pending_requests_hard_limit", _PENDING_CALLS),
                # Else a client whose machine or network is gone without a word keeps its batch from others; and let
                # clients ask as often. https://github.com/grpc/grpc/blob/master/doc/keepalive.md
                ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
                ("grpc.keepalive_timeout_ms", _KEEPALIVE_MS),
                ("grpc.http2.ping_timeout_ms", _KEEPALIVE_MS),  # of pings that measure, instead of those
                ("grpc.http2.max_pings_without_data", 0),
                ("grpc.http2.min_ping_interval_without_data_ms", _KEEPALIVE_MS // 2),
            )
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        self._servers.append(server)
        return server

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in ("", *SERVICES):
            await self._health.set(service, status)

    def _bind(self, server: grpc.aio.Server, address: str, key: str) -> str:
        path = _socket_path(address)
        private = None
        if path is not None:
            _free_socket(path, key)
            # Under a name of its own first: when it stops, gRPC removes what it bound by its name, whoever has it then.
            private = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            port = server.add_insecure_port(address if private is None else f"unix:{private}")
        except RuntimeError:
            choose = "with --listen" if key == "server.listen" else f"for {key}"
            raise ConfigError(
                f"{key}: cannot listen on {address}: it is in use, not an address of this machine, or not permitted; "
                f"stop what listens there or choose another {choose}"
            ) from None
        if path is not None and private is not None:
            private.chmod(0o660)
            self._sockets.append((path, private.stat().st_ino))
            private.rename(path)
            return address
        if key == "server.listen" and not address.startswith(_LOOPBACK):
            logger.warning("%s is no loopback address: whoever reaches it can use this sidecar", address)
        return f"{address.rpartition(':')[0]}:{port}"


async def serve(settings: Settings) -> int:
    """Serve until a signal; the exit code."""
    sidecar = Sidecar(settings)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            sidecar.remove_sockets()
            os._exit(128 + number)  # a second signal means now
        logger.info("%s: draining", number.name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    await sidecar.start()
    if any(isinstance(provider, GeminiProvider) for provider in settings.providers.values()):
        _tell_sdk()
    health_note = f"; health alone on {sidecar.health_address}" if sidecar.health_address else ""
    logger.info("serving on %s%s", ", ".join(sidecar.addresses), health_note)
    await stop.wait()
    await sidecar.drain()
    logger.info("stopped")
    return 0


def _tell_sdk() -> None:
    """Say which google-genai is there, without importing it."""
    from batch_llm.strategies.gemini.sdk import sdk_version

    if (version := sdk_version()) is None:
        logger.warning("google-genai is not installed, Gemini strategies will fail; pip install 'batch-llm[gemini]'")
    else:
        logger.info("google-genai %s", version)


def _make_state_dir(path: Path) -> Path:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = path / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"server.state_dir: {path}: {error.strerror}; choose a directory that can be written with --state-dir"
        ) from None
    return path


def _socket_path(address: str) -> Path | None:
    if not address.startswith("unix:"):
        return None
    return Path(address.removeprefix("unix:").removeprefix("//"))


def _free_socket(path: Path, key: str) -> None:
    """Make way for a socket: one that nobody listens on is what a killed sidecar left behind.

    gRPC itself would take the path away from a sidecar that is using it.
    """
    if len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
        raise ConfigError(f"{key}: unix:{path}: is longer than {_SOCKET_PATH_BYTES} bytes; choose a shorter path")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise ConfigError(f"{key}: unix:{path}: the directory {path.parent} does not exist; create it") from None
        return
    except OSError as error:
        raise ConfigError(f"{key}: unix:{path}: {error.strerror}; choose another path") from None
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{key}: unix:{path}: exists and is no socket; choose another path")
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            raise ConfigError(
                f"{key}: unix:{path}: another user's socket, perhaps in use ({error.strerror}); choose another path"
            ) from None
    raise ConfigError(f"{key}: unix:{path}: another process listens there; stop it or choose another path")
