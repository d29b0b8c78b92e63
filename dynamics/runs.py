"""A run's folder: begun, locked, resumed and finished in one place. No torch here.

Every run leaves `checkpoints/<run>/` with `run.json` (see `run_info`), `record/` and `report.html`. `start` is the one
way to begin or resume a run.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from hashlib import blake2b
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

from dynamics.errors import InputError, in_words
from dynamics.files import write_text
from dynamics.lock import locked
from dynamics.readers import read_json, refuse_damaged_in, refuse_wrong_type
from dynamics.run_info import INSIDE, KINDS, SCHEMA, RunInfo, SweepInfo

CHECKPOINTS = Path("checkpoints")
UNFINISHED = "unfinished-"
STEP = "step-" + "[0-9]" * 10  # a copy that somebody has made beside is none of the run's
WITHOUT = "restore it from a copy, or delete it (`dynamics verify` says what can be measured again)"
UNREADABLE = "restore it from a copy, or delete it: what the run was made of is then not known"
TYPES = {kind: get_type_hints(kind) for kind in (RunInfo, *KINDS.values())}  # of what `run.json` says
Info = TypeVar("Info", bound=RunInfo)


def new(name: str) -> Path:
    """Return the folder of a run that is to be made; refuse a path for a name.

    >>> str(new("decoder"))
    'checkpoints/decoder'
    """
    if Path(name).name != name or name in ("", ".."):
        raise InputError(f"--run {name}: give a name, not a path; runs lie under {CHECKPOINTS}/.")
    if name != name.strip() or name[0] in "-." or not name.isprintable():
        raise InputError(f"--run {name!r}: a name begins with a letter, a digit or _, and holds no line break or tab.")
    return CHECKPOINTS / name


def name_by_time(*parts: str | None) -> str:
    """Make up a run's name from what it is and the time.

    >>> name_by_time("scan", None)  # doctest: +ELLIPSIS
    'scan-20...'
    """
    return "-".join([*filter(None, parts), datetime.now(UTC).strftime("%Y%m%d-%H%M%S")])


def find(run: str | Path) -> Path | None:
    """Return the folder of a run given by name (under `checkpoints/`) or by path; None where there is none."""
    for folder in (CHECKPOINTS / run, Path(run)):
        if (folder / "record").is_dir() or (folder / "run.json").is_file():
            return folder
    return None


def resolve(run: str | Path) -> Path:
    """Return the folder of a run given by name or by path; refuse one that does not exist, offering the nearest."""
    if (folder := find(run)) is not None:
        return folder
    names = [path.name for path in CHECKPOINTS.glob("*") if (path / "run.json").is_file()]
    near = get_close_matches(str(run), names, n=3) or sorted(names)[:3]
    hint = f"did you mean {', '.join(near)}?" if near else "train one with `dynamics fit`."
    raise InputError(f"no run named {run} (neither a folder nor under {CHECKPOINTS}/): {hint}")


def newest() -> Path:
    """Return the folder of the run that wrote to its record last; refuse where no run has a record."""
    written = {path: path.stat().st_mtime_ns for path in CHECKPOINTS.glob("*/record/*.parquet")}
    if not written:
        raise InputError(f"there is no run under {CHECKPOINTS}/ to report on: make one, as with `dynamics fit`.")
    return max(written, key=lambda path: written[path]).parent.parent


def read(run: str | Path) -> RunInfo:
    """Read the `run.json` of a run given by name or by path; of a kind that is not known, as a `RunInfo`."""
    path = resolve(run) / "run.json"
    content = read_json(path, dict[str, Any], UNREADABLE)
    kind = KINDS.get(str(content.get("kind")), RunInfo)
    for key, expected in TYPES[kind].items():
        if key in content and key not in ("kind", "unknown"):
            refuse_wrong_type(content[key], INSIDE.get(key, expected), f"{key} in {path}", UNREADABLE)
    return kind.from_dict(content)


def read_begun(folder: Path) -> RunInfo:
    """Read the `run.json` of a run that is to go on; refuse one that has lost it."""
    if not (folder / "run.json").is_file():
        raise InputError(
            f"{folder / 'run.json'} is missing, which says what the run was: put it back, or choose another --run."
        )
    return read(folder)


@dataclass
class Run(Generic[Info]):
    """A run that is under way in this process; change `info`, the content of its `run.json`, and call `save`."""

    folder: Path
    info: Info
    resumed: bool
    ends_as: str = "done"  # status that it gets where nothing goes wrong
    is_discarded: bool = False  # whether nothing of it is kept, although it has a record

    def save(self) -> None:
        write_text(self.folder / "run.json", json.dumps(self.info.to_dict(), indent=2, default=str) + "\n")

    def finish(self, status: str) -> None:
        """Write how the run ended, and when."""
        self.info.status = status
        self.info.finished = datetime.now(UTC).isoformat(timespec="seconds")
        self.save()

    @property
    def has_record(self) -> bool:
        """Whether anything has been measured, be it in part; of a sweep, whether any of its runs has begun."""
        begun = isinstance(self.info, SweepInfo) and bool(self.info.runs)
        return begun or any((*self.folder.glob("record/*.parquet"), *self.folder.glob(f"{UNFINISHED}*.pt")))

    def unfinished(self, subject: str) -> Path:
        """Return the file for the states of a subject's measurement, from which it goes on when it was stopped."""
        return self.folder / f"{UNFINISHED}{blake2b(subject.encode(), digest_size=8).hexdigest()}.pt"


@contextmanager
def start(
    info: Info,
    resume: str | None = None,
    same: Sequence[str] = (),
    update: bool = False,
    check: Callable[[], None] = lambda: None,
) -> Iterator[Run[Info]]:
    """Begin the run that `info` describes, or resume it, and write how it ends.

    Its folder is locked against other processes, which may have changed it until then: only under the lock is it known
    what it holds. Nothing else is written before the run is known to be allowed. A new run that ends before anything is
    in its record leaves nothing.

    Args:
        info: what the `run.json` of a new run says; with `update`, also that of a resumed one.
        resume: anything but None to resume a run that exists.
        same: keys of `run.json` (mappings) whose entries must be what they were.
        check: called under the lock before anything is written; it may change `info`, or refuse the run.
    """
    folder = new(info.run)
    if resume is None:
        refuse_existing(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if resume is None:
            refuse_existing(folder)
        check()
        if existed := exists(folder):
            info = _resumed(folder, info, same, update)
            refuse_damaged_in(folder / "record", WITHOUT)
        run = Run(folder, info, existed)
        run.save()
        try:
            yield run
        except BaseException as error:
            if not existed and (run.is_discarded or not run.has_record):
                shutil.rmtree(folder)
            else:
                is_asked = isinstance(error, KeyboardInterrupt)
                run.info.error = "" if is_asked else in_words(error)
                with suppress(OSError):  # of a full disk: what has ended the run says more
                    run.finish("interrupted" if is_asked else "failed")
            raise
        run.finish(run.ends_as)


def state_path(folder: Path, step: int) -> Path:
    """Return where the run in `folder` keeps the training state after `step` updates."""
    return folder / "state" / f"step-{step:010d}.ckpt"


def weights_path(folder: Path, step: int) -> Path:
    """Return where the run in `folder` keeps the weights measured at `step`, as transformers saves them."""
    return folder / "weights" / f"step-{step:010d}"


def kept_weights(folder: Path) -> dict[int, Path]:
    """Return the folders of weights that a run keeps, by step."""
    return {int(path.name.removeprefix("step-")): path for path in sorted((folder / "weights").glob(STEP))}


def exists(folder: Path) -> bool:
    """Whether a run's folder holds anything but a lock."""
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())


def refuse_existing(folder: Path) -> None:
    """Refuse a new run in a folder that holds one."""
    if exists(folder):
        raise InputError(f"a run named {folder.name} exists: add --resume auto to resume it, or choose another --run.")


def _resumed(folder: Path, info: Info, same: Sequence[str], update: bool) -> Info:
    """Return what `run.json` is to say, if the run may be resumed as `info`."""
    before = read_begun(folder)
    if type(before) is not type(info):
        raise InputError(f"the run {folder.name} is no {info.kind}: choose another --run.")
    refuse_changes(folder.name, before, info, same)
    if update:
        return replace(info, unknown=before.unknown | info.unknown)
    return replace(before, status="running", finished="", error="", schema=SCHEMA)


def refuse_changes(name: str, before: RunInfo, now: RunInfo, same: Sequence[str]) -> None:
    """Refuse a run whose settings under the keys `same` have changed; of mappings, the entries of `now` count."""
    for key in same:
        old, new_ = getattr(before, key), getattr(now, key)
        if isinstance(new_, Mapping):
            differing = [f"{key} ({part})" for part in new_ if new_[part] != (old or {}).get(part)]
        else:
            differing = [f"settings ({key})"] if new_ != old else []
        if differing:
            raise InputError(
                f"the run {name} was made with other {differing[0]}: choose another --run, or give the same again."
            )
