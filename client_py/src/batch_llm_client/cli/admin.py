"""`batch-llm strategies`, `batch-llm caches` and `batch-llm batches`."""

import argparse
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.table import Table
from rich.text import Text

from batch_llm_client.cli.connection import connect
from batch_llm_client.cli.errors import UsageError
from batch_llm_client.strategies import to_spec
from batchllm.v1.batch_service_pb2 import BatchInfo, BatchState
from batchllm.v1.cache_lifecycle_service_pb2 import Cache, CacheState
from batchllm.v1.strategy_service_pb2 import Strategy, StrategySource, StrategySpec

_Listed = TypeVar("_Listed", bound=Message)
_PAGE_SIZE: Final = 1000


def strategies(options: argparse.Namespace) -> int:
    """List, show, register or unregister."""
    with connect(options) as client:
        match options.action:
            case "show":
                _print_json(_as_dict(client.get_strategy(options.name)))
            case "register":
                answers = [client.register_strategy(spec) for spec in read_specs(Path(options.file))]
                if options.json:
                    _print_json([{"strategy": _as_dict(strategy), "registered": new} for strategy, new in answers])
                for strategy, new in () if options.json else answers:
                    print(f"{strategy.spec.name}: {'registered' if new else 'was registered with this spec already'}")
            case "unregister":
                client.unregister_strategy(options.name)
                if options.json:
                    _print_json({"unregistered": options.name})
                else:
                    print(f"{options.name}: unregistered")
            case _:
                _print_all(options, client.list_strategies(), _STRATEGY_COLUMNS)
    return 0


def caches(options: argparse.Namespace) -> int:
    """List, create, renew or delete."""
    with connect(options) as client:
        match options.action:
            case "show":
                _print_json(_as_dict(client.get_cache(options.name)))
            case "create":
                cache, reused = client.create_or_reuse_cache(options.name, options.ttl)
                _print_cache(options, cache, "reused", reused, "reused as it is" if reused else "created")
            case "renew":
                cache, recreated = client.renew_cache(options.name, options.ttl)
                words = "had ended, created anew" if recreated else "renewed"
                _print_cache(options, cache, "recreated", recreated, words)
            case "delete":
                deleted = client.delete_cache(options.name)
                if options.json:
                    _print_json({"deleted": deleted})
                else:
                    print(f"{options.name}: {'deleted' if deleted else 'there was no cache'}")
            case _:
                _print_all(options, client.list_caches(), _CACHE_COLUMNS)
    return 0


def batches(options: argparse.Namespace) -> int:
    """List, show, cancel or delete."""
    with connect(options) as client:
        match options.action:
            case "show":
                _print_json(_as_dict(client.get_batch(options.name)))
            case "cancel":
                batch = client.cancel_batch(options.name)
                if options.json:
                    _print_json(_as_dict(batch))
                else:
                    state = _word(BatchState.Name(batch.state))
                    print(f"{options.name}: {state}, {batch.done:,} of {batch.items:,} items done")
            case "delete":
                client.delete_batch(options.name)
                if options.json:
                    _print_json({"deleted": options.name})
                else:
                    print(f"{options.name}: deleted")
            case _:
                _print_all(options, list(client.list_batches(_PAGE_SIZE)), _BATCH_COLUMNS)
    return 0


def read_specs(path: Path) -> list[StrategySpec]:
    """Read a file with one strategy, or with `[strategies.NAME]` tables as the operator's. UsageError: it is bad."""
    readers = {".toml": tomllib.loads, ".json": json.loads}
    if path.suffix not in readers:
        raise UsageError(f"{path}: give a .toml or .json file")
    try:
        content = readers[path.suffix](path.read_text(encoding="utf-8"))
        return [to_spec(table) for table in _tables(content)]
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None


def _tables(content: Any) -> list[Mapping[str, Any]]:
    named = content.get("strategies") if isinstance(content, Mapping) else None
    tables = list(named.values()) if isinstance(named, Mapping) else [content]
    if not all(isinstance(table, Mapping) for table in tables):
        raise ValueError("a strategy is a table of keys")
    return [{"name": name, **table} for name, table in named.items()] if isinstance(named, Mapping) else tables


def _print_cache(options: argparse.Namespace, cache: Cache, key: str, value: bool, words: str) -> None:
    if options.json:
        _print_json({"cache": _as_dict(cache), key: value})
    elif cache.message:
        print(f"{options.name}: no cache: {cache.message}")
    else:
        print(f"{options.name}: cache {words}: {cache.total_token_count:,} tokens until {_expiry(cache)}, {cache.name}")


def _print_all(
    options: argparse.Namespace, messages: Sequence[_Listed], columns: Mapping[str, Callable[[_Listed], str]]
) -> None:
    if options.json:
        _print_json([_as_dict(message) for message in messages])
        return
    table = Table(*columns)
    for message in messages:
        table.add_row(*(Text(cell(message)) for cell in columns.values()))
    Console().print(table)


def _as_dict(message: Message) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _expiry(cache: Cache) -> str:
    return _moment(cache.expire_time) if cache.HasField("expire_time") else ""


def _moment(timestamp: Timestamp) -> str:
    return f"{timestamp.ToDatetime():%Y-%m-%d %H:%M:%S} UTC"


_STRATEGY_COLUMNS: Final[Mapping[str, Callable[[Strategy], str]]] = {
    "name": lambda strategy: strategy.spec.name,
    "provider": lambda strategy: strategy.spec.provider,
    "model": lambda strategy: strategy.spec.model,
    "source": lambda strategy: _word(StrategySource.Name(strategy.source)),
    "cached content": lambda strategy: "yes" if strategy.spec.cached_content else "no",
    "max concurrency": lambda strategy: str(strategy.spec.max_concurrency),
    "users": lambda strategy: str(strategy.users),
}
_CACHE_COLUMNS: Final[Mapping[str, Callable[[Cache], str]]] = {
    "strategy": lambda cache: cache.strategy,
    "state": lambda cache: CacheState.Name(cache.state).removeprefix("CACHE_STATE_").replace("_", " ").lower(),
    "tokens": lambda cache: f"{cache.total_token_count:,}",
    "expires": _expiry,
    "model": lambda cache: cache.model,
    "name": lambda cache: cache.name,
}
_BATCH_COLUMNS: Final[Mapping[str, Callable[[BatchInfo], str]]] = {
    "batch": lambda batch: batch.batch_id,
    "state": lambda batch: _word(BatchState.Name(batch.state)) if batch.state else "damaged",
    "running": lambda batch: "yes" if batch.running else "no",
    "items": lambda batch: f"{batch.items:,}",
    "done": lambda batch: f"{batch.done:,}",
    "failed": lambda batch: f"{batch.failed:,}",
    "updated": lambda batch: _moment(batch.update_time) if batch.HasField("update_time") else "",
}


def _word(enum_name: str) -> str:
    return enum_name.rpartition("_")[2].lower()
