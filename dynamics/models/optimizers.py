"""The optimisers of a run, by name. Each obeys `guard.py`: `found_inf` skips an update, `grad_scale` divides gradients.

- `adamw`: Adam with decoupled weight decay of the matrices (Loshchilov and Hutter, arXiv 1711.05101).
- `adam`: the same without decay (Kingma and Ba, arXiv 1412.6980); an L2 term in the gradient would be another thing:
  Adam divides it by the root of the second moment.
- `sgd`: with momentum, the first of the betas, and no decay.
- `muon`: the matrices of hidden layers take orthogonalised steps (Jordan, kellerjordan.github.io/posts/muon), scaled to
  the size of AdamW's and decayed as by it (Liu et al., arXiv 2502.16982); embeddings, the head, norms and biases are
  AdamW's.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Muon, Optimizer

from dynamics.errors import InputError

NAMES = ("adamw", "adam", "sgd", "muon")
DECAYING = ("adamw", "muon")


def refuse(name: str, weight_decay: float, default: float) -> None:
    """Refuse an unknown optimiser, and a weight decay that one has no use for."""
    if name not in NAMES:
        raise InputError(f"model.optimizer must be one of {', '.join(NAMES)} (got {name}).")
    if name not in DECAYING and weight_decay not in (0, default):
        raise InputError(f"model.weight_decay has no effect on optimizer {name}; remove it, or choose adamw or muon.")


def make(
    name: str, network: nn.Module, learning_rate: float, weight_decay: float, betas: tuple[float, float]
) -> Optimizer:
    """Return an optimiser of every parameter of a network, those that are frozen too: they have no gradient.

    Raises:
        InputError: torch refuses the learning rate, the decay or the betas.
    """
    parameters = list(network.parameters())
    matrices, vectors = ([p for p in parameters if (p.ndim >= 2) == is_matrix] for is_matrix in (True, False))
    decay = weight_decay if name in DECAYING else 0.0
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    try:
        if name == "sgd":
            optimizer = SGD(groups, lr=learning_rate, momentum=betas[0], fused=True)
            for p in parameters:  # else an update that is skipped first of all leaves momentum of any number
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
            return optimizer
        if name == "muon":
            hidden = _hidden(network)
            groups[0]["params"] = [p for p in matrices if not any(p is other for other in hidden)]
            return MuonWithAdamW(hidden, groups, learning_rate, weight_decay, betas)
        kind = Adam if name == "adam" else AdamW
        return kind(groups, lr=learning_rate, betas=betas, fused=True)
    except ValueError as error:
        raise InputError(f"model.learning_rate, weight_decay or betas: {error}.") from error


def _hidden(network: nn.Module) -> list[nn.Parameter]:
    """Return the matrices of hidden layers: neither of embeddings nor of the head."""
    ends = [module for module in network.modules() if isinstance(module, nn.Embedding)]
    head = getattr(network, "get_output_embeddings", lambda: None)()
    outer = {id(p) for module in (*ends, head) if module is not None for p in module.parameters()}
    return [p for p in network.parameters() if p.ndim == 2 and id(p) not in outer]


class MuonWithAdamW(Optimizer):
    """torch's Muon for some matrices and its fused AdamW for the rest, with one state and one list of groups."""

    def __init__(
        self,
        hidden: Sequence[nn.Parameter],
        others: list[dict[str, Any]],
        learning_rate: float,
        weight_decay: float,
        betas: tuple[float, float],
    ) -> None:
        self._muon = Muon(hidden, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self._adamw = AdamW(others, lr=learning_rate, betas=betas, fused=True)
        super().__init__([*self._muon.param_groups, *self._adamw.param_groups], {})
        for p in hidden:
            self.state[p]["momentum_buffer"] = torch.zeros_like(p)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one update of everything, or none if it is bad, without waiting for the device."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part, groups in ((self._muon, self.param_groups[:1]), (self._adamw, self.param_groups[1:])):
            part.param_groups, part.state = groups, self.state  # loading a state replaces both
        bad: Tensor | None = getattr(self, "found_inf", None)
        scale: Tensor | None = getattr(self, "grad_scale", None)
        self._adamw.found_inf, self._adamw.grad_scale = bad, scale  # type: ignore[attr-defined]
        self._adamw.step()
        moved = [p for p in self.param_groups[0]["params"] if p.grad is not None]
        if scale is not None:
            torch._foreach_div_([p.grad for p in moved], scale)
        written: list[Tensor] = [*moved, *(self.state[p]["momentum_buffer"] for p in moved)]
        before = [x.clone() for x in written] if bad is not None else []
        self._muon.step()
        if bad is not None:
            for x, old in zip(written, before, strict=True):
                x.copy_(torch.where(bad == 0, x, old))
        return loss
