"""PostgreSQL in a temporary folder, for one password and this machine alone."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.services.processes import ADDRESS, ServerProcess, free_port

_ROLE = "sourcetrace"


def find_postgres() -> Path | None:
    """Return the folder of PostgreSQL's programs, the newest; None where it is not installed."""
    # Debian keeps them out of the path.
    debian = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda one: int(one.parts[-3])
    )
    if debian:
        return debian[-1].parent
    found = shutil.which("initdb")
    return None if found is None else Path(found).resolve().parent


class Postgres:
    """A server with a data folder of its own, gone when the context ends."""

    def __init__(self) -> None:
        programs = find_postgres()
        if programs is None:
            raise RuntimeError("PostgreSQL is not installed. On Debian: apt-get install postgresql")
        self._programs, self.port = programs, free_port()
        self.password = secrets.token_urlsafe()
        self._user = _unprivileged_user()
        # Not under a test's folder, which root's are the only eyes for.
        self._folder = Path(tempfile.mkdtemp(prefix="sourcetrace-postgres-"))
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        options = {
            "listen_addresses": ADDRESS,
            "port": self.port,
            "unix_socket_directories": "",
            # A crash of the machine is no subject of tests.
            "fsync": "off",
        }
        self._server = ServerProcess(
            [
                str(programs / "postgres"),
                "-D",
                str(self._folder / "data"),
                *[part for name, value in options.items() for part in ("-c", f"{name}={value}")],
            ],
            log=self._folder / "log.txt",
            is_ready=self._is_ready,
            user=self._user,
        )

    def __enter__(self) -> Self:
        try:
            self._make_data_folder()
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.end(signal.SIGQUIT)
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Start it on the data that is there."""
        self._server.start()

    def crash(self) -> None:
        """End it at once, as a power cut would: connections break, the next start recovers."""
        self._server.end(signal.SIGQUIT)

    def create_database(self, name: str) -> str:
        """Create a database and return its address, which holds the password."""
        self._run("createdb", f"--host={ADDRESS}", f"--port={self.port}", f"--username={_ROLE}",
                  name)  # fmt: skip
        return f"postgresql+psycopg2://{_ROLE}:{self.password}@{ADDRESS}:{self.port}/{name}"

    def _make_data_folder(self) -> None:
        password = self._folder / "password"
        password.touch(mode=0o600)
        password.write_text(self.password)
        if self._user is not None:
            shutil.chown(password, self._user)
        self._run("initdb", "--auth=scram-sha-256", "--encoding=UTF8", "--no-sync",
                  f"--username={_ROLE}", f"--pwfile={password}", "-D",
                  str(self._folder / "data"))  # fmt: skip
        password.unlink()

    def _is_ready(self) -> bool:
        asked = subprocess.run(
            [self._programs / "pg_isready", f"--host={ADDRESS}", f"--port={self.port}"],
            capture_output=True,
            check=False,
        )
        return asked.returncode == 0

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            env=os.environ | {"PGPASSWORD": self.password, "LC_ALL": "C"},
            user=self._user,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed:\n{done.stderr}")


def _unprivileged_user() -> str | None:
    """Return who runs the server: PostgreSQL refuses root; None is whoever runs this."""
    if os.getuid() != 0:
        return None
    names = {one.pw_name for one in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
