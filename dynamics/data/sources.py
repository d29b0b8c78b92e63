"""The file of a corpus: from the site of enwik8, the dump in gensim's wheel, or a path. No torch here."""

import bz2
import gzip
import hashlib
import json
import lzma
import os.path
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from typing_extensions import TypedDict

from dynamics.data import download
from dynamics.data.cache import bar, once, read_cached
from dynamics.errors import InputError
from dynamics.files import cache_folder, write_text
from dynamics.readers import refuse_special

CHOICES = "choose enwik8, sample, auto, or a path that ends in .xml or .txt (also with .xz .bz2 .gz .zip)"
# A shortened dump of the English Wikipedia, inside the package gensim.
SAMPLE = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
BLOCK = 1 << 20  # bytes that are read at a time
PACKED = 1 << 16  # the same of compressed data


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


class _Memory(TypedDict):
    """What is remembered of a file: its stamp, and the fields of `Identity`."""

    stamp: list[str | int]
    identity: Identity


def _zip_member(path: Path) -> str:
    """Return the name of the only file in a zip archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/") and "__MACOSX" not in name]
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{path} is not a readable zip archive ({error}): fetch it again.") from error
    if len(names) != 1:
        raise InputError(f"{path} holds {len(names)} files: unpack it and name the one of the corpus.")
    return names[0]


def _open_zip(path: Path) -> Any:
    member = _zip_member(path)
    return zipfile.ZipFile(path).open(member)


def _of_file(opened: Callable[[], Any]) -> Iterator[bytes]:
    with opened() as file:
        while block := file.read1(BLOCK):
            yield block


def _of_streams(path: Path, decompressor: Callable[[], Any]) -> Iterator[bytes]:
    """Yield the content of streams, one after the other; `bz2.open` and `lzma.open` stop at one that is damaged."""
    stream, rest = decompressor(), b""
    with path.open("rb") as file:
        while block := rest or file.read(PACKED):
            yield stream.decompress(block)
            rest = b""
            if stream.eof:
                rest = (stream.unused_data or file.read(PACKED)).lstrip(b"\0")  # xz pads streams with zeros
                stream = decompressor() if rest else stream
    if not stream.eof:
        raise EOFError


_READERS: dict[str, Callable[[Path], Iterator[bytes]]] = {
    "": lambda path: _of_file(partial(path.open, "rb")),
    ".xz": lambda path: _of_streams(path, lzma.LZMADecompressor),
    ".bz2": lambda path: _of_streams(path, bz2.BZ2Decompressor),
    ".gz": lambda path: _of_file(partial(gzip.open, path)),
    ".zip": lambda path: _of_file(partial(_open_zip, path)),
}


@dataclass(frozen=True)
class CorpusFile:
    """The file of the corpus `name`; `notes` are how `auto` decided, `official` what the content must be."""

    name: str
    path: Path
    notes: tuple[str, ...] = ()
    official: Official | None = None

    def blocks(self) -> Iterator[bytes]:
        """Yield the content, decompressed, in blocks."""
        try:
            yield from filter(None, _READERS.get(self.path.suffix.lower(), _READERS[""])(self.path))
        except EOFError as error:
            raise InputError(f"{self.path} breaks off in its compressed data: fetch it again.") from error
        except (lzma.LZMAError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise InputError(f"{self.path} cannot be decompressed ({error}): fetch it again.") from error
        except OSError as error:
            raise InputError(f"{self.path} cannot be read ({error.strerror or error}).") from error

    def identify(self, progress: bool = True) -> Identity:
        """Return the identity of the content, which is read once and remembered until the file changes.

        Our own copy of an official file is removed where it cannot be read or is not what it must be.
        """
        stat, name = self.path.stat(), str(self.path.resolve())
        stamp = [name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        memory = cache_folder() / "inputs" / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.json"
        entry = read_cached(memory, _Memory)
        if entry is None or entry["stamp"] != stamp:
            try:
                entry = {"stamp": stamp, "identity": self._read_through(progress)}
            except InputError:
                if self.official:
                    self.path.unlink()
                raise
            write_text(memory, json.dumps(entry, indent=1))
        return Identity(*entry["identity"])

    def _read_through(self, progress: bool) -> Identity:
        dump, size, sha256, sha1 = self._is_dump(), 0, hashlib.sha256(), hashlib.sha1()
        with bar(f"reading {self.name}", self.official and self.official.size, progress) as advance:
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
        """Return whether the content is a MediaWiki dump, not a text: by the name inside the compression, or a look."""
        suffix = self.path.suffix.lower()
        name = _zip_member(self.path) if suffix == ".zip" else self.path.stem if suffix in _READERS else self.path.name
        if (inner := Path(name).suffix.lower()) in (".xml", ".txt"):
            return inner == ".xml"
        head = next(self.blocks(), b"")[:1000]
        if b"<mediawiki" in head and b"\0" not in head:  # in an archive (.tar) a name and zeros precede it
            return True
        raise InputError(f"{self.path} is neither .xml nor .txt by its name, nor a Wikipedia dump: {CHOICES}.")


def locate(corpus: str, progress: bool = True) -> CorpusFile:
    """Find the file of a corpus: a path, `enwik8` (downloaded where it is not cached), `sample`, or `auto`.

    `auto` is enwik8 if it is cached or its host answers, else the sample.
    """
    if locate_named := {"enwik8": _enwik8, "sample": _sample, "auto": _auto}.get(corpus):
        return locate_named(progress)
    path = Path(corpus).expanduser()
    if os.path.isdir(path):  # noqa: PTH112 (false where pathlib raises, on a closed folder)
        raise InputError(f"{corpus} is a directory: name one file inside it.")
    if not os.path.exists(path):  # noqa: PTH110
        raise InputError(f"there is no corpus and no file called {corpus}: {CHOICES}.")
    refuse_special(path)
    return CorpusFile(path.name, path)


def _auto(progress: bool) -> CorpusFile:
    host, cached = urlsplit(ENWIK8.url).hostname, (cache_folder() / "enwik8.zip").exists()
    if cached or download.answers(ENWIK8.url):
        reason = "it is in the cache" if cached else f"{host} answers"
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


def _enwik8(progress: bool) -> CorpusFile:
    source = CorpusFile("enwik8", cache_folder() / "enwik8.zip", official=ENWIK8)
    fetch = partial(download.download, ENWIK8.url, source.path, progress)
    once(lambda: source.path.exists() or None, fetch, source.path.parent)
    source.identify(progress)  # here, so that `auto` sees a wrong checksum
    return source
