"""The runs that a page follows: files are looked at again and again, read where they have changed. No torch here."""

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from threading import RLock
from typing import NamedTuple

from dynamics import runs
from dynamics.errors import InputError, in_words
from dynamics.run_info import SCHEMA, RunInfo
from dynamics.watch import parts
from dynamics.watch.parts import Groups

NAME = re.compile(r"(geometry|curves)-(\d{1,15})(?:-\w+)?\.parquet")
LINK = "is a link: the live page follows none inside a run's folder"
LOOK_SECONDS = 0.5  # runs that were looked at so short a time ago are not looked at again

Stamp = tuple[int, ...]


class PartFile(NamedTuple):
    """A part of a record: its kind, its first step, and when it was written."""

    kind: str
    step: int
    written: float  # seconds since 1970
    stamp: Stamp
    is_link: bool


class ReadPart(NamedTuple):
    """What a part holds, or why it cannot be read."""

    groups: Groups
    problem: str = ""


class WatchedRun:
    """One run as it is now. Its `version` grows with every change; at version `cut` it lost a part, or was new."""

    def __init__(self, key: str, folder: Path, versions: Iterator[int]) -> None:
        self.key, self.folder, self._versions = key, folder, versions
        self.files: dict[str, PartFile] = {}
        self.changed: dict[str, int] = {}  # version in which a part was last seen to change
        self.version = self.cut = next(versions)
        self.info, self.info_problem = RunInfo.from_dict({}), ""
        self._stamps: tuple[Stamp, Stamp] | None = None
        self._is_settled = False
        self._read: dict[tuple[str, bool], tuple[Stamp, ReadPart]] = {}

    def look(self) -> None:
        """See what has changed. Files appear by renaming, so that two stamps tell whether anything has."""
        stamps = (_stamp(self.folder / "run.json"), _stamp(self.folder / "record"))
        if stamps == self._stamps and self._is_settled:
            return
        before, self._stamps = self._stamps, stamps
        self._is_settled = stamps == before  # looked at once more: what follows within a tick of the clock has no stamp
        found = self._list()
        lost = self.files.keys() - found.keys()
        new = [name for name, file in found.items() if self.files.get(name) != file]
        has_other_info = before is None or before[0] != stamps[0]
        if has_other_info:
            self.info, self.info_problem = self._read_info()
        if lost or new or has_other_info:
            self.version = next(self._versions)
            self.cut = self.version if lost else self.cut
            self.files = found
            self.changed = {name: self.changed.get(name, 0) for name in found} | dict.fromkeys(new, self.version)
            self._read = {key: read for key, read in self._read.items() if key[0] in found}

    @property
    def written(self) -> float:
        """When the newest part was written, or else `run.json`, in seconds since 1970; 0 where there is neither."""
        info = self._stamps[0][0] / 1e9 if self._stamps and self._stamps[0] else 0.0
        return max((file.written for file in self.files.values()), default=info)

    def of_kind(self, kind: str) -> list[str]:
        """Return the names of the parts of a kind, the newest first."""
        names = (name for name, file in self.files.items() if file.kind == kind)
        return sorted(names, key=lambda name: (self.files[name].step, self.files[name].written), reverse=True)

    def part(self, name: str, heads: bool = False) -> ReadPart:
        """Return what a part holds, with `heads` of its heads; it is read where that has not been done."""
        file = self.files[name]
        stamp, part = self._read.get((name, heads), ((), ReadPart([])))
        if stamp != file.stamp:
            part = self._read_part(name, file, heads)
            self._read[name, heads] = file.stamp, part
        return part

    def problems(self) -> list[str]:
        """Return what is wrong with the files that have been read so far, a sentence each."""
        read = sorted((name, part.problem) for (name, _), (_, part) in self._read.items() if part.problem)
        return [self.info_problem] * bool(self.info_problem) + list(dict.fromkeys(problem for _, problem in read))

    def _list(self) -> dict[str, PartFile]:
        """Return the parts in the record as they are now."""
        found: dict[str, PartFile] = {}
        if (self.folder / "record").is_symlink():
            return found
        with suppress(OSError), os.scandir(self.folder / "record") as entries:
            for entry in entries:
                if match := NAME.fullmatch(entry.name):
                    with suppress(OSError):  # it has just been deleted
                        stat = entry.stat(follow_symlinks=False)
                        stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
                        found[entry.name] = PartFile(
                            match[1], int(match[2]), stat.st_mtime, stamp, entry.is_symlink() or not entry.is_file()
                        )
        return found

    def _read_info(self) -> tuple[RunInfo, str]:
        path, none = self.folder / "run.json", RunInfo.from_dict({})
        if path.is_symlink():
            return none, f"run.json {LINK}."
        if (self.folder / "record").is_symlink():
            return none, f"record/ {LINK}."
        if not path.is_file():
            return none, "run.json is missing: nothing is known of the run but its record."
        try:
            info = runs.read(self.folder)
            info.to_dict()
        except InputError as error:
            return none, str(error)
        except Exception as error:  # of a foreign file: anything, such as a list a thousand levels deep
            return none, f"run.json cannot be understood ({in_words(error)})."
        if info.schema > SCHEMA:
            return (
                info,
                f"run.json has schema version {info.schema}, this dynamics knows {SCHEMA}: install a newer one.",
            )
        return info, ""

    def _read_part(self, name: str, file: PartFile, heads: bool) -> ReadPart:
        if file.is_link:
            return ReadPart([], f"record/{name} {LINK}.")
        path = self.folder / "record" / name
        try:
            if file.kind == "curves":
                return ReadPart(parts.curves(path, len(self.of_kind("curves"))))
            return ReadPart(parts.geometry(path, heads))
        except Exception as error:  # of a damaged or foreign file: anything
            if not path.exists():  # a run that resumes has just cut it
                return ReadPart([])
            return ReadPart([], f"record/{name} is skipped: {in_words(error).replace(f'{path.parent}/', '')}.")


class Store:
    """The runs that were named, or else all under `checkpoints/`, also those that begin later."""

    def __init__(self, names: Sequence[str | Path] = ()) -> None:
        self.lock = RLock()  # held by who reads: requests come from several threads
        self.is_named = bool(names)
        # Of all runs together, and above those of a server that was here before, which a page may still hold.
        self._versions = count(time.time_ns() // 1_000_000)
        self._runs: dict[str, WatchedRun] = {}
        self._looked = 0.0
        for folder in dict.fromkeys(runs.resolve(name).absolute() for name in names):
            self._add(folder)

    def runs(self) -> dict[str, WatchedRun]:
        """Return the runs as they are now, by key: their name, or their path where two share a name."""
        with self.lock:
            if time.monotonic() - self._looked >= LOOK_SECONDS:
                if not self.is_named:
                    self._find()
                for run in self._runs.values():
                    run.look()
                self._looked = time.monotonic()
            return dict(self._runs)

    def _find(self) -> None:
        """Add the runs that are new under `checkpoints/`, and forget those that are gone."""
        folders = {_text(folder.name): folder for folder in _folders(runs.CHECKPOINTS.absolute())}
        self._runs = {name: run for name, run in self._runs.items() if name in folders}
        for name in sorted(folders.keys() - self._runs.keys()):
            self._add(folders[name])

    def _add(self, folder: Path) -> None:
        name, path = _text(folder.name), _text(str(folder))
        key = name if name not in self._runs else path
        self._runs[key] = WatchedRun(key, folder, self._versions)


def _text(name: str) -> str:
    """Return a name as JSON can hold it, also one that is no UTF-8."""
    return name.encode(errors="backslashreplace").decode()


def _folders(parent: Path) -> Iterator[Path]:
    with suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            folder = Path(entry.path)
            if entry.is_dir() and ((folder / "run.json").exists() or (folder / "record").is_dir()):
                yield folder


def _stamp(path: Path) -> Stamp:
    try:
        stat = path.lstat()
    except OSError:
        return ()
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino)
