"""Download of a file, resumed where a broken connection left it. No torch here."""

import http.client
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from functools import cache
from pathlib import Path

from dynamics.data.cache import bar
from dynamics.errors import InputError

REACH = 3.0  # seconds that a host has to answer
ATTEMPTS = 5  # at a download
PAUSE = 1.0  # seconds before the second attempt; twice as many before the third, and so on
_CONNECTION_ERRORS = (OSError, http.client.HTTPException)


@cache  # or every load of an offline run would wait
def answers(url: str) -> bool:
    """Return whether the host answers within `REACH` seconds; in a thread, since looking up a name may hang."""
    request, replies = urllib.request.Request(url, method="HEAD"), []

    def ask() -> None:
        with suppress(*_CONNECTION_ERRORS), urllib.request.urlopen(request, timeout=REACH):
            replies.append(True)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACH)
    return bool(replies)


class _Broken(Exception):
    """A failure of the connection, not of the disk."""


def download(url: str, target: Path, progress: bool = True) -> None:
    """Download `url` to `target`, by way of `target.part`, which a broken download leaves for the next attempt.

    Raises:
        InputError: the host cannot be reached, refuses, or the connection breaks `ATTEMPTS` times.
        OSError: `target` cannot be written.
    """
    part = target.with_name(target.name + ".part")
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        before = _size(part)
        try:
            _fetch(url, part, progress)
        except _Broken as broken:
            reason = broken
        else:
            part.replace(target)
            return
        if attempt == 0 and _size(part) == before:
            break  # the host does not answer at all
    resumed = f" {_size(part):,} bytes are kept and the next attempt resumes there;" if _size(part) else ""
    raise InputError(
        f"{url} cannot be downloaded ({reason}):{resumed} try later, put the file at {target} by hand, or use the "
        "corpus `sample`."
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _fetch(url: str, part: Path, progress: bool) -> None:
    have = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        reply = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing follows what we have: it is complete, or its checksum will differ
            return
        raise _Broken(f"the host answers {error.code} {error.reason}") from error
    except _CONNECTION_ERRORS as error:
        raise _Broken(getattr(error, "reason", error)) from error
    resumed = reply.status == 206
    have = have if resumed else 0
    length = reply.headers.get("Content-Length")
    total = have + int(length) if length else None
    with reply, part.open("ab" if resumed else "wb") as file, bar(f"fetching {url}", total, progress) as advance:
        advance(have)
        while block := _read(reply):
            file.write(block)
            have += len(block)
            advance(len(block))
    if total is not None and have < total:
        raise _Broken(f"the connection broke after {have:,} of {total:,} bytes")


def _read(reply: http.client.HTTPResponse) -> bytes:
    try:
        return reply.read(1 << 16)
    except _CONNECTION_ERRORS as error:
        raise _Broken(error) from error
