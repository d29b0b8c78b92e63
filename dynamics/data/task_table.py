"""The tasks of fine-tuning: their data sets, inputs, labels and metrics."""

from dataclasses import dataclass, field
from difflib import get_close_matches

from dynamics.errors import InputError


@dataclass(frozen=True)
class Task:
    """One task.

    `bare` has, by the number of columns of a file without a header, the places of the texts and the label, where they
    are not simply in this order.
    """

    name: str
    hub: tuple[str, str | None]  # name and configuration of its data set
    texts: tuple[str, ...]  # columns that the model reads, one or two
    labels: tuple[str, ...] = ()  # the classes, by their number; none for a score or a span
    metrics: tuple[str, ...] = ("accuracy",)  # of its quality, the most important first
    bare: dict[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def is_span(self) -> bool:
        """Whether the answer is a span of the second text."""
        return "exact_match" in self.metrics

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a file."""
        return (*self.texts, "answers" if self.is_span else "label")

    @property
    def kind(self) -> str:
        """The kind of prediction."""
        return "question answering" if self.is_span else "classification" if self.labels else "regression"


GLUE, SINGLE, PAIR = "nyu-mll/glue", ("sentence",), ("sentence1", "sentence2")
ENTAILMENT = ("entailment", "not_entailment")
STARS = ("very negative", "negative", "neutral", "positive", "very positive")
WITH_F1 = ("accuracy", "f1")
WITH_MATTHEWS = ("matthews_correlation", "accuracy")
CORRELATIONS = ("spearman_correlation", "pearson_correlation")
TASKS = {
    task.name: task
    for task in (
        Task("sst2", (GLUE, "sst2"), SINGLE, ("negative", "positive")),
        Task("sst5", ("SetFit/sst5", None), SINGLE, STARS),
        Task("qnli", (GLUE, "qnli"), ("question", "sentence"), ENTAILMENT),
        Task("rte", (GLUE, "rte"), PAIR, ENTAILMENT),
        Task("mrpc", (GLUE, "mrpc"), PAIR, ("not_equivalent", "equivalent"), WITH_F1),
        Task("qqp", (GLUE, "qqp"), ("question1", "question2"), ("not_duplicate", "duplicate"), WITH_F1),
        Task("cola", (GLUE, "cola"), SINGLE, ("unacceptable", "acceptable"), WITH_MATTHEWS, bare={4: (3, 1)}),
        Task("stsb", (GLUE, "stsb"), PAIR, metrics=CORRELATIONS, bare={7: (5, 6, 4)}),
        Task("squad", ("rajpurkar/squad", None), ("question", "context"), metrics=("f1", "exact_match")),
    )
}


def find(name: str) -> Task:
    """Return a task by its name, or refuse it with the nearest one."""
    if name not in TASKS:
        near = get_close_matches(name, TASKS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(TASKS)}."
        raise InputError(f"data.task: there is no task {name}; {hint}")
    return TASKS[name]
