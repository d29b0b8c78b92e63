"""The file of a corpus: from the site of enwik8, the dump in gensim's wheel, or a path. No torch here."""

import bz2
import gzip
import hashlib
import lzma
import os.path
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from filelock import FileLock

from dynamics.data import download
from dynamics.data.cache import bar, cache_folder, read_json, write_json
from dynamics.errors import InputError

CHOICES = "choose enwik8, sample, auto, or a path that ends in .xml or .txt (also with .xz .bz2 .gz .zip)"
SAMPLE = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
"""A shortened dump of the English Wikipedia, inside the package gensim."""
BLOCK = 1 << 20
_OPENERS: dict[str, Callable[[Path], Any]] = {".xz": lzma.open, ".bz2": bz2.open, ".gz": gzip.open}


class Official(NamedTuple):
    """A file on the web, and size and checksum of its content (the raw text, not the archive)."""

    url: str
    size: int
    sha1: str


ENWIK8 = Official("http://mattmahoney.net/dc/enwik8.zip", 100_000_000, "57b8363b814821dc9d47aa4d41f58733519076b2")


class Identity(NamedTuple):
    """`sha256` and `size` in bytes of a decompressed content, and whether it is a MediaWiki `dump`."""

    sha256: str
    size: int
    dump: bool


@dataclass(frozen=True)
class CorpusFile:
    """A file that holds a corpus.

    `name` is that of the corpus, `notes` are how `auto` decided, and `official` is what the content must be, where
    that is known.
    """

    name: str
    path: Path
    notes: tuple[str, ...] = ()
    official: Official | None = None

    def blocks(self) -> Iterator[bytes]:
        """Yield the content, decompressed, in blocks; a compressed dump that is cut off yields what is there.

        Raises:
            InputError: the file cannot be read or decompressed, or a compressed text (no dump) is cut off.
        """
        try:
            with self._open() as file:
                try:
                    while block := file.read1(BLOCK):
                        yield block
                except EOFError:
                    if self.path.with_suffix("").suffix == ".txt":
                        raise InputError(f"{self.path} breaks off in its compressed data: fetch it again.") from None
        except (lzma.LZMAError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise InputError(f"{self.path} cannot be decompressed ({error}): fetch it again.") from error
        except OSError as error:
            raise InputError(f"{self.path} cannot be read ({error.strerror or error}).") from error

    def identify(self, progress: bool = True) -> Identity:
        """Return the identity of the content, which is read once and remembered until the file changes.

        Raises:
            InputError: the content cannot be read, or is not what it must be; then our own copy of it is removed.
        """
        try:
            stat = self.path.stat()
        except OSError as error:
            raise InputError(f"{self.path} cannot be read ({error.strerror}).") from error
        name = str(self.path.resolve())
        stamp = [name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        memory = cache_folder() / "inputs" / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.json"
        entry = read_json(memory, "stamp", "identity")
        if entry is None or entry["stamp"] != stamp:
            try:
                identity = self._read_through(progress)
            except InputError:
                if self.official:
                    self.path.unlink()
                raise
            entry = {"stamp": stamp, "identity": identity}
            write_json(memory, entry)
        return Identity(*entry["identity"])

    def _read_through(self, progress: bool) -> Identity:
        dump, size, sha256, sha1 = self._is_dump(), 0, hashlib.sha256(), hashlib.sha1()
        with bar(f"reading {self.name}", self.official.size if self.official else None, progress) as advance:
            for block in self.blocks():
                size += len(block)
                sha256.update(block)
                sha1.update(block)
                advance(len(block))
        if self.official and (size, sha1.hexdigest()) != self.official[1:]:
            raise InputError(
                f"{self.path} had {size:,} bytes with sha1 {sha1.hexdigest()} where {self.name} has "
                f"{self.official.size:,} with {self.official.sha1}: it was removed, run again to fetch it."
            )
        return Identity(sha256.hexdigest(), size, dump)

    def _is_dump(self) -> bool:
        suffix = Path(self._inner_name()).suffix.lower()
        if suffix in (".xml", ".txt"):
            return suffix == ".xml"
        if b"<mediawiki" in next(self.blocks(), b"")[:1000]:
            return True
        raise InputError(f"{self.path} is neither .xml nor .txt by its name, nor a Wikipedia dump: {CHOICES}.")

    def _inner_name(self) -> str:
        suffix = self.path.suffix.lower()
        if suffix == ".zip":
            with self._zip() as (_, name):
                return name
        return self.path.stem if suffix in _OPENERS else self.path.name

    @contextmanager
    def _open(self) -> Iterator[Any]:
        suffix = self.path.suffix.lower()
        if suffix == ".zip":
            with self._zip() as (archive, name), archive.open(name) as file:
                yield file
        else:
            with _OPENERS.get(suffix, lambda path: path.open("rb"))(self.path) as file:
                yield file

    @contextmanager
    def _zip(self) -> Iterator[tuple[zipfile.ZipFile, str]]:
        try:
            archive = zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError) as error:
            raise InputError(f"{self.path} is not a readable zip archive ({error}): fetch it again.") from error
        with archive:
            names = [name for name in archive.namelist() if not name.endswith("/") and "__MACOSX" not in name]
            if len(names) != 1:
                raise InputError(f"{self.path} holds {len(names)} files: unpack it and name the one of the corpus.")
            yield archive, names[0]


def locate(corpus: str, progress: bool = True) -> CorpusFile:
    """Find the file of a corpus, and download enwik8 where it is asked for.

    Args:
        corpus: `enwik8`, `sample`, a path, or `auto` (enwik8 if cached or its host answers, else the sample).
        progress: whether to show the download.

    Raises:
        InputError: the file does not exist, or cannot be fetched.
    """
    named = {"enwik8": _enwik8, "sample": _sample, "auto": _auto}
    if corpus in named:
        return named[corpus](progress)
    path = Path(corpus).expanduser()
    if os.path.isdir(path):  # noqa: PTH112 (false where pathlib raises, on a closed folder)
        raise InputError(f"{corpus} is a directory: name one file inside it.")
    if not os.path.exists(path):  # noqa: PTH110
        raise InputError(f"there is no corpus and no file called {corpus}: {CHOICES}.")
    return CorpusFile(path.name, path)


def _auto(progress: bool) -> CorpusFile:
    host = urlsplit(ENWIK8.url).hostname
    if _archive().exists() or download.answers(ENWIK8.url):
        reason = "it is in the cache" if _archive().exists() else f"{host} answers"
        try:
            return replace(_enwik8(progress), notes=(f"auto took enwik8, because {reason}",))
        except InputError as refusal:
            reason = str(refusal)
    else:
        reason = f"{host} was not reached within {download.REACH:g} s and enwik8 is not in the cache"
    try:
        return replace(_sample(progress), notes=(f"auto took the sample, because {reason}",))
    except InputError as refusal:
        raise InputError(f"auto finds no corpus, because {reason}, and {refusal}") from refusal


def _sample(progress: bool) -> CorpusFile:
    spec = find_spec("gensim")
    path = Path(spec.origin).parent / SAMPLE if spec and spec.origin else None
    if path is None or not path.exists():
        raise InputError("the sample is part of the package gensim, which is missing: pip install 'dynamics[sample]'.")
    return CorpusFile("sample", path)


def _archive() -> Path:
    return cache_folder() / "enwik8.zip"


def _enwik8(progress: bool) -> CorpusFile:
    archive = _archive()
    source = CorpusFile("enwik8", archive, official=ENWIK8)
    if not archive.exists():
        with FileLock(archive.with_suffix(".lock")):
            if not archive.exists():
                download.download(ENWIK8.url, archive, progress)
    source.identify(progress)  # here, so that `auto` sees a wrong checksum
    return source
