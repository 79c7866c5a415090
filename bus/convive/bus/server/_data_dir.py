"""The data directory of an embedded server: who may run the server, and where the others find it.

lock          held by the running server itself (flock), so two servers never share a store
server.json   the port file: how to reach the server that runs, or that ran last
nats.conf     what the server was started with
server.log    the server's log, about three files of a megabyte at most
jetstream/    the records
"""

import errno
import fcntl
import json
import os
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from convive.bus.log._errors import BusUnavailable

LOCK = "lock"
PORT_FILE = "server.json"
CONFIG = "nats.conf"
LOG = "server.log"

_REASONS = {
    errno.EACCES: "it is read-only for this user",
    errno.EPERM: "it is read-only for this user",
    errno.EROFS: "it is on a read-only file system",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.ENOTDIR: "it, or a part of its path, is a file and not a directory",
    errno.EEXIST: "it, or a part of its path, is a file and not a directory",
}


@dataclass(frozen=True, slots=True)
class Place:
    """What the port file says: the port on 127.0.0.1, and whether that server syncs only now and then."""

    port: int
    fast: bool


def prepare(data: str | Path) -> Path:
    """Create the directory if it is missing (mode 0700, hidden from git) and return its real path.

    Raises BusUnavailable when it cannot be created or is not a directory, TypeError for what is no path.
    """
    if not isinstance(data, str | Path):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"data= takes the path of a directory, not {type(data).__name__}.")
    data = Path(data)
    try:
        str(data.expanduser().resolve()).encode()  # as the server is told of it
        data.expanduser().mkdir(mode=0o700, parents=True, exist_ok=True)
        real = data.expanduser().resolve()
        # Only in a directory that nobody uses yet: a `*` in somebody's project would hide it all from git.
        if not any(real.iterdir()):
            (real / ".gitignore").write_text("*\n")
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: `~somebody` who does not exist
        raise unusable(data, error) from error
    return real


def server_name(data: Path) -> str:
    """The name by which the server of this directory introduces itself: no other is taken for it."""
    return f"convive-{sha256(os.fsencode(data)).hexdigest()[:16]}"


def try_lock(data: Path) -> int | None:
    """Take the lock and return its file descriptor, or None if a server, or somebody starting one, holds it.

    The lock belongs to the open file, not to a process: it is free again when every process that has
    inherited the descriptor has closed it or is dead. Raises BusUnavailable when there can be no lock file.
    """
    try:
        descriptor = os.open(data / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise unusable(data, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:  # a file system without locks
        os.close(descriptor)
        raise unusable(data, error) from error
    return descriptor


def read_place(data: Path) -> Place | None:
    """What the port file says, or None if there is none that makes sense."""
    try:
        found = json.loads((data / PORT_FILE).read_bytes())
        place = Place(port=int(found["port"]), fast=bool(found["fast"]))
        return place if 0 < place.port < 65_536 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_place(data: Path, place: Place) -> None:
    """Replace the port file. Only for the holder of the lock. Raises BusUnavailable."""
    write(data, PORT_FILE, json.dumps(asdict(place)))


def write(data: Path, name: str, text: str) -> None:
    """Replace a file of the directory at once, readable by its owner only. Only for the holder of the lock.

    Raises BusUnavailable; the old file is then still there.
    """
    new = data / f"{name}.new"
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        new.replace(data / name)
    except OSError as error:
        raise unusable(data, error) from error


def unusable(data: Path, error: OSError | RuntimeError | ValueError) -> BusUnavailable:
    """The one sentence for a directory that cannot hold a server."""
    number = error.errno if isinstance(error, OSError) else None
    why = (_REASONS.get(number) if number is not None else None) or getattr(error, "strerror", None) or str(error)
    if number in (errno.ENOSPC, errno.EDQUOT):
        cure = "What was acknowledged is safe; make room and start again."
    else:
        cure = "Nothing was changed; give another directory with --data, or a server with CONVIVE_NATS_URL."
    return BusUnavailable(f"the data directory {data} cannot be used: {why}. {cure}")
