"""`dynamics verify`: whether the files of a run are what was written, and what can be measured again. No torch here."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open

from dynamics import record, runs
from dynamics.config import read_config
from dynamics.errors import InputError, in_words
from dynamics.files import digests, is_damaged, is_intact
from dynamics.readers import read_json
from dynamics.run_info import FitInfo

READ = ("run.json", "config.yaml", "plan.json", "tokenizer.json", "vectors/*", "record/*", "state/*", "weights/*/*")


@dataclass
class Findings:
    """What is known of the files of a run."""

    folder: Path
    whole: list[Path] = field(default_factory=list)  # what was written, by their digests
    unknown: list[Path] = field(default_factory=list)  # readable, without a digest
    unread: list[Path] = field(default_factory=list)  # of which nothing is known
    damaged: dict[Path, str] = field(default_factory=dict)  # and why

    def __str__(self) -> str:
        lines = [f"{self.folder.name}: {len(self.whole)} files are what was written"]
        if self.unknown:
            lines += [f"{len(self.unknown)} files have no digest (of an older version, or not ours) but can be read"]
        if self.unread:
            names = ", ".join(str(path.relative_to(self.folder)) for path in self.unread)
            lines += [f"without a digest, and not looked into: {names}"]
        lines += [f"damaged: {path.relative_to(self.folder)} ({reason})" for path, reason in self.damaged.items()]
        return "\n".join([*lines, *self._advice()])

    def _advice(self) -> list[str]:
        """Return what can be made again, from what is whole."""
        broken = {path.parent for path in self.damaged}
        parts = [path.name for path in self.damaged if path.parent.name == "record"]
        path = self.folder / "run.json"
        info = runs.read(self.folder) if path.is_file() and path not in self.damaged else None
        if info is not None and not isinstance(info, FitInfo):
            has_command = parts and info.command
            return [f"can be measured again, under another --run, by: {info.command}"] if has_command else []
        found = (re.fullmatch(r"(?:geometry|arrays)-(\d+)\.parquet", name) for name in parts)
        lost = sorted({int(match[1]) for match in found if match})
        paths = {step: runs.weights_path(self.folder, step) for step in lost}
        again = [step for step, path in paths.items() if path.is_dir() and path not in broken]
        advice = []
        if again:
            steps, name = ",".join(map(str, again)), self.folder.name
            advice += [
                f"can be measured again, once deleted: dynamics scan {name} --revisions {steps} --run {name}-again"
            ]
        if gone := [str(step) for step in lost if step not in again]:
            advice += [f"cannot be measured again (no whole weights are kept): steps {', '.join(gone)}"]
        if any(name.startswith("curves-") for name in parts):
            advice += ["learning curves cannot be made again but by training"]
        if any(path.parent.name == "state" for path in self.damaged):
            advice += ["--resume auto takes the newest state that is whole"]
        return advice


def verify(run: str | Path) -> Findings:
    """Check every file of a run that is read again: by its digest and by reading it."""
    folder = runs.resolve(run)
    findings = Findings(folder)
    for path in sorted(path for pattern in READ for path in folder.glob(pattern) if path.is_file()):
        if path.name.startswith("."):
            continue
        if is_damaged(path):
            findings.damaged[path] = "not what was written"
            continue
        try:
            is_read = _read(path)
        except InputError as error:
            findings.damaged[path] = in_words(error)
        else:
            is_known = path.name in digests(path.parent)
            (findings.whole if is_known else findings.unknown if is_read else findings.unread).append(path)
    return findings


def _read(path: Path) -> bool:
    """Refuse a file that cannot be read, as far as that shows without torch; return whether anything looked into it."""
    if path.name == "run.json":
        runs.read(path.parent)
    elif path.name == "config.yaml":
        read_config(path)
    elif path.suffix == ".parquet":
        record.read_part(path)
    elif path.suffix == ".json":
        read_json(path, Any, "restore it from a copy")
    elif path.suffix in (".ckpt", ".npz"):
        if not is_intact(path):
            raise InputError("it is no archive, or a part of it is not what its checksum says")
    elif path.suffix == ".safetensors":
        try:
            with safe_open(path, "np") as file:
                file.keys()
        except Exception as error:  # of the library, of its own kind
            raise InputError(in_words(error)) from error
    else:
        return False
    return True
