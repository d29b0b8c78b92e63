"""The checkpoints of one model, judged: copies, places, missing tensors, and the initialisation of step 0."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TypeVar

import numpy as np

from dynamics.errors import InputError
from dynamics.experiments.audit import weights
from dynamics.experiments.audit.contents import EXACT, Contents, Group, compare
from dynamics.experiments.audit.initial import against_fresh
from dynamics.experiments.audit.order import fitting, misplaced
from dynamics.loading.subjects import Subject
from dynamics.record import Row, condition
from dynamics.run_info import Facts

Content = TypeVar("Content")
WHOLE: Group = ("", -1)
ENOUGH = 5  # checkpoints by which a step can be told to be in its place


@dataclass
class CheckpointVerdict:
    """What the audit says of one checkpoint; with a reason it is suspect."""

    subject: Subject
    sha256: str = ""
    equal: dict[str, str] = field(default_factory=dict)  # revisions with the same weights: `exact`, or after rounding
    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    values: dict[tuple[str, str, Group], float] = field(default_factory=dict)  # by metric, what it is to, and group

    @property
    def facts(self) -> Facts:
        """Return the facts for `run.json`."""
        step = self.subject.step if self.subject.series else None
        about = {"model": self.subject.model, "revision": self.subject.revision, "step": step}
        findings = {"equal": self.equal, "reasons": self.reasons, "notes": self.notes}
        return {**about, "sha256": self.sha256, "suspect": bool(self.reasons), **findings}

    def rows(self, run: str, numbers: dict[Group, int]) -> list[Row]:
        """Return the rows for the record: distances, and whether it is suspect, with the reason."""
        key = (run, self.subject.name)
        rows = []
        for (metric, to, (stack, layer)), value in self.values.items():
            where = condition(**({"to": to} if to else {}), **({"stack": stack} if stack else {}))
            n = numbers.get((stack, layer), 0)
            rows.append(Row(*key, where, self.subject.step, "weight", layer, -1, metric, value, n=n))
        suspect = Row(*key, "", self.subject.step, "weight", -1, -1, "suspect", float(bool(self.reasons)))
        return [*rows, suspect._replace(reason="; ".join(self.reasons))]


@dataclass
class Series:
    """The checkpoints of one model: those on the step axis in order, then those off it; `end` is main, if there is one.

    `last_step` is the last that the model has, whether it is among them or not.
    """

    subjects: list[Subject]
    last_step: int

    def __post_init__(self) -> None:
        self.verdicts = [CheckpointVerdict(subject) for subject in self.subjects]
        self.axis = [i for i, subject in enumerate(self.subjects) if subject.series]
        self.end = next((i for i, subject in enumerate(self.subjects) if subject.revision == "main"), None)
        self.numbers: dict[Group, int] = {}
        self.unreadable: set[int] = set()

    def examine(self, hashes_only: bool, trust_remote_code: bool, on_share: Callable[[float], None]) -> None:
        """Fill the verdicts."""
        count = len(self.subjects)
        if hashes_only:
            for i in range(count):
                self.verdicts[i].sha256 = self._readable(i, lambda files: files.digest()) or ""
                on_share((i + 1) / count)
            hashes = [verdict.sha256 for verdict in self.verdicts]
            pairs = [(i, j) for i, j in combinations(range(count), 2) if hashes[i] == hashes[j] != ""]
            self._judge_copies(dict.fromkeys(pairs, EXACT), None)
            return
        tensors = [self._readable(i, lambda files: files.tensors()) or {} for i in range(count)]
        contents = compare(tensors, on_share)
        self.numbers = {**contents.numbers, WHOLE: sum(contents.numbers.values())}
        squared = sum(contents.squared.values(), np.zeros((count, count)))
        self._judge_tensors(contents)
        self._judge_copies(contents.copies(), squared)
        self._judge_places(contents, squared)
        self._measure(contents, squared)
        for i in self.axis:
            if self.subjects[i].step == 0 and i not in self.unreadable:
                self._judge_start(i, tensors[i], trust_remote_code)

    def _readable(self, i: int, read: Callable[[weights.Files], Content]) -> Content | None:
        """Return what is read of the files of a checkpoint; one that cannot be read is suspect."""
        try:
            return read(weights.find(self.subjects[i]))
        except InputError as error:
            self.verdicts[i].reasons.append(str(error).rstrip("."))
            self.unreadable.add(i)
            return None

    def _names(self, members: Sequence[int]) -> str:
        return ", ".join(self.subjects[i].revision for i in members)

    def _judge_tensors(self, contents: Contents) -> None:
        for i, verdict in enumerate(self.verdicts):
            if i in self.unreadable:
                continue
            verdict.sha256 = contents.digest(i)
            if i in contents.infinite:
                verdict.reasons.append("it holds values that are not finite")
            if i not in contents.comparable:
                verdict.reasons.append("its tensors are not those of the others (other names or shapes)")
            elif lacking := contents.lacking(i):
                verdict.reasons.append(f"it lacks {len(lacking)} matrices that others have (such as {lacking[0]})")

    def _judge_copies(self, pairs: Mapping[tuple[int, int], str], squared: np.ndarray | None) -> None:
        """Mark copies: of equal checkpoints all but the one in its place, or all where distances do not tell."""
        groups: list[set[int]] = []
        for (i, j), precision in pairs.items():
            for here, there in ((i, j), (j, i)):
                self.verdicts[here].equal[self.subjects[there].revision] = precision
            joined = [group for group in groups if {i, j} & group]
            groups = [group for group in groups if group not in joined] + [{i, j}.union(*joined)]
        single = {i for i in self.axis if not self.verdicts[i].equal and not self.verdicts[i].reasons}
        for group in groups:
            steps = sorted(group & {*self.axis})
            way = {i: self.subjects[i].step for i in self.axis if i in single | group}
            if self.end in group:
                kept = [i for i in steps if self.subjects[i].step == self.last_step]
                if not kept and squared is not None and len(steps) == 1 and len(way) >= ENOUGH:
                    kept = [i for i in steps if i not in misplaced(squared, way)]
                    self.verdicts[steps[0]].notes += ["main is this step, which is not the last"] * len(kept)
            else:
                kept = steps if squared is None or len(steps) < 2 else fitting(squared, way, steps, self._open_end(way))
                kept = kept if len(kept) == 1 else []
            for i in {*steps} - {*kept}:
                self.verdicts[i].reasons.append(self._copy(i, sorted(group - {i}), is_known=bool(kept)))

    def _copy(self, i: int, others: Sequence[int], is_known: bool) -> str:
        """Return what is wrong with a copy; `is_known` is whether one of the others is in its place."""
        precisions = {self.verdicts[i].equal.get(self.subjects[k].revision, EXACT) for k in others} - {EXACT}
        text = f"equal to {self._names(others)}" + (f" after rounding to {', '.join(precisions)}" if precisions else "")
        if self.end in others:
            return f"{text}, as only the last step ({self.last_step}) may be"
        return text if is_known else f"{text}: copies, or nothing was trained between them"

    def _open_end(self, way: Collection[int]) -> int | None:
        """Return main as the end of a way, unless it is no checkpoint like the others, or one of them."""
        if self.end is None or self.verdicts[self.end].reasons:
            return None
        return None if {self.subjects[i].revision for i in way} & {*self.verdicts[self.end].equal} else self.end

    def _judge_places(self, contents: Contents, squared: np.ndarray) -> None:
        """Mark checkpoints that lie elsewhere, and those of which a part returns to an earlier one."""
        way = {i: self.subjects[i].step for i in self.axis if not self.verdicts[i].reasons}
        for i, reason in misplaced(squared, way, self._open_end(way)).items():
            self.verdicts[i].reasons.append(reason)
        left = [i for i in way if not self.verdicts[i].reasons]
        for (first, second), count in contents.returning(left).items() if left else ():
            for i, other in ((first, second), (second, first)):
                text = f"{count} of its matrices are those of {self._names([other])}, but not of the steps between"
                self.verdicts[i].reasons.append(text)

    def _measure(self, contents: Contents, squared: np.ndarray) -> None:
        """Fill in relative distances to the checkpoint before and to main (else the last), whole and by group."""
        reference = self.end if self.end is not None else (self.axis[-1] if self.axis else None)
        to = "main" if self.end is not None else "last"
        parts = {**contents.squared, WHOLE: squared}
        norms = {**contents.norms, WHOLE: sum(contents.norms.values(), np.zeros(len(self.subjects)))}
        for place, i in enumerate(self.axis):
            before = {"previous": self.axis[place - 1]} if place else {}
            for name, other in {**before, **({} if reference in (None, i) else {to: reference})}.items():
                for group, distances in parts.items():
                    if norms[group][other] > 0:
                        value = float(np.sqrt(distances[i, other] / norms[group][other]))
                        self.verdicts[i].values["weight_distance", name, group] = value
            if 0 < place < len(self.axis) - 1:
                first, last = self.axis[place - 1], self.axis[place + 1]
                through, past = np.sqrt(squared[first, i]) + np.sqrt(squared[i, last]), np.sqrt(squared[first, last])
                self.verdicts[i].values["detour", "", WHOLE] = float(through / past) if past > 0 else np.nan

    def _judge_start(self, i: int, tensors: weights.Tensors, trust_remote_code: bool) -> None:
        reason, note, ratios = against_fresh(self.subjects[i], tensors, trust_remote_code)
        self.verdicts[i].reasons += [reason] if reason else []
        self.verdicts[i].notes += [note] if note else []
        self.verdicts[i].values |= {("initial_std_ratio", "", group): ratio for group, ratio in ratios.items()}
