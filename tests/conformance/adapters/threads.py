"""Commands on stdin, answers on stdout: a thread for each command."""

from __future__ import annotations

import json
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any


class ThreadedAdapter:
    """Answers commands: `batch.next` by the method `do_batch_next`, which gets what comes with it as keywords."""

    name = ""
    sets: Sequence[str] = ()
    read_error: Callable[[Exception], dict[str, Any] | None]
    """An RPC's error as the answer shows it; None: it is none."""

    def __init__(self) -> None:
        self._writing = threading.Lock()

    def serve(self) -> None:
        """Until the input ends."""
        for line in sys.stdin.buffer:
            # Daemons: what waits for a batch that never ends must not keep the program.
            threading.Thread(target=self._answer, args=(json.loads(line),), daemon=True).start()

    def do_hello(self) -> dict[str, Any]:
        return {"name": self.name, "sets": self.sets}

    def _answer(self, command: dict[str, Any]) -> None:
        number, do = command.pop("id"), command.pop("do")
        try:
            answer = getattr(self, "do_" + do.replace(".", "_"))(**command) or {}
        except Exception as failure:
            error = type(self).read_error(failure)
            if error is None:
                traceback.print_exception(failure)
            answer = {"fault": repr(failure)} if error is None else {"error": error}
        line = json.dumps({"id": number, **answer}) + "\n"
        with self._writing:
            sys.stdout.write(line)
            sys.stdout.flush()
