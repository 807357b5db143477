"""A PostgreSQL server of a test's own: a temporary cluster on a loopback port, stopped at the end."""

import contextlib
import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

# Debian puts the server's programs where no PATH leads.
_FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
_PATH = os.pathsep.join([*map(str, _FOLDERS), os.environ.get("PATH", "")])
INITDB = shutil.which("initdb", path=_PATH)


def _other_user():
    """Arguments of subprocess: the server refuses to run as root."""
    if os.getuid() != 0:
        return {}
    user = next((one for one in ("postgres", "nobody") if one in {entry.pw_name for entry in pwd.getpwall()}), None)
    if user is None:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres or nobody")
    found = pwd.getpwnam(user)
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}


class Cluster:
    """A server. It can be stopped and started again.

    Args:
      folder: empty, of the server's own.
      fsync: whether it writes through to the disk. Kills of processes lose nothing without, and tests are quicker.
    """

    def __init__(self, folder, *, fsync=False):
        self._fsync = "on" if fsync else "off"
        pytest.importorskip("psycopg")
        if INITDB is None:
            pytest.skip("no PostgreSQL server (Debian package postgresql) on this machine")
        self._as = _other_user()
        self._data, self._bin = folder / "data", Path(INITDB).resolve().parent
        folder.chmod(0o755)
        if self._as:
            os.chown(folder, self._as["user"], self._as["group"])
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self._number = itertools.count()
        self._run("initdb", "-D", self._data, "-U", "tester", "--auth=trust", "--no-sync", "--encoding=UTF8",
                  "--no-locale")  # fmt: skip
        self.start()

    def _run(self, program, *args):
        done = subprocess.run(
            [self._bin / program, *args], cwd="/", capture_output=True, text=True, timeout=60, **self._as
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def new_database(self):
        """The URL of an empty database."""
        import psycopg

        url, name = f"postgresql://tester@127.0.0.1:{self.port}", f"test_{next(self._number)}"
        with psycopg.connect(f"{url}/postgres", autocommit=True) as connection:
            connection.execute(f"create database {name}")
        return f"{url}/{name}"

    def start(self):
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c max_connections=60"
        options += f" -c fsync={self._fsync}"
        self._run("pg_ctl", "-D", self._data, "-l", self._data / "log", "-o", options, "-w", "start")

    def stop(self, how="immediate"):
        if not (self._data / "postmaster.pid").exists():  # a test has killed it
            return
        self._run("pg_ctl", "-D", self._data, "-m", how, "-w", "stop")


@contextlib.contextmanager
def cluster():
    """A server in a new folder, which goes with it."""
    # Not below pytest's folder, which other users may not enter.
    with tempfile.TemporaryDirectory(prefix="music-map-postgres-", dir="/tmp") as folder:
        found = Cluster(Path(folder))
        try:
            yield found
        finally:
            found.stop()
