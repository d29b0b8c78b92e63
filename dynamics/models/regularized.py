"""Regularised training: a task loss and terms of the network's geometry. The base of everything that trains."""

from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dynamics import lightning_compat
from dynamics.capture.listener import Listener
from dynamics.errors import Failure, InputError
from dynamics.metrics.streaming.base import gathered
from dynamics.metrics.streaming.ranks import are_several, rank
from dynamics.models import optimizers
from dynamics.models.guard import TASK, Guard
from dynamics.models.regularizers import Regularizer
from dynamics.sharded import whole


class RegularizedModule(L.LightningModule):
    """A LightningModule whose loss may hold regularisers of the residual stream.

    A subclass builds its `network`, defines its learning rate (`optimizer`, `learning_rate`, `weight_decay` and `betas`
    are among its hyperparameters), passes `regularizers` to this constructor, leaves them out of
    `save_hyperparameters(ignore=["regularizers"])`, and returns `training_loss(...)` from `training_step`. Its hooks
    call those of this class. The states are recorded while the network trains, the terms kept for the curves
    (`train_values`), and the run stops before a loss or a gradient that is not finite reaches the weights. Without
    regularisers nothing is recorded, and training is the same to the bit.
    """

    hparams: Any
    network: PreTrainedModel  # set by `build`, or by loading a checkpoint

    def __init__(self, regularizers: list[Regularizer] | None = None) -> None:
        super().__init__()
        self.regularizers: dict[str, Regularizer] = {}  # by term: `istar`, and `istar_2` where there are two
        for regularizer in regularizers or ():
            name = type(regularizer).__name__.lower()
            same = sum(type(other) is type(regularizer) for other in self.regularizers.values())
            self.regularizers[f"{name}_{same + 1}" if same else name] = regularizer
        # Parts of the newest loss, detached: the task loss, each term, and the quantity that each term is made of.
        self.terms: dict[str, Tensor] = {}
        self._listener: tuple[nn.Module, Listener] | None = None
        self.guard = Guard()
        self._unchecked: list[dict[str, Tensor]] = []

    @property
    def datamodule(self) -> Any:
        return lightning_compat.get_datamodule(self.trainer)

    def configure_model(self) -> None:
        """Build the network once the trainer has set the data up; without a trainer the checkpoint is its source."""
        if not hasattr(self, "network") and lightning_compat.has_trainer(self):
            self.build(self.datamodule)
        if lightning_compat.has_trainer(self) and not type(self.network).__module__.startswith("dynamics."):
            # an architecture of transformers may hold parameters that this loss does not reach
            lightning_compat.find_unused_parameters(self.trainer)

    def build(self, data: Any) -> None:
        """Set `network` up for a data module, from `seed` alone."""
        raise NotImplementedError

    def configure_optimizers(self) -> Any:
        """Return the optimiser, with decay on matrices only, and the learning rate by step."""
        of = self.hparams
        optimizer = optimizers.make(of.optimizer, self.network, of.learning_rate, of.weight_decay, of.betas)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.learning_rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def learning_rate_factor(self, step: int) -> float:
        """Return the share of the peak learning rate for the update that follows step `step`."""
        raise NotImplementedError

    def training_loss(self, task_loss: Callable[[], Tensor], network: nn.Module, valid: Tensor | None) -> Tensor:
        """Return the loss of a training step: the task's and every regulariser's.

        Args:
            task_loss: runs the network forward once and returns its loss; nothing else, since the first call may
                be preceded by another, in eval mode, that finds the layers.
            network: the network that it runs (not its compiled form).
            valid: which tokens (B, T) are real; None: all.
        """
        if not self.regularizers:
            loss = task_loss()
            self._store({TASK: loss.detach()}, {})
            return loss
        with self._listen(network, task_loss).open() as recorded:
            loss = task_loss()
        states = [_real_tokens(x, valid) for x in recorded()]
        terms, quantities = {TASK: loss.detach()}, {}
        for name, regularizer in self.regularizers.items():
            with torch.set_grad_enabled(regularizer.weight != 0):
                layers = regularizer.wanted(len(states))
                value = regularizer.measure([states[layer - 1] for layer in layers])
                term = regularizer.weight * regularizer.penalty(value)
            if regularizer.weight != 0:
                loss = loss + term
            terms[name] = term.detach()
            quantities[name.replace(type(regularizer).__name__.lower(), regularizer.quantity)] = value.detach()
        self._store(terms, quantities)
        return loss

    def _listen(self, network: nn.Module, forward: Callable[[], Any]) -> Listener:
        if self._listener is None or self._listener[0] is not network:
            listener = Listener(network, forward)
            self.refuse_layers(listener.layers)
            self._listener = network, listener
        return self._listener[1]

    def _store(self, terms: dict[str, Tensor], quantities: dict[str, Tensor]) -> None:
        if lightning_compat.has_trainer(self):  # else no update follows that would check them
            self._unchecked.append(terms)
        self.terms = {**terms, **quantities} if self.regularizers else {}

    def train_values(self, values: dict[str, float]) -> dict[str, float]:
        """Return the `train` rows of one step, from its `loss` and, with regularisers, its `terms`."""
        return values

    def refuse_layers(self, depth: int) -> None:
        """Refuse regularisers of layers that a network of `depth` layers does not have, before it runs."""
        for regularizer in self.regularizers.values():
            regularizer.wanted(depth)

    def evaluation(self, name: str) -> Mapping[str, float | Tensor]:
        """Return the results of a pass over the split `name`, the same on all ranks, and reset them."""
        raise NotImplementedError

    def on_test_epoch_end(self) -> None:
        self.on_validation_epoch_end("test")

    def on_validation_epoch_end(self, name: str = "validation") -> None:
        """Log the results of a pass over the split `name`."""
        # logger=False: the curves go to the loggers with the step that they belong to (see `curves.py`).
        self.log_dict({f"{name}/{metric}": value for metric, value in self.evaluation(name).items()}, logger=False)

    def on_train_epoch_start(self) -> None:
        for regularizer in self.regularizers.values():
            regularizer.on_epoch()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Have the update skipped that would spoil the weights: a term of the loss, or the gradient, is not finite."""
        shares, self._unchecked = self._unchecked, []
        terms = [term for share in shares for term in share.items()]
        if terms:
            self.guard.before_update(
                optimizer, self.trainer.global_step + 1, terms, lightning_compat.scales_gradients(self.trainer)
            )

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if lightning_compat.scales_gradients(self.trainer):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_algorithm in (None, "norm"):
            self.guard.clip(optimizer, gradient_clip_val)
        else:
            lightning_compat.clip_by_value(self, optimizer, gradient_clip_val)

    def on_train_start(self) -> None:
        """Have every rank drop out other states: they start from one seed."""
        if rank() > 0 and self.trainer.global_step == 0:
            torch.manual_seed(self.hparams.seed + rank())

    def on_train_end(self) -> None:
        self.guard.read()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the state of the regularisers, and of all ranks' generators; a failed run saves nothing.

        Raises:
            Failure: weights are not finite, or an update was not: the newest state stays the last good one.
        """
        self.guard.read()
        self._refuse_weights()
        checkpoint["skipped"] = self.guard.skipped
        checkpoint["rng"] = torch.get_rng_state()
        if torch.cuda.is_available():
            checkpoint["cuda_rng"] = torch.cuda.get_rng_state()
        if are_several():  # the first rank's under its own names, for a run that goes on with one
            kinds = [kind for kind in ("rng", "cuda_rng") if kind in checkpoint]
            checkpoint["of_ranks"] = {kind: torch.stack(gathered(checkpoint[kind])) for kind in kinds}
        checkpoint["regularizers"] = {name: r.state_dict() for name, r in self.regularizers.items()}

    def _refuse_weights(self) -> None:
        weights = [weight.detach() for weight in self.network.parameters()]
        if not whole(torch.nn.utils.get_total_norm(weights)).isfinite():
            bad = (name for name, x in self.network.named_parameters() if not whole(x.isfinite().all()))
            name = next(bad, "(their norm)")
            raise Failure(f"the weights {name} are not finite at step {self.trainer.global_step}: no state is saved.")

    def _keep_settings(self, checkpoint: dict[str, Any]) -> None:
        """Have the optimiser keep the settings of this configuration: a state brings what it has accumulated.

        They differ in a fork alone, and in a run that is prolonged, whose learning rate follows its last step.
        """
        ours = self.configure_optimizers()
        groups, peaks = ours["optimizer"].param_groups, ours["lr_scheduler"]["scheduler"].base_lrs
        (optimizer,), (saved,) = checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
        factor = self.learning_rate_factor(saved["last_epoch"])
        rates = [peak * factor for peak in peaks]
        saved |= {"base_lrs": peaks, "_last_lr": rates}
        for group, our_group, rate in zip(optimizer["param_groups"], groups, rates, strict=True):
            group |= {key: value for key, value in our_group.items() if key in group and key != "params"} | {"lr": rate}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore them, last of all, since building draws; a regulariser that is new starts from nothing."""
        if checkpoint.get("optimizer_states") and lightning_compat.has_trainer(self):
            self._keep_settings(checkpoint)
        self.guard.skipped = checkpoint.get("skipped", {})
        of_ranks, mine = checkpoint.get("of_ranks", {}), rank()
        kept = {kind: x[mine].clone() for kind, x in of_ranks.items() if mine < len(x)}
        kept = kept or (checkpoint if mine == 0 else {})
        if "rng" in kept:
            torch.set_rng_state(kept["rng"].cpu())
        else:  # a rank that the run did not have
            torch.manual_seed(hash((self.hparams.seed, mine, checkpoint["global_step"])) % 2**63)
        if "cuda_rng" in kept and torch.cuda.is_available():
            torch.cuda.set_rng_state(kept["cuda_rng"].cpu())
        for name, state in checkpoint.get("regularizers", {}).items():
            if name in self.regularizers and state:
                self.regularizers[name].load_state_dict(state)


def _real_tokens(x: Tensor, valid: Tensor | None) -> Tensor:
    """Return the real tokens (n, d) of states (B, T, d)."""
    if valid is None:
        return x.flatten(0, 1)
    if valid.shape != x.shape[:2]:
        raise InputError(
            f"a layer has states of shape {tuple(x.shape[:2])} where {tuple(valid.shape)} tokens are marked as real: "
            "regularisers need as many states as tokens."
        )
    return x[valid.bool()]
