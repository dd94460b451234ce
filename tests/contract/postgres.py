"""A PostgreSQL server of the tests' own, from the distribution's programs."""

from __future__ import annotations

import os
import pwd
import select
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
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
        self.as_user: list[str] = []
        self.down = True
        if os.getuid() == 0:
            users = {entry.pw_name: entry for entry in pwd.getpwall()}
            user = users.get("postgres", users["nobody"])
            shutil.chown(self.folder, user.pw_uid)
            # Not by `subprocess`, which forks for that: grpc's handlers crash in the child while calls are under way.
            self.as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        self._run("initdb", "-D", self.data, "-A", "trust", "-U", "batch", "-E", "UTF8", "--locale=C")

    @property
    def url(self) -> str:
        return f"postgresql://batch@/postgres?host={self.folder}"

    def new_database(self) -> str:
        """The URL of a database of its caller's own."""
        import psycopg  # not where the client alone is installed

        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url.replace("/postgres?", f"/{name}?")

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
        for pid in (server, *_children(server)):
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
        command = [*self.as_user, str(self.programs / program), *map(str, arguments)]
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
        # Its output goes to a file: the server inherits it, and would keep a pipe open.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(command, stdout=output, stderr=output, cwd="/", env=environment, check=False)
            output.seek(0)
            assert not check or done.returncode == 0, f"{command}: {done.returncode}: {output.read().decode()}"


@contextmanager
def running_server() -> Iterator[PostgresServer]:
    """A server that is gone afterwards."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@contextmanager
def stalled(server: PostgresServer) -> Iterator[None]:
    """It takes connections and says nothing."""
    postmaster = int((server.data / "postmaster.pid").read_text().split()[0])
    processes = (postmaster, *_children(postmaster))
    _signal(processes, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(processes, signal.SIGCONT)


def _signal(processes: Iterable[int], number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError):  # some come and go by themselves
            os.kill(process, number)


def _children(parent: int) -> list[int]:
    # The field after the name and the state; the name may hold anything but is in brackets.
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # any process of the machine may end meanwhile
            before, _, after = stat.read_text().rpartition(")")
            if int(after.split()[1]) == parent:
                children.append(int(before.split()[0]))
    return children
