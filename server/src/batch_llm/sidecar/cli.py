"""The command `batch-llm-sidecar`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from batch_llm._version import __version__
from batch_llm.emulator import cli as emulator_cli

from .settings import ConfigError, ServerSettings, Settings, explain, load

_EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code: 0 all fine, 1 a damaged journal, 2 configuration or usage, 130 interrupted.

    Once it serves, an interrupt drains: that is the server's business.
    """
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED


def _run(options: argparse.Namespace) -> int:
    if options.command == "settings":
        from .settings_table import settings_table

        print(settings_table())
        return 0
    if options.command == "emulate-gemini":
        return emulator_cli.run(options)
    if options.command == "journal":
        from . import journal_command

        return journal_command.run(options)
    try:
        settings = _settings(options)
        if options.command == "check-config":
            return _check_config(options.config, settings)
        logging.basicConfig(
            level=settings.server.log_level,
            format="%(asctime)s %(levelname)s %(message)s",
            stream=sys.stderr,
        )
        # Imported here: check-config and --help need no gRPC.
        from .server import serve

        return asyncio.run(serve(settings))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="batch-llm-sidecar", description="Runs batches of LLM calls for applications beside it, over gRPC."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="serve until SIGTERM, then drain",
        description="Serve. SIGTERM or Ctrl-C drains: takes no more work, finishes what it holds, exits 0; a second "
        "one exits at once. Without --config it offers the providers that work as they are, on 127.0.0.1:50051.",
    )
    serve.add_argument("--config", type=Path, metavar="FILE", help="the operator's TOML file")
    serve.add_argument(
        "--listen",
        action="append",
        metavar="ADDRESS",
        help="unix:/path/to.sock or host:port; may be given again; instead of server.listen",
    )
    serve.add_argument("--state-dir", type=Path, metavar="DIR", help="instead of server.state_dir")
    check = commands.add_parser(
        "check-config",
        help="check a configuration file",
        description="Check a configuration file; each problem on a line, by file, key and reason. Imports what "
        "providers of kind `python` name, which serve does when it first needs it.",
    )
    check.add_argument("config", type=Path, metavar="FILE", help="the operator's TOML file")
    commands.add_parser(
        "settings",
        help="list every key of the configuration file",
        description="List every key of the configuration file with its default and what it does, in Markdown.",
    )
    journal = commands.add_parser(
        "journal",
        help="check or export the journal, also a damaged one",
        description="Look into the journal, also a damaged one, without changing it; a SQLite one also while a sidecar "
        "runs.",
    )
    _add_journal_actions(journal)
    emulate = commands.add_parser(
        "emulate-gemini",
        help="emulate Gemini's REST API for development and tests",
        description="Emulate the REST API of Gemini, on the paths of the Developer API and of Vertex AI, until SIGTERM "
        "or Ctrl-C. It needs no key, keeps everything in memory, and is steered over HTTP: docs/emulator.md.",
    )
    emulator_cli.add_arguments(emulate)
    return parser


def _add_journal_actions(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser(
        "check",
        help="read all of it and say what is damaged",
        description="Read all of it and say what is damaged, a line each. Exits 1 if anything is.",
    )
    export = actions.add_parser(
        "export",
        help="write its strategies, items and results as JSON lines",
        description="Write the registered strategies, items and results that can be read to standard output as JSON "
        "lines, and to standard error what cannot. Exits 1 if anything cannot.",
    )
    export.add_argument("--batch-id", metavar="ID", help="items and results of this batch only")
    for action in (check, export):
        where = action.add_mutually_exclusive_group()
        where.add_argument("--config", type=Path, metavar="FILE", help="the operator's TOML file, for its journal.url")
        where.add_argument("journal", nargs="?", metavar="JOURNAL", help="instead: a SQLite file, or postgresql://…")


def _settings(options: argparse.Namespace) -> Settings:
    overrides: dict[str, object] = {}
    if getattr(options, "listen", None):
        overrides["listen"] = tuple(options.listen)
    if getattr(options, "state_dir", None):
        overrides["state_dir"] = options.state_dir
    settings = load(options.config)
    try:
        server = ServerSettings.model_validate({**settings.server.model_dump(), **overrides})
    except ValidationError as error:
        raise ConfigError(explain(error, "the command line")) from None
    return settings.model_copy(update={"server": server})


def _check_config(path: Path, settings: Settings) -> int:
    # Imported here: --help and the like need no engine.
    from .providers import check_factories

    if problems := list(check_factories(settings)):
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in problems))
    print(
        f"{path}: fine. Providers: {', '.join(sorted(settings.providers)) or 'none'}. "
        f"Strategies: {', '.join(sorted(settings.strategies)) or 'none'}."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
