"""Where a corpus comes from: the site of enwik8, the dump in gensim's wheel, or a file. No torch here."""

import bz2
import gzip
import http.client
import lzma
import os
import threading
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import urlsplit

from filelock import FileLock
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dynamics.errors import Refusal

CHOICES = "choose enwik8, sample, auto, or a path that ends in .xml or .txt (also with .xz .bz2 .gz .zip)"
SAMPLE = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
"""A shortened dump of the English Wikipedia, inside the package gensim."""
REACH = 3.0
"""Seconds that `auto` waits for the host of enwik8."""
ATTEMPTS = 5
"""Times that a broken download is taken up again."""
PAUSE = 1.0
"""Seconds before the first of them; the next waits twice as long, and so on."""
BLOCK = 1 << 20
_OPENERS: dict[str, Callable[[Path], IO[bytes]]] = {".xz": lzma.open, ".bz2": bz2.open, ".gz": gzip.open}


class Download(NamedTuple):
    """A file on the web and what its content (the raw text, not the archive) must be."""

    url: str
    size: int
    sha1: str


ENWIK8 = Download(
    "http://mattmahoney.net/dc/enwik8.zip", 100_000_000, "57b8363b814821dc9d47aa4d41f58733519076b2"
)


@dataclass(frozen=True)
class Source:
    """A file that holds a corpus.

    `name` is what the corpus is called, `notes` what was decided on the way here, and `official` what the
    content must be, where that is known.
    """

    name: str
    path: Path
    notes: tuple[str, ...] = ()
    official: Download | None = None

    def blocks(self) -> Iterator[bytes]:
        """The content, decompressed, in blocks; a compressed dump that breaks off gives what is there.

        Raises:
            Refusal: the file cannot be read or decompressed, or a compressed text (no dump) breaks off.
        """
        try:
            with self._open() as file:
                try:
                    while block := file.read1(BLOCK):
                        yield block
                except EOFError:
                    if self.path.with_suffix("").suffix == ".txt":
                        raise Refusal(
                            f"{self.path} breaks off in its compressed data: fetch it again."
                        ) from None
        except (lzma.LZMAError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise Refusal(f"{self.path} cannot be decompressed ({error}): fetch it again.") from error
        except OSError as error:
            raise Refusal(f"{self.path} cannot be read ({error.strerror or error}).") from error

    def is_dump(self) -> bool:
        """Whether the content is a MediaWiki dump (else it is plain text), by suffix or by how it begins.

        Raises:
            Refusal: neither tells.
        """
        suffixes = [suffix.lower() for suffix in Path(self._inner_name()).suffixes]
        if suffixes and suffixes[-1] in (".xml", ".txt"):
            return suffixes[-1] == ".xml"
        if b"<mediawiki" in next(self.blocks(), b"")[:1000]:
            return True
        raise Refusal(f"{self.path} is neither .xml nor .txt by its name, nor a Wikipedia dump: {CHOICES}.")

    def _inner_name(self) -> str:
        suffix = self.path.suffix.lower()
        if suffix == ".zip":
            try:
                with zipfile.ZipFile(self.path) as archive:
                    return _member(archive, self.path)
            except (zipfile.BadZipFile, OSError) as error:
                raise Refusal(
                    f"{self.path} cannot be opened as a zip archive ({error}): fetch it again."
                ) from error
        return self.path.stem if suffix in _OPENERS else self.path.name

    @contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        suffix = self.path.suffix.lower()
        if suffix == ".zip":
            with zipfile.ZipFile(self.path) as archive, archive.open(_member(archive, self.path)) as file:
                yield file
        else:
            with _OPENERS.get(suffix, lambda path: path.open("rb"))(self.path) as file:
                yield file


def _member(archive: zipfile.ZipFile, path: Path) -> str:
    names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX")]
    if len(names) != 1:
        raise Refusal(f"{path} holds {len(names)} files, a corpus is one: unpack it and give the file.")
    return names[0]


def cache_folder() -> Path:
    """`$DYNAMICS_CACHE`, else `~/.cache/dynamics`."""
    return Path(os.environ.get("DYNAMICS_CACHE") or "~/.cache/dynamics").expanduser()


@contextmanager
def bar(what: str, total: int | None, show: bool = True) -> Iterator[Callable[[int], None]]:
    """A progress bar over bytes with an ETA, on stderr; gives a function that advances it."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(
        *columns, TextColumn("ETA"), TimeRemainingColumn(), console=Console(stderr=True), disable=not show
    ) as progress:
        task = progress.add_task(what, total=total)
        yield lambda size: progress.advance(task, size)
        progress.update(task, completed=total)


def locate(corpus: str, progress: bool = True) -> Source:
    """Find the file of a corpus, fetching enwik8 if that is what is asked for.

    Args:
        corpus: `enwik8`, `sample`, a path, or `auto` (enwik8 if cached or its host answers, else the sample).
        progress: whether to show the download.

    Raises:
        Refusal: there is no such file, or it cannot be had.
    """
    if corpus == "enwik8":
        return _enwik8(progress)
    if corpus == "sample":
        return _sample()
    if corpus == "auto":
        return _auto(progress)
    path = Path(corpus).expanduser()
    if path.is_dir():
        raise Refusal(f"{corpus} is a directory: give one file inside it.")
    if not path.exists():
        raise Refusal(f"there is no corpus and no file called {corpus}: {CHOICES}.")
    return Source(path.name, path)


def _auto(progress: bool) -> Source:
    if _archive().exists():
        why = "enwik8, because it is in the cache"
    elif not _answers(ENWIK8.url):
        why = f"no enwik8, because {urlsplit(ENWIK8.url).hostname} did not answer within {REACH:g} s"
    else:
        why = "enwik8, because its host answers"
    if not why.startswith("no "):
        try:
            source = _enwik8(progress)
            return Source(source.name, source.path, (f"auto took {why}",), source.official)
        except Refusal as refusal:
            why = f"no enwik8, because its download failed ({refusal})"
    try:
        return Source("sample", _sample().path, (f"auto took the sample and {why}",))
    except Refusal as refusal:
        raise Refusal(f"auto found {why}, and no sample: {refusal}") from refusal


def _sample() -> Source:
    spec = find_spec("gensim")
    path = Path(spec.origin).parent / SAMPLE if spec and spec.origin else None
    if path is None or not path.exists():
        raise Refusal(
            "the sample lies in the package gensim, which is missing: pip install 'dynamics[sample]'."
        )
    return Source("sample", path)


def _archive() -> Path:
    return cache_folder() / "enwik8.zip"


def _enwik8(progress: bool) -> Source:
    archive = _archive()
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(archive.with_suffix(".lock")):
            if not archive.exists():
                download(ENWIK8.url, archive, progress)
    return Source("enwik8", archive, official=ENWIK8)


@cache  # or every load of an offline run would wait
def _answers(url: str) -> bool:
    """Whether the host answers within `REACH` seconds; in a thread, since looking up a name may hang."""
    heard = threading.Event()

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=REACH):
                heard.set()
        except (OSError, http.client.HTTPException):
            pass

    threading.Thread(target=ask, daemon=True).start()
    return heard.wait(REACH)


class _Broken(Exception):
    """The connection, not the disk, failed."""


def download(url: str, target: Path, progress: bool = True) -> None:
    """Fetch `url` into `target`; what a broken connection left in `target.part` is taken up where it ended.

    Raises:
        Refusal: the host cannot be reached, refuses, or breaks off `ATTEMPTS` times.
        OSError: `target` cannot be written.
    """
    part = target.with_name(target.name + ".part")
    for attempt in range(ATTEMPTS):
        try:
            _fetch(url, part, progress)
            part.replace(target)
            return
        except _Broken as broken:
            reason = broken
        if attempt < ATTEMPTS - 1:
            time.sleep(PAUSE * 2**attempt)
    kept = (
        f"{part.stat().st_size:,} bytes are kept and the next try goes on from there"
        if part.exists()
        else (f"fetch it elsewhere and put it at {target}, or use the corpus `sample`")
    )
    raise Refusal(f"{url} cannot be downloaded ({reason}): {kept}.")


def _fetch(url: str, part: Path, progress: bool) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        reply = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing beyond what we have: it is whole, or its checksum will tell
            return
        raise _Broken(f"the host answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(getattr(error, "reason", error)) from error
    with reply:
        resumed = reply.status == 206
        have = have if resumed else 0
        length = reply.headers.get("Content-Length")
        total = have + int(length) if length else None
        with part.open("ab" if resumed else "wb") as file, bar(f"fetching {url}", total, progress) as advance:
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
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(error) from error
