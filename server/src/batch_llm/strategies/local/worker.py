"""The process that holds the model: llama.cpp's own server on a private Unix socket.

A process of its own, because loading installs signal handlers, a damaged file can abort it, and its memory is all
given back when it ends. Run as a script with one line of JSON on standard input; it answers with one line, then
serves until standard input ends, which it does when the sidecar ends, however that comes about.
"""

from __future__ import annotations

import json
import os
import shutil
import sys


def main() -> None:
    """Load, say so, wait for the end."""
    wanted = json.loads(sys.stdin.readline())
    # What the library prints must not be taken for an answer.
    sys.stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
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
        server = xllamacpp.Server(parameters)
    except Exception as error:
        _answer({"error": f"{type(error).__name__}: {error}"})
        _leave(wanted["socket_dir"])
    _answer({"ready": True, "version": xllamacpp.__version__})
    sys.stdin.read()
    del server
    _leave(wanted["socket_dir"])


def _answer(message: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _leave(socket_dir: str) -> None:
    shutil.rmtree(socket_dir, ignore_errors=True)
    os._exit(0)  # llama.cpp's threads have nothing to finish


if __name__ == "__main__":
    main()
