"""The process that holds the model: llama.cpp's own server on a private Unix socket.

A process of its own, because loading installs signal handlers, a damaged file can abort it, and its memory is all
given back when it ends. Run as a script with one line of JSON on standard input; it answers with one line, then
serves until standard input ends, which it does when the sidecar ends, however that comes about.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from typing import Any


def main() -> None:
    """Load, say so, wait for the end."""
    wanted = json.loads(sys.stdin.readline())
    # What the library prints must not be taken for an answer.
    sys.stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.umask(0o077)  # what is saved is made of prompts
    try:
        with contextlib.nullcontext(_load(wanted)):  # held, so that it serves
            _answer({"ready": True})
            sys.stdin.read()
    except Exception as error:
        with contextlib.suppress(OSError):  # the sidecar may be gone
            _answer({"error": f"{type(error).__name__}: {error}"})
    finally:
        # Whatever happens: llama.cpp's threads would keep the process alive.
        shutil.rmtree(wanted["socket_dir"], ignore_errors=True)
        os._exit(0)


def _load(wanted: dict[str, Any]) -> object:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = wanted["model_path"]
    parameters.n_ctx = wanted["context_tokens"] * wanted["slots"]
    parameters.n_parallel = wanted["slots"]
    parameters.cpuparams.n_threads = wanted["threads"]
    parameters.cpuparams_batch.n_threads = wanted["threads"]
    parameters.hostnames = [os.path.join(wanted["socket_dir"], "llama.sock")]
    parameters.slot_save_path = wanted["slot_dir"] + os.sep
    # A sliding window that is kept whole can be cut back to the shared prefix, and a restored one is complete.
    parameters.swa_full = True
    parameters.cache_ram_mib = 0
    parameters.endpoint_slots = True
    parameters.ui = False
    parameters.warmup = False
    parameters.verbosity = 1
    return xllamacpp.Server(parameters)


def _answer(message: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
