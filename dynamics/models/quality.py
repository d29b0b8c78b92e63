"""The quality of predictions: the metrics of each task, by torchmetrics."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchmetrics import MeanMetric, PearsonCorrCoef, SpearmanCorrCoef
from torchmetrics.classification import BinaryF1Score, MulticlassAccuracy, MulticlassMatthewsCorrCoef
from torchmetrics.text import SQuAD

from dynamics.data.examples import Example
from dynamics.data.task_table import Task

LONGEST_ANSWER = 30  # tokens of a predicted answer at most, as in the published scripts

MAKERS: dict[str, Callable[[int], nn.Module]] = {
    "accuracy": lambda classes: MulticlassAccuracy(classes, average="micro"),
    "f1": lambda classes: BinaryF1Score(),
    "matthews_correlation": lambda classes: MulticlassMatthewsCorrCoef(classes),
    "pearson_correlation": lambda classes: PearsonCorrCoef(),
    "spearman_correlation": lambda classes: SpearmanCorrCoef(),
}


class Quality(nn.Module):
    """The mean loss and the task's metrics, each at most 1, over the predictions of a validation pass."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        metrics = {"squad": SQuAD()} if task.is_span else {m: MAKERS[m](len(task.labels)) for m in task.metrics}
        self.metrics: Any = nn.ModuleDict(metrics)  # whose items are typed as plain modules
        # Not left to `self.log`, which truncates the mean number of rows a rank to an integer.
        self.loss = MeanMetric(nan_strategy="disable")  # which would ask the device at every batch
        self._best: dict[int, tuple[float, int, int]] = {}

    def update(self, loss: Tensor, prediction: Tensor, labels: Tensor, owners: Tensor, covered: Tensor | None) -> None:
        """Add the rows of a batch, with their mean loss.

        Args:
            prediction: logits (B, classes), scores (B,), or logits (B, T, 2) of an answer's ends.
            labels: classes or scores (B,); not used for answers.
            owners: numbers (B,) of the examples.
            covered: for answers, the characters (B, T, 2) of the context that each token covers, else -1.
        """
        self.loss.update(loss, weight=torch.full((), float(len(labels)), device=loss.device))
        if covered is not None:
            for owner, score, start, end in zip(owners.tolist(), *best_spans(prediction, covered), strict=True):
                self._best[owner] = max(self._best.get(owner, (-float("inf"), 0, 0)), (score, start, end))
            return
        for metric in self.metrics.values():
            metric.update(prediction.argmax(1) if self.task.labels else prediction, labels)

    def compute(self, examples: Sequence[Example]) -> dict[str, float]:
        """Return loss and metrics over all ranks, and reset; owners are numbers of `examples`."""
        if self._best:
            predictions, references = [], []
            for owner, (_, start, end) in self._best.items():
                example = examples[owner]
                predictions.append({"prediction_text": example.texts[1][start:end], "id": example.name})
                texts, starts = (list(part) for part in zip(*example.answers, strict=True))
                references.append({"answers": {"text": texts, "answer_start": starts}, "id": example.name})
            self.metrics["squad"].update(predictions, references)
        self._best.clear()
        values, loss = {name: metric.compute() for name, metric in self.metrics.items()}, self.loss.compute()
        for metric in (*self.metrics.values(), self.loss):
            metric.reset()
        if self.task.is_span:
            values = {name: value / 100 for name, value in values["squad"].items()}
        return {"loss": float(loss), **{name: float(values[name]) for name in self.task.metrics}}


def best_spans(
    logits: Float[Tensor, "B T 2"], covered: Int[Tensor, "B T 2"]
) -> tuple[list[float], list[int], list[int]]:
    """Return the best answer of each row: its score, and its characters [start, end) in the context.

    `logits` are of its first and last token; `covered` are the characters of the context, as in `Quality.update`.

    >>> logits = torch.tensor([[[9.0, 0.0], [2.0, 0.0], [0.0, 3.0]]])
    >>> best_spans(logits, torch.tensor([[[-1, -1], [0, 4], [5, 9]]]))
    ([5.0], [0], [9])
    """
    tokens = logits.shape[1]
    allowed = torch.ones(tokens, tokens, dtype=torch.bool, device=logits.device).triu().tril(LONGEST_ANSWER - 1)
    inside = covered[..., 0] >= 0
    allowed = allowed & inside[:, :, None] & inside[:, None, :]
    scores = (logits[:, :, None, 0] + logits[:, None, :, 1]).masked_fill(~allowed, -torch.inf).flatten(1)
    best, at = scores.max(1)
    starts = covered[..., 0].gather(1, at[:, None] // tokens)[:, 0]
    ends = covered[..., 1].gather(1, at[:, None] % tokens)[:, 0]
    return best.tolist(), starts.tolist(), ends.tolist()
