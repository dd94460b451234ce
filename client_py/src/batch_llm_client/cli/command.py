"""Arguments in, exit code out."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NoReturn

from batch_llm_client._channel import DEFAULT_TARGET
from batch_llm_client._version import __version__
from batch_llm_client.cli.errors import EXIT_BROKEN_PIPE, EXIT_ERROR, EXIT_INTERRUPTED, UsageError, complaint
from batch_llm_client.errors import BatchLLMClientError
from batch_llm_client.model import ResultOrder

_EXAMPLES: Final = """\
examples:
  batch-llm run tickets.jsonl --strategy triage --out results.jsonl
  batch-llm --target unix:/run/batch-llm/batch-llm.sock strategies
  batch-llm caches create triage --ttl 7200
  batch-llm batches show nightly

exit codes: 0 all fine, 1 some items failed, 2 usage or connection error, 130 interrupted
"""

_RUN_EXAMPLES: Final = r"""examples:
  batch-llm run tickets.jsonl --strategy triage --prompt-field text --out results.jsonl
  batch-llm run tickets.csv --strategy triage --prompt-template 'Ticket: {text}\nLabel:' --expect-field label
  zcat big.jsonl.gz | batch-llm run - --strategy triage > results.jsonl
  batch-llm run tickets.jsonl --strategy triage --batch-id nightly --resume --out results.jsonl

The last may be run until it is done, however it is killed: each run goes on where the one before ended.
Rows that cannot be used are reported as FILE:LINE on stderr and counted as failed; the others go on.
exit codes: 0 all fine, 1 some items or rows failed, 2 usage or connection error, 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (default: the process's) and return its exit code."""
    options = _parser().parse_args(argv)
    module, function = options.handler
    try:
        try:
            handler = getattr(importlib.import_module(f"batch_llm_client.cli.{module}"), function)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "rich":
                raise
            raise UsageError("the command needs rich: pip install 'batch-llm-client[cli]'") from None
        return int(handler(options))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more when it ends; that must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except (UsageError, BatchLLMClientError, OSError) as error:
        return _complain(error)


def run_command() -> NoReturn:
    """Run the command as a process of its own, and end it."""
    code = main()
    if code == EXIT_INTERRUPTED:
        # A thread may be reading stdin, for as long as nobody types: grpc does not survive the interpreter's end then.
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _complain(error: Exception | str) -> int:
    print(complaint(error), file=sys.stderr)
    return EXIT_ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="batch-llm",
        description="Run batches of LLM calls on a batch-llm sidecar; look after its batches, strategies and caches.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    _add_connection(parser)
    parser.set_defaults(target=os.environ.get("BATCH_LLM_TARGET") or DEFAULT_TARGET, wait=0.0)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_run(commands)
    _add_strategies(commands)
    _add_caches(commands)
    _add_batches(commands)
    return parser


def _add_connection(parser: argparse.ArgumentParser) -> None:
    # SUPPRESS: an option left out after the command must not undo the one given before it.
    parser.add_argument(
        "--target",
        default=argparse.SUPPRESS,
        help=f"the sidecar: HOST:PORT or unix:/path/to.sock (default: $BATCH_LLM_TARGET, else {DEFAULT_TARGET})",
    )
    parser.add_argument(
        "--wait",
        type=float,
        default=argparse.SUPPRESS,
        metavar="SECONDS",
        help="wait so long for a sidecar that is starting (default: not at all)",
    )


_Commands = argparse._SubParsersAction  # argparse gives the type no public name


def _add_run(commands: "_Commands[argparse.ArgumentParser]") -> None:
    run = commands.add_parser(
        "run",
        help="run the rows of a file as one batch",
        description="Run the rows of a JSONL or CSV file as one batch. Results come as JSON lines, as they finish.",
        epilog=_RUN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_connection(run)
    run.add_argument("file", metavar="FILE", help="JSONL or CSV in UTF-8, read lazily; - is stdin")
    run.add_argument("--strategy", default="", metavar="NAME", help="strategy that runs the rows")
    run.add_argument("--out", default="-", metavar="FILE", help="where results go (default: stdout)")
    run.add_argument("--format", choices=["jsonl", "csv"], help="default: by suffix; jsonl for stdin")
    run.add_argument("--id-field", default="id", metavar="FIELD", help="field with the item's id (default: id)")
    prompt = run.add_mutually_exclusive_group()
    prompt.add_argument("--prompt-field", default="prompt", metavar="FIELD", help="default: prompt")
    prompt.add_argument(
        "--prompt-template",
        metavar="TEXT",
        help=r"text with {field} in it, e.g. 'Ticket: {text}'; \n is a newline, {{ and }} are braces",
    )
    run.add_argument("--batch-id", default="", metavar="ID", help="name of the batch (default: a new one is made)")
    run.add_argument(
        "--resume",
        action="store_true",
        help="go on with the batch --batch-id: what the file --out has is not sent again, what follows is appended",
    )
    run.add_argument(
        "--detach",
        action="store_true",
        help="hand the rows over, print the batch's id and leave; the sidecar goes on, --resume gets the results",
    )
    run.add_argument(
        "--max-concurrency", type=int, default=0, metavar="N", help="most items in flight (default: the strategy's)"
    )
    run.add_argument(
        "--order",
        choices=[str(order) for order in ResultOrder],
        help="order of results (default: completion, or what the batch was opened with)",
    )
    run.add_argument("--timeout", type=float, metavar="SECONDS", help="limit for each item (default: none)")
    run.add_argument("--expect-field", metavar="FIELD", help="field with the right answer; outputs are compared to it")
    run.add_argument("--quiet", action="store_true", help="no progress and no table, only errors")
    run.set_defaults(handler=("run", "run"))


def _add_strategies(commands: "_Commands[argparse.ArgumentParser]") -> None:
    strategies = commands.add_parser(
        "strategies", help="list, show, register, unregister strategies", parents=[_shared_options()]
    )
    strategies.set_defaults(handler=("admin", "strategies"), action="list", json=False)
    actions = strategies.add_subparsers(title="actions", metavar="ACTION")
    for action, argument, text in (
        ("list", None, "list all strategies (default)"),
        ("show", "name", "show one as JSON"),
        ("register", "file", "register what a .toml or .json file declares"),
        ("unregister", "name", "remove one that was registered by a client"),
    ):
        parser = actions.add_parser(action, help=text, description=text, parents=[_shared_options()])
        parser.set_defaults(action=action)
        if argument is not None:
            parser.add_argument(argument, metavar=argument.upper())


def _add_caches(commands: "_Commands[argparse.ArgumentParser]") -> None:
    caches = commands.add_parser(
        "caches", help="list, show, create, renew, delete context caches", parents=[_shared_options()]
    )
    caches.set_defaults(handler=("admin", "caches"), action="list", json=False, ttl=None)
    actions = caches.add_subparsers(title="actions", metavar="ACTION")
    actions.add_parser("list", help="list all caches (default)", parents=[_shared_options()]).set_defaults(
        action="list"
    )
    for action, text in (
        ("show", "show a strategy's cache as JSON"),
        ("create", "create a strategy's cache, or reuse the one there is"),
        ("renew", "let a strategy's cache live --ttl seconds from now"),
        ("delete", "delete a strategy's cache"),
    ):
        parser = actions.add_parser(action, help=text, description=text, parents=[_shared_options()])
        parser.set_defaults(action=action)
        parser.add_argument("name", metavar="STRATEGY")
        if action in {"create", "renew"}:
            parser.add_argument(
                "--ttl", type=float, default=argparse.SUPPRESS, metavar="SECONDS", help="default: the strategy's"
            )


def _add_batches(commands: "_Commands[argparse.ArgumentParser]") -> None:
    batches = commands.add_parser("batches", help="list, show, cancel, delete batches", parents=[_shared_options()])
    batches.set_defaults(handler=("admin", "batches"), action="list", json=False)
    actions = batches.add_subparsers(title="actions", metavar="ACTION")
    for action, text in (
        ("list", "list all batches that the sidecar keeps (default)"),
        ("show", "show one as JSON, its totals included once it has ended"),
        ("cancel", "end one: items that have not ended get a result that says CANCELLED"),
        ("delete", "erase one that has ended, its prompts and outputs included"),
    ):
        parser = actions.add_parser(action, help=text, description=text, parents=[_shared_options()])
        parser.set_defaults(action=action)
        if action != "list":
            parser.add_argument("name", metavar="BATCH_ID")


def _shared_options() -> argparse.ArgumentParser:
    # A new parser for each: set_defaults changes the options that parsers share.
    shared = argparse.ArgumentParser(add_help=False)
    _add_connection(shared)
    shared.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON instead of a table")
    return shared
