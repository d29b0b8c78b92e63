"""What `run.json` says: a dataclass for each kind of run. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal, Self

from annotated_types import Len
from typing_extensions import TypedDict

SCHEMA = 1  # version of the keys of `run.json`; 0 are the files that do not say one

Facts = dict[str, Any]


@dataclass(kw_only=True)
class RunInfo:
    """What `run.json` says of a run of any kind; a number that it does not say is None."""

    kind: ClassVar[str] = ""
    run: str
    status: str = "running"  # or `done`, `stopped` (by a limit of time), `interrupted`, `failed`
    schema: int = SCHEMA
    created: str = ""  # times in ISO 8601
    finished: str = ""
    error: str = ""  # of a run that failed, in a sentence
    command: str = ""
    commit: str | None = None
    hardware: str = ""
    versions: Facts = field(default_factory=dict)
    metrics: Any = field(default_factory=dict)  # by site and name, with the options of each
    descriptions: dict[str, Facts] = field(default_factory=dict)  # title, unit, estimator ... of metrics, by name
    failed: dict[str, str] = field(default_factory=dict)  # why, by the name of a model, run or input that is missing
    unknown: Facts = field(default_factory=dict)  # keys that this version does not know; they are kept

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Read the content of a `run.json`; keys that the class does not know go to `unknown`."""
        names = {item.name for item in fields(cls)} - {"unknown"}
        values = {key: value for key, value in content.items() if key in names}
        unknown = {key: value for key, value in content.items() if key not in names | {"kind"}}
        return cls(**{"run": "", "schema": 0, "status": "", **values}, unknown=unknown)

    def to_dict(self) -> Facts:
        """Return the content of `run.json`: `run` and `kind` first; what is None or empty is left out."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in ("run", "unknown")}
        content = {"run": self.run, "kind": self.kind, **values, "schema": self.schema or None, **self.unknown}
        return {key: value for key, value in content.items() if value not in ("", {}, [], None)}


@dataclass(kw_only=True)
class FitInfo(RunInfo):
    """A training run."""

    kind: ClassVar[str] = "fit"
    label: str = ""
    objective: str = ""
    is_causal: bool | None = None
    architecture: str = ""
    task: str = ""
    model_class: str = ""
    layers: int | None = None
    width: int | None = None
    heads: int | list[int] | None = None
    parameters: int | None = None
    context: int | None = None
    batch_size: int | None = None
    epoch_steps: int | None = None
    max_steps: int | None = None
    learning_rate: float | None = None
    seed: int | None = None
    precision: str | int = ""
    devices: int | None = None
    wandb_id: str = ""  # under which W&B holds the run, however often it resumes
    model: Facts = field(default_factory=dict)
    data: Facts = field(default_factory=dict)
    probe: Facts = field(default_factory=dict)  # the evaluation tokens that the geometry is measured on
    capture: str = ""  # verdict of the check of what is captured: `verified`, or `unverified: why`
    regularizers: dict[str, Facts] = field(default_factory=dict)
    fork: "ForkFacts" = field(default_factory=dict)  # type: ignore[assignment]  # of a run that continues another one


@dataclass(kw_only=True)
class ModelsInfo(RunInfo):
    """A run that measures models one after the other: what they share, and the facts of each by its subject."""

    settings: Facts = field(default_factory=dict)
    subjects: dict[str, Facts] = field(default_factory=dict)


@dataclass(kw_only=True)
class ScanInfo(ModelsInfo):
    """A scan."""

    kind: ClassVar[str] = "scan"
    audit: dict[str, Facts] = field(default_factory=dict)  # with --audit: the verdict on each checkpoint


@dataclass(kw_only=True)
class AuditInfo(RunInfo):
    """An audit: the verdict on each checkpoint, by its subject."""

    kind: ClassVar[str] = "audit"
    settings: Facts = field(default_factory=dict)
    audit: dict[str, Facts] = field(default_factory=dict)


@dataclass(kw_only=True)
class ConeInfo(ModelsInfo):
    """A cone: also the corpora by name, and how many scored pairs there are."""

    kind: ClassVar[str] = "cone"
    corpora: dict[str, Facts] = field(default_factory=dict)
    pairs: int | None = None


@dataclass(kw_only=True)
class ProbeInfo(RunInfo):
    """A probe: the settings of `dynamics probe` that have an effect, and the actual size of every design."""

    kind: ClassVar[str] = "probe"
    beta: list[float] = field(default_factory=list)
    bias: str | list[str] = ""
    seeds: int | None = None
    seed: int | None = None
    depth: int | None = None
    batch: int | None = None
    width: int | list[int] | None = None
    heads: int | list[int] | None = None
    length: int | list[int] | None = None
    inputs: str | list[str] = ""
    initialization: str | list[str] = ""
    norm: str | list[str] = ""
    causal: bool | list[bool] | None = None
    architecture: str | list[str] = ""
    sample: int | None = None
    device: str = ""
    designs: list[Facts] = field(default_factory=list)


@dataclass(kw_only=True)
class SweepInfo(RunInfo):
    """A sweep: the words that `dynamics fit` is called with, by the name of each run."""

    kind: ClassVar[str] = "sweep"
    runs: dict[str, list[str]] = field(default_factory=dict)


class ForkFacts(TypedDict):
    """Where a fork begins, and what it changes."""

    parent: str  # name of the run that it continues, or the path of one that lies elsewhere
    parent_state: str  # SHA-256 of the state from which it goes on
    step: int
    changed: dict[str, list[Any]]  # keys of the configuration: the value of the parent, that of the fork


class Description(TypedDict, total=False):
    """What a page reads of the description of a metric."""

    title: str
    unit: str
    meaning: str
    estimator: str
    source: str
    range: Annotated[list[float | None], Len(2, 2)]
    signed: bool
    wide: bool


class SubjectFacts(TypedDict, total=False):
    """What a page reads of the facts about a model."""

    model: str
    revision: str
    series: str
    step: int
    layers: int
    heads: list[int]
    modality: Literal["text", "images", "audio"]
    is_causal: bool | None


class DataFacts(TypedDict, total=False):
    """What a page reads of the facts about the data of a training run."""

    gzip_bits_per_character: float | None


class AuditVerdict(TypedDict):
    """What a page reads of the verdict on a checkpoint."""

    model: str
    revision: str
    sha256: str
    step: int | None  # None: of main, whose name says none
    suspect: bool
    reasons: list[str]
    notes: list[str]
    equal: dict[str, str]


class DesignFacts(TypedDict):
    """What a page reads of a design of the probe."""

    subject: str
    condition: str
    label: str
    width: int
    layers: int


# What lies inside the facts of `run.json`, where something reads it by its key.
INSIDE = {
    "descriptions": dict[str, Description],
    "subjects": dict[str, SubjectFacts],
    "data": DataFacts,
    "audit": dict[str, AuditVerdict],
    "designs": list[DesignFacts],
}
KINDS: dict[str, type[RunInfo]] = {
    kind.kind: kind for kind in (FitInfo, ScanInfo, AuditInfo, ConeInfo, ProbeInfo, SweepInfo)
}
