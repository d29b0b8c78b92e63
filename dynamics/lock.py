"""The lock of a run's folder: one process at a time, on file systems that hosts share too. No torch here.

The lock is a file that one process alone can create. It names host and process, and a thread of the holder touches it
every `LEASE / 3` seconds: whether a process of this host lives is asked of the system, and whether one of another host
does is told by the age of the file.
"""

import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory

from filelock import LeaseCompromise, SoftFileLease, Timeout

from dynamics.errors import InputError

LEASE = 120.0  # seconds without a sign of life after which a process of another host counts as lost
NAME = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder; that of a process that is gone is taken over, which is said.

    What writers that were killed have left half written is deleted.

    Raises:
        InputError: another process holds it, or may hold it.
    """
    path = folder / NAME
    lease = SoftFileLease(path, lease_duration=LEASE, on_compromise=_end, timeout=0)
    before = lease.owner
    _acquire(lease, path)
    if before is not None:
        print(f"the run {folder.name} was open in process {before.pid} on {_host(before.hostname)}, which has ended")
    try:
        remove_leftovers(folder)
        yield
    finally:
        lease.release()


def _acquire(lease: SoftFileLease, path: Path) -> None:
    try:
        lease.acquire()
    except Timeout as error:
        try:
            judged, holder = path.stat(), lease.owner
            if is_free := holder is not None and _is_gone(path, holder.pid, holder.hostname):
                _set_aside(path, judged)
        except FileNotFoundError:  # it was given back just now
            is_free = True
        if is_free:
            _acquire(lease, path)
            return
        number, host = (holder.pid, _host(holder.hostname)) if holder else ("unknown", "an unknown host")
        raise InputError(
            f"the run {path.parent.name} is open in another process (number {number} on {host}): wait until it has "
            f"ended, or {LEASE:.0f} s if it was lost with its host."
        ) from error


def _host(name: str) -> str:
    """Return the host's own name, without what tells containers apart."""
    return name.partition("?")[0]


def _is_gone(path: Path, number: int, host: str) -> bool:
    """Return whether a holder is gone that is on another host, or on a file system that cannot exchange two files."""
    if _host(host) != socket.gethostname():
        return _age(path) > LEASE
    with TemporaryDirectory() as folder, SoftFileLease(Path(folder) / NAME) as mine:
        is_here = mine.owner is not None and mine.owner.hostname == host
    return not is_alive(number) if is_here else _age(path) > LEASE


def _age(path: Path) -> float:
    """Return the seconds since a file was touched, by the clock of the file system that it is on."""
    with NamedTemporaryFile(dir=path.parent, prefix=".now.", suffix=f".{os.getpid()}.tmp") as now:
        return os.fstat(now.fileno()).st_mtime - path.stat().st_mtime


def _set_aside(path: Path, judged: os.stat_result) -> None:
    """Remove a lock, unless it is no longer the one that was judged."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    path.rename(aside)
    found = aside.stat()
    if (found.st_ino, found.st_mtime_ns) != (judged.st_ino, judged.st_mtime_ns):
        with suppress(FileExistsError):
            os.link(aside, path)
    aside.unlink()


def _end(loss: LeaseCompromise) -> None:
    """End this process, whose lock another one may have taken: after the step if the disk does not answer, or at once.

    It must write no more where another process writes.
    """
    if loss.reason == "refresh-failed":
        os.kill(os.getpid(), signal.SIGTERM)
        return
    sentence = f"dynamics: {loss.lock_file} is no longer the lock of this process, which ends: another may own the run."
    print(sentence, file=sys.stderr, flush=True)
    os._exit(1)


def is_alive(number: int) -> bool:
    """Return whether this host has a process of that number."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def is_abandoned(folder: Path) -> bool:
    """Return whether no process holds a run's lock, as far as this host can tell; nothing is written."""
    path = folder / NAME
    try:
        holder, idle = SoftFileLease(path, lease_duration=LEASE).owner, time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return True
    if holder is None:  # it is being written
        return False
    return not is_alive(holder.pid) if _host(holder.hostname) == socket.gethostname() else idle > LEASE


def remove_leftovers(folder: Path) -> None:
    """Delete the hidden siblings (`.NAME.PID.tmp`) that processes of this host have not lived to rename."""
    for path in list(folder.rglob(".*.tmp")):
        number = path.name.split(".")[-2]
        if number.isdecimal() and int(number) != os.getpid() and is_alive(int(number)):
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
