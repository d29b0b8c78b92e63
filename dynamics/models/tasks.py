"""`TaskModel`: fine-tuning of a pretrained encoder or decoder, as a LightningModule."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

import dynamics.models.transformer  # noqa: F401 (registers our own architecture, to refuse it by name)
from dynamics import runs
from dynamics.data.task_table import Task, find
from dynamics.data.tasks import TaskBatch, TaskData
from dynamics.errors import InputError
from dynamics.models import hub, optimizers
from dynamics.models.checkpointing import checkpoint_activations
from dynamics.models.quality import Quality
from dynamics.models.regularized import RegularizedModule
from dynamics.models.regularizers import Regularizer

WEIGHT_DECAY = 0.01
UNLIMITED = 1_000_000  # tokenizers without a limit report numbers beyond this one


class TaskModel(RegularizedModule):
    """Fine-tunes one pretrained network, with a head for the data module's task.

    Args:
        checkpoint: name on the hub, a folder as transformers saves it, or a fine-tuned run of ours.
        revision: of a name on the hub.
        optimizer: `adamw`; `adam`, the same without decay; `sgd`, with momentum; `muon`, on matrices of hidden layers,
            with adamw on the rest.
        learning_rate: peak learning rate; one serves all but sgd, which needs some hundred times as much.
        warmup: share of the steps in which the learning rate rises linearly; it then falls linearly to 0.
        weight_decay: of adamw and muon, on matrices only; the others have none.
        betas: Adam's; the first is the momentum of sgd.
        activation_checkpointing: whether layers are computed twice, for less memory, instead of kept whole for their
            gradients.
        regularizers: terms of the loss that change the residual stream (`dynamics.models.regularizers`).
        seed: decides the weights of a new head; one that the checkpoint brings in the right size is kept.
    """

    def __init__(
        self,
        checkpoint: str,
        revision: str | None = None,
        optimizer: str = "adamw",
        learning_rate: float = 1e-4,
        warmup: float = 0.1,
        weight_decay: float = WEIGHT_DECAY,
        betas: tuple[float, float] = (0.9, 0.999),
        activation_checkpointing: bool = False,
        regularizers: list[Regularizer] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(regularizers)
        optimizers.refuse(optimizer, weight_decay, WEIGHT_DECAY)
        if not 0 <= warmup <= 1:
            raise InputError(f"model.warmup must be a share of the steps, 0 to 1 (got {warmup}).")
        self.save_hyperparameters(ignore=["regularizers"])

    def build(self, data: TaskData) -> None:
        """Load tokenizer and network, have the data tokenized, and draw the head from `seed` alone."""
        name, task = self.hparams.checkpoint, data.task
        (weights, tokens), revision, auto = _sources(name), self.hparams.revision or "", _auto(task)
        config = hub.fetch(AutoConfig.from_pretrained, weights, revision=revision)
        if type(config) not in auto._model_mapping:
            raise InputError(
                f"model.checkpoint {name}: transformers has no {task.kind} on top of {config.model_type}; choose a "
                "pretrained text encoder or decoder."
            )
        tokenizer = _tokenizer(tokens, revision)
        reach = getattr(config, "max_position_embeddings", None) or UNLIMITED
        data.encode(tokenizer, min(tokenizer.model_max_length, reach))
        with torch.random.fork_rng(devices=[]):
            # Not the global generator: twins must start from equal weights whatever was drawn before.
            torch.manual_seed(self.hparams.seed)
            network, info = hub.fetch(
                auto.from_pretrained,
                weights,
                revision=revision,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                pad_token_id=tokenizer.pad_token_id,
                **_classes(task),
            )
        _refuse_incomplete(name, network, info)
        rows = network.get_input_embeddings().num_embeddings
        if data.highest_id >= rows:
            raise InputError(
                f"the tokenizer of {name} has the id {data.highest_id} but the model only {rows} embeddings: they do "
                "not belong together."
            )
        network.config.architectures = [type(network).__name__]
        self._take(network, task)
        self.refuse_layers(network.config.num_hidden_layers)

    def _take(self, network: PreTrainedModel, task: Task) -> None:
        self.task, self.network, self.quality = task, network.train(), Quality(task)
        if self.hparams.activation_checkpointing:
            checkpoint_activations(network)

    def describe(self) -> dict[str, Any]:
        config, path = self.network.config, Path(self.hparams.checkpoint)
        name = path.parent.name if path.name == "model" else path.name
        return {
            "label": f"{name}, {self.task.name}",
            "objective": f"{self.task.kind} ({self.task.name})",
            "model_class": type(self.network).__name__,
            "layers": config.num_hidden_layers,
            "width": config.hidden_size,
            "heads": config.num_attention_heads,
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        config = self.network.config
        checkpoint["network"] = {"type": config.model_type, "config": config.to_json_string(), "task": self.task.name}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if not hasattr(self, "network"):
            saved, task = checkpoint["network"], find(checkpoint["network"]["task"])
            settings = {key: value for key, value in json.loads(saved["config"]).items() if key != "model_type"}
            self._take(_auto(task).from_config(AutoConfig.for_model(saved["type"], **settings)), task)
        super().on_load_checkpoint(checkpoint)

    def learning_rate_factor(self, step: int) -> float:
        last = self.trainer.max_steps
        warmup = round(self.hparams.warmup * last)
        return (step + 1) / warmup if step < warmup else max(0.0, (last - step) / max(1, last - warmup))

    def _predict(self, batch: TaskBatch) -> Tensor:
        """Return logits (B, classes), scores (B,), or logits (B, T, 2) of an answer's first and last token."""
        with masks_unread(batch.is_padded):
            output = self.network(**batch.inputs)
        if self.task.is_span:
            ends = torch.stack([output.start_logits, output.end_logits], dim=-1).float()
            # No answer begins or ends in padding: how far a batch is padded must not matter.
            return ends.masked_fill(batch.inputs["attention_mask"][..., None] == 0, -torch.inf)
        return output.logits.float() if self.task.labels else output.logits[:, 0].float()

    def _loss(self, prediction: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy in nats an example (an answer: mean of both ends), or squared error of a score."""
        if self.task.labels or self.task.is_span:
            return nn.functional.cross_entropy(prediction, labels)
        return nn.functional.mse_loss(prediction, labels)

    def training_step(self, batch: TaskBatch, batch_idx: int) -> Tensor:
        return self.training_loss(
            lambda: self._loss(self._predict(batch), batch.labels), self.network, batch.inputs["attention_mask"]
        )

    def on_train_batch_start(self, batch: TaskBatch, batch_idx: int) -> None:
        """Begin an epoch in every regulariser with each pass over the data: Lightning sees the run as one epoch."""
        step, shares = self.trainer.global_step, self.trainer.accumulate_grad_batches
        if step and step % self.datamodule.steps_per_epoch == 0 and batch_idx % shares == 0:
            self.on_train_epoch_start()

    def validation_step(self, batch: TaskBatch, batch_idx: int) -> None:
        prediction, labels = self._predict(batch), batch.labels
        self.quality.update(self._loss(prediction, labels), prediction, labels, batch.owners, batch.covered)

    test_step = validation_step

    def evaluation(self, name: str) -> dict[str, float]:
        return self.quality.compute(self.datamodule.examples[name])


@contextmanager
def masks_unread(is_padded: bool) -> Iterator[None]:
    """Have transformers make masks for sdpa without looking for padding in them, for which the host would wait."""

    make, skips = ALL_MASK_ATTENTION_FUNCTIONS["sdpa"], ("allow_is_causal_skip", "allow_is_bidirectional_skip")
    unread = dict.fromkeys(skips, False) if is_padded else {"attention_mask": None}
    ALL_MASK_ATTENTION_FUNCTIONS["sdpa"] = lambda *args, **options: make(*args, **{**options, **unread})
    try:
        yield
    finally:
        ALL_MASK_ATTENTION_FUNCTIONS["sdpa"] = make


def _auto(task: Task) -> Any:
    return (
        transformers.AutoModelForQuestionAnswering if task.is_span else transformers.AutoModelForSequenceClassification
    )


def _classes(task: Task) -> dict[str, Any]:
    """Return the keys of a configuration that define the outputs of a task's head."""
    outputs: dict[str, Any] = {} if task.is_span else {"num_labels": max(1, len(task.labels))}
    if task.labels:
        names = dict(enumerate(task.labels))
        outputs |= {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    return outputs


def _refuse_incomplete(name: str, network: PreTrainedModel, info: dict[str, Any]) -> None:
    trunk = f"{network.base_model_prefix}."
    keys = [*info["missing_keys"], *(str(key[0]) for key in info.get("mismatched_keys", ()))]
    if missing := sorted(key for key in keys if key.startswith(trunk) and "pooler" not in key):
        raise InputError(
            f"model.checkpoint {name} lacks {len(missing)} weights of {type(network).__name__} ({missing[0]}): they "
            "would be random."
        )


def _sources(checkpoint: str) -> tuple[str, str]:
    """Return where weights and tokenizer are: the same place, except for a run of ours."""
    for folder in (runs.CHECKPOINTS / checkpoint, Path(checkpoint)):
        if (folder / "run.json").is_file() and not (folder / "config.json").is_file():
            saved = list(runs.kept_weights(folder).values())
            if not saved:
                raise InputError(
                    f"model.checkpoint {checkpoint}: this run kept no weights; train it with "
                    "--monitor.keep_weights last."
                )
            return str(saved[-1]), str(folder)
    if checkpoint.startswith((".", "/", "~", f"{runs.CHECKPOINTS}/")) and not Path(checkpoint).is_dir():
        raise InputError(f"model.checkpoint {checkpoint}: there is no such folder.")
    return checkpoint, checkpoint


def _tokenizer(source: str, revision: str) -> Any:
    folder = Path(source)
    files = [path for pattern in ("*token*", "vocab*", "*.model") for path in folder.glob(pattern)]
    if folder.is_dir() and not files:
        raise InputError(f"{source} holds no tokenizer: put that of the model beside its weights.")
    tokenizer = hub.fetch(AutoTokenizer.from_pretrained, source, revision=revision)
    if not tokenizer.is_fast:
        raise InputError(f"the tokenizer of {source} is slow: only fast ones (package tokenizers) are supported.")
    return tokenizer
