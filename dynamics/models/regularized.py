"""The base of everything that trains: a task loss, and terms that shape the geometry of the network."""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities.enums import GradClipAlgorithmType
from torch import Tensor, nn

from dynamics.capture.listener import Listener
from dynamics.errors import Failure, InputError
from dynamics.models.regularizers import Regularizer

TASK = "task_loss"


class RegularizedModule(L.LightningModule):
    """A LightningModule whose loss may hold regularisers of the residual stream.

    A subclass builds its `network`, says its learning rate (`learning_rate`, `weight_decay` and `betas` are among its
    hyperparameters), takes `regularizers: list[Regularizer] | None = None`, hands it to this constructor, leaves it
    out of `save_hyperparameters(ignore=["regularizers"])`, and returns `training_loss(...)` from `training_step`.
    What overrides `on_save_checkpoint`, `on_load_checkpoint`, `on_train_epoch_start` or `on_before_optimizer_step`
    calls this class's too. The rest is done here: states are heard while the network trains, terms are kept for
    the curves (`train_values`), and a loss or a gradient that is not finite stops the run before it reaches the
    weights. Without regularisers nothing is heard, and training is the same to the bit.

    Args:
        regularizers: terms of the loss besides the task's.
    """

    def __init__(self, regularizers: list[Regularizer] | None = None) -> None:
        super().__init__()
        self.network: nn.Module | None = None
        self.regularizers: dict[str, Regularizer] = {}
        """By the name of their term: `istar`, and `istar_2` where there are two."""
        for regularizer in regularizers or ():
            name = type(regularizer).__name__.lower()
            same = sum(type(known) is type(regularizer) for known in self.regularizers.values())
            self.regularizers[f"{name}_{same + 1}" if same else name] = regularizer
        self.terms: dict[str, Tensor] = {}
        """What the newest loss was made of, detached: the task loss, each term, and what each term measures."""
        self._listener: tuple[nn.Module, Listener] | None = None
        self._unchecked: list[dict[str, Tensor]] = []

    # -- building -------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Build the network once the trainer has set the data up; loading without one builds it from the file."""
        if self.network is None and self._trainer is not None:
            self.build(self.trainer.datamodule)

    def build(self, data: Any) -> None:
        """Set `network` up for a data module, from `seed` alone."""
        raise NotImplementedError

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW, decay on matrices only; the learning rate by step."""
        hparams, parameters = self.hparams, [p for p in self.network.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": hparams.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        try:
            optimizer = torch.optim.AdamW(groups, lr=hparams.learning_rate, betas=hparams.betas, fused=True)
        except ValueError as error:
            raise InputError(f"model.learning_rate, weight_decay or betas: {error}.") from error
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._learning_rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _learning_rate_factor(self, step: int) -> float:
        """Share of the peak learning rate for the update that follows step `step`."""
        raise NotImplementedError

    # -- the loss -------------------------------------------------------------------------------------------

    def training_loss(self, task_loss: Callable[[], Tensor], network: nn.Module, valid: Tensor | None) -> Tensor:
        """The loss of a training step: the task's and every regulariser's.

        Args:
            task_loss: runs the network forward once and gives its loss; nothing else, since the first call may
                be preceded by another, in eval mode, that finds the layers.
            network: the network that it runs (not its compiled form).
            valid: which tokens (B, T) are real; None: all.

        Returns:
            0-d. The sum is in the precision of the losses.

        Raises:
            InputError: a regulariser wants layers that do not exist, or there are fewer than two states.
        """
        if not self.regularizers:
            loss = task_loss()
            self._keep({TASK: loss.detach()}, {})
            return loss
        listener = self._listening(network, task_loss)
        with listener.open() as heard:
            loss = task_loss()
        states = [_tokens(x, valid) for x in heard()]
        terms, measured = {TASK: loss.detach()}, {}
        for name, regularizer in self.regularizers.items():
            with torch.set_grad_enabled(regularizer.weight != 0):
                wanted = regularizer.wanted(len(states))
                value = regularizer.measure([states[layer - 1] for layer in wanted])
                term = regularizer.weight * regularizer.penalty(value)
            if regularizer.weight != 0:
                loss = loss + term
            terms[name] = term.detach()
            measured[name.replace(type(regularizer).__name__.lower(), regularizer.quantity)] = value.detach()
        self._keep(terms, measured)
        return loss

    def train_values(self, values: dict[str, float]) -> dict[str, float]:
        """The `train` rows of one step, made of its `loss` and, with regularisers, its `terms`."""
        return values

    def refuse_layers(self, depth: int) -> None:
        """Refuse regularisers of layers that a network of `depth` layers does not have, before it runs."""
        for regularizer in self.regularizers.values():
            regularizer.wanted(depth)

    def evaluation(self, name: str) -> dict[str, float | Tensor]:
        """What a pass over the split `name` came to, the same on all ranks, and begin anew."""
        raise NotImplementedError

    def on_validation_epoch_end(self) -> None:
        """What the pass came to."""
        self._conclude("validation")

    def on_test_epoch_end(self) -> None:
        """What the pass came to."""
        self._conclude("test")

    def _conclude(self, name: str) -> None:
        # logger=False: the curves go to the loggers with the step that they belong to (see `curves.py`).
        values = {f"{name}/{metric}": value for metric, value in self.evaluation(name).items()}
        self.log_dict(values, logger=False)

    # -- hooks ----------------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        """Tell the regularisers."""
        for regularizer in self.regularizers.values():
            regularizer.on_epoch()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Stop before an update that would spoil the weights.

        Raises:
            Failure: a term of the loss, or the gradient, is not finite.
        """
        shares, self._unchecked = self._unchecked, []
        if not shares:
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        # Scaled half-precision gradients overflow now and then, and their scaler leaves such updates out.
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        norm = torch.nn.utils.get_total_norm(gradients) if gradients and not scaled else None
        values = [value for terms in shares for value in terms.values()] + ([] if norm is None else [norm])
        flags = torch.stack([~value.isfinite() for value in values]).int()
        if dist.is_initialized():
            dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        if not flags.any():
            return
        names = [name for terms in shares for name in terms] + ["gradient"]
        first = int(flags.nonzero()[0])
        what = {TASK: "the task loss", "gradient": "the gradient of the loss"}.get(names[first], names[first])
        others = ", ".join(
            f"{name} {value:.4g}" for name, value in zip(names, values, strict=False) if name != names[first]
        )
        found = "not finite (on another rank)" if values[first].isfinite() else f"{values[first]:.4g}"
        raise Failure(
            f"{what} was the first to be {found}, at step {self.trainer.global_step + 1} ({others}): the update "
            "was not made."
        )

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip also under bf16, where Lightning refuses fused optimisers though there is no scaler to mind."""
        plugin = self.trainer.precision_plugin
        if isinstance(plugin, MixedPrecision) and plugin.scaler is None:
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val or 0.0, algorithm)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the state of the regularisers, and of the first rank's generators."""
        checkpoint["rng"] = torch.get_rng_state()
        if torch.cuda.is_available():
            checkpoint["cuda_rng"] = torch.cuda.get_rng_state()
        checkpoint["regularizers"] = {name: r.state_dict() for name, r in self.regularizers.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put them back, last of all: building draws; a regulariser that is new starts afresh."""
        torch.set_rng_state(checkpoint["rng"].cpu())
        if "cuda_rng" in checkpoint and torch.cuda.is_available():
            torch.cuda.set_rng_state(checkpoint["cuda_rng"].cpu())
        for name, state in checkpoint.get("regularizers", {}).items():
            if name in self.regularizers and state:
                self.regularizers[name].load_state_dict(state)

    # -- inside ---------------------------------------------------------------------------------------------

    def _listening(self, network: nn.Module, forward: Callable[[], Any]) -> Listener:
        if self._listener is None or self._listener[0] is not network:
            listener = Listener(network, forward)
            self.refuse_layers(listener.layers)
            self._listener = network, listener
        return self._listener[1]

    def _keep(self, terms: dict[str, Tensor], measured: dict[str, Tensor]) -> None:
        if self._trainer is not None:  # else nobody checks them
            self._unchecked.append(terms)
        self.terms = {**terms, **measured} if self.regularizers else {}


def _tokens(x: Tensor, valid: Tensor | None) -> Tensor:
    """The real tokens (n, d) of states (B, T, d)."""
    if valid is None:
        return x.flatten(0, 1)
    if valid.shape != x.shape[:2]:
        raise InputError(
            f"a layer has states of shape {tuple(x.shape[:2])} where {tuple(valid.shape)} tokens are marked as real: "
            "regularisers need as many states as tokens."
        )
    return x[valid.bool()]
