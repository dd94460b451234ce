"""llama.cpp's own OpenAI-compatible server, as a process of its own: `python llama_server.py MODEL`.

Prints its URL on standard output and serves until standard input ends.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints is no answer
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = sys.argv[1]
    parameters.n_ctx = 4096
    parameters.n_parallel = 2
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 2
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.chat_template = "chatml"
    parameters.swa_full = True
    parameters.ui = False
    parameters.warmup = False
    parameters.verbosity = 1
    server = xllamacpp.Server(parameters)
    print(server.listening_address, file=answers, flush=True)
    sys.stdin.read()
    os._exit(0)  # llama.cpp's threads have nothing to finish


if __name__ == "__main__":
    main()
