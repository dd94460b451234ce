"""A PostgreSQL server of the tests' own, from the distribution's programs."""

from __future__ import annotations

import os
import pwd
import select
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

PROGRAMS = sorted(
    Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda initdb: int(initdb.parts[-3]), reverse=True
)


def require_programs() -> Path:
    """The folder of PostgreSQL's programs; without one, CI fails and others skip."""
    if PROGRAMS:
        return PROGRAMS[0].parent
    missing = "PostgreSQL's programs are missing: run `make postgres` as root, or apt-get install postgresql"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


class PostgresServer:
    """Reached by a Unix socket only; its data are synced as in production. Root runs it as another user."""

    def __init__(self) -> None:
        self.programs = require_programs()
        # Not below pytest's folder: that is closed to the server's user.
        self.folder = Path(tempfile.mkdtemp(prefix="batch-llm-postgres-"))
        self.data = self.folder / "data"
        self.user: str | None = None
        self.down = True
        if os.getuid() == 0:
            names = {entry.pw_name for entry in pwd.getpwall()}
            self.user = "postgres" if "postgres" in names else "nobody"
            shutil.chown(self.folder, self.user)
        self._run("initdb", "-D", self.data, "-A", "trust", "-U", "batch", "-E", "UTF8", "--locale=C")

    @property
    def url(self) -> str:
        return f"postgresql://batch@/postgres?host={self.folder}"

    def start(self) -> None:
        options = f"-c listen_addresses= -c unix_socket_directories={self.folder} -c max_wal_size=256MB"
        self._run("pg_ctl", "-D", self.data, "-w", "-l", self.folder / "log", "-o", options, "start")
        self.down = False

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "-D", self.data, "-w", "-m", mode, "stop")
        self.down = True

    def kill(self) -> None:
        """As `kill -9` does; its processes are gone when this returns."""
        server = int((self.data / "postmaster.pid").read_text().split()[0])
        for pid in (server, *children(server)):
            with suppress(ProcessLookupError), os.fdopen(os.pidfd_open(pid)) as process:
                os.kill(pid, signal.SIGKILL)
                assert select.select([process], [], [], 30)[0], f"process {pid} outlives SIGKILL"
        # They may be zombies for good where nobody reaps orphans; the next start would take them for alive.
        (self.data / "postmaster.pid").unlink()
        (self.folder / ".s.PGSQL.5432.lock").unlink()
        self.down = True

    def remove(self) -> None:
        if not self.down:
            self.stop("immediate")
        shutil.rmtree(self.folder)

    def _run(self, program: str, *arguments: object, check: bool = True) -> None:
        command = [str(self.programs / program), *map(str, arguments)]
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
        # Its output goes to a file: the server inherits it, and would keep a pipe open.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                command, stdout=output, stderr=output, user=self.user, cwd="/", env=environment, check=False
            )
            output.seek(0)
            assert not check or done.returncode == 0, f"{command}: {output.read().decode()}"


def children(parent: int) -> list[int]:
    # The field after the name and the state; the name may hold anything but is in brackets.
    stats = [stat.read_text().rpartition(")") for stat in Path("/proc").glob("[0-9]*/stat")]
    return [int(before.split()[0]) for before, _, after in stats if int(after.split()[1]) == parent]
