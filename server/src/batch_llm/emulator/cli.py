"""The command `batch-llm-sidecar emulate-gemini`."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from typing import Any, get_args

from pydantic import ValidationError

from .settings import EmulatorSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags: address and port, and one for each setting."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="port; 0: any that is free (default: %(default)s)")
    for name, field in EmulatorSettings.model_fields.items():
        flag = f"--{name.replace('_', '-')}"
        description = (field.description or "").replace("%", "%%")
        if field.annotation is bool:
            parser.add_argument(flag, dest=name, action="store_true", default=None, help=description)
            continue
        parser.add_argument(
            flag,
            dest=name,
            metavar=_metavar(field.annotation),
            help=f"{description} (default: {_shown(field.default)})",
        )


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT.

    Returns:
        0; 1 when the address cannot be listened on; 2 when a flag's value is no good or the extra is missing.
    """
    given = {name: getattr(options, name) for name in EmulatorSettings.model_fields}
    try:
        settings = EmulatorSettings.model_validate(
            {name: _value(value) for name, value in given.items() if value is not None}
        )
    except ValidationError as error:
        for problem in error.errors():
            print(f"--{str(problem['loc'][0]).replace('_', '-')}: {problem['msg']}", file=sys.stderr)
        return 2
    try:
        from .http import Server
    except ModuleNotFoundError as error:
        print(f"the emulator needs {error.name}: pip install 'batch-llm[emulator]'", file=sys.stderr)
        return 2
    return asyncio.run(_serve(Server, settings, options.host, options.port))


async def _serve(server_type: Any, settings: EmulatorSettings, host: str, port: int) -> int:
    from .control import Control

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        server = await server_type.start(Control(settings).handle, host, port)
    except (OSError, OverflowError) as error:
        print(f"cannot listen on {host} port {port}: {error}; choose another with --port, 0 for any", file=sys.stderr)
        return 1
    url = f"http://{f'[{server.host}]' if ':' in server.host else server.host}:{server.port}"
    print(f"emulating Gemini on {url}")
    print(f'  genai.Client(api_key="any", http_options=HttpOptions(base_url="{url}", api_version="v1beta"))')
    print(f"  control and log: {url}/emulator", flush=True)
    await stop.wait()
    await server.close()
    return 0


def _value(text: str | bool) -> Any:
    if isinstance(text, bool):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _metavar(annotation: Any) -> str:
    names = [str(option) for option in get_args(annotation) if isinstance(option, str)]
    return f"{{{','.join(names)}}}" if names else "VALUE"


def _shown(default: Any) -> str:
    return "none" if default is None else default if isinstance(default, str) else json.dumps(default)
