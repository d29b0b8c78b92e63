"""`dynamics verify`: whether the files of a run are what was written, and what can be measured again. No torch here."""

import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from dynamics import record, runs
from dynamics.config import read_config
from dynamics.errors import InputError, in_words
from dynamics.files import digests, is_damaged

READ = ("run.json", "config.yaml", "plan.json", "tokenizer.json", "vectors/*", "record/*", "state/*", "weights/*/*")


@dataclass
class Findings:
    """What is known of the files of a run."""

    folder: Path
    whole: list[Path] = field(default_factory=list)  # what was written, by their digests
    unknown: list[Path] = field(default_factory=list)  # readable, without a digest
    damaged: dict[Path, str] = field(default_factory=dict)  # and why

    def __str__(self) -> str:
        lines = [f"{self.folder.name}: {len(self.whole)} files are what was written"]
        if self.unknown:
            lines += [f"{len(self.unknown)} files have no digest (of an older version, or not ours) but can be read"]
        lines += [f"damaged: {path.relative_to(self.folder)} ({reason})" for path, reason in self.damaged.items()]
        return "\n".join([*lines, *self._advice()])

    def _advice(self) -> list[str]:
        """Return what can be made again, from what is whole."""
        kept = {int(path.name[5:]): path for path in (self.folder / "weights").glob("step-*")}
        broken = {path.parent for path in self.damaged}
        parts = [path for path in self.damaged if path.parent.name == "record"]
        lost = sorted({int(path.name.split("-")[1].split(".")[0]) for path in parts if path.name[0] != "c"})
        again = [step for step in lost if step in kept and kept[step] not in broken]
        advice = []
        if again:
            steps, name = ",".join(map(str, again)), self.folder.name
            advice += [
                f"can be measured again, once deleted: dynamics scan {name} --revisions {steps} --run {name}-again"
            ]
        if gone := [str(step) for step in lost if step not in again]:
            advice += [f"cannot be measured again (no whole weights are kept): steps {', '.join(gone)}"]
        if any(path.name.startswith("curves-") for path in parts):
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
            _read(path)
        except InputError as error:
            findings.damaged[path] = in_words(error)
        else:
            (findings.whole if path.name in digests(path.parent) else findings.unknown).append(path)
    return findings


def _read(path: Path) -> None:
    """Refuse a file that cannot be read, as far as that shows without torch."""
    if path.name == "run.json":
        runs.read(path.parent)
    elif path.name == "config.yaml":
        read_config(path)
    elif path.suffix == ".parquet":
        record.read_part(path)
    elif path.suffix in (".ckpt", ".npz"):
        try:
            with zipfile.ZipFile(path) as archive:
                part = archive.testzip()
        except Exception as error:  # zipfile raises whatever the content makes it trip over
            raise InputError(in_words(error)) from error
        if part is not None:
            raise InputError(f"{part} in it is damaged")
