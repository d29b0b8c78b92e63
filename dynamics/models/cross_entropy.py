"""Cross-entropy under a linear head; of large vocabularies without ever holding all logits.

These are made for some positions at a time and used up at once, since the gradient follows from them (Liger Kernel, Hsu
et al. 2024, 2410.10989): as many products as otherwise, and a share of the memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dynamics.capture.state import held_still

LARGE = 2**26  # logits, 256 MB in float32, of which a step would hold several copies
POSITIONS = 1024  # whose logits are made at once: enough for a matrix product at full speed


def is_large(positions: int, head: nn.Linear) -> bool:
    return positions * head.out_features > LARGE


def cross_entropy(head: nn.Linear | None, states: Float[Tensor, "B T D"], targets: Int[Tensor, "B T"]) -> Tensor:
    """Return the mean cross-entropy in nats of `targets` under the logits `head(states)`; without head, `states`."""
    states, targets = states.flatten(0, 1), targets.flatten()
    if head is None or not is_large(len(states), head):
        return nn.functional.cross_entropy((head(states) if head else states).float(), targets)
    device = states.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
    loss: Tensor = _InParts.apply(states, head.weight, head.bias, targets, dtype, torch.is_grad_enabled())
    return loss


class _InParts(torch.autograd.Function):
    """The loss and, where wanted, its gradients, which are computed on the way forward."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, dtype: Any, is_training: bool
    ) -> Tensor:
        matrix, offset = weight.to(dtype), None if bias is None else bias.to(dtype)
        total, of_states = states.new_zeros((), dtype=torch.float32), []
        of_weight, of_bias = torch.zeros_like(weight), None if bias is None else torch.zeros_like(bias)
        for x, target in zip(states.to(dtype).split(POSITIONS), targets[:, None].split(POSITIONS), strict=True):
            logits = nn.functional.linear(x, matrix, offset).float()
            log_sums = logits.logsumexp(-1, keepdim=True)
            entropies = log_sums - logits.gather(-1, target)
            total += entropies.sum()
            if is_training:
                # The gradient: probabilities, less 1 at the target.
                gradient = logits.sub_(log_sums).exp_().scatter_(-1, target, (-entropies).expm1()).to(dtype)
                of_states.append(gradient @ matrix)
                of_weight += gradient.T @ x
                if of_bias is not None:
                    of_bias += gradient.sum(0)
        if is_training:
            ctx.save_for_backward(torch.cat(of_states).to(states.dtype), of_weight, of_bias)
        ctx.count = len(states)
        return total / len(states)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        scale = gradient / ctx.count
        return *(None if part is None else part * scale for part in ctx.saved_tensors), None, None, None


def ends_in_head(network: Any) -> bool:
    """Return whether the logits of a network of transformers are the outputs of its linear head, and nothing else."""
    head, outputs = network.get_output_embeddings(), []
    if type(head) is not nn.Linear:
        return False
    hook = head.register_forward_hook(lambda module, args, output: outputs.append((output.data_ptr(), output.clone())))
    try:
        with held_still(network):
            logits = network(input_ids=torch.arange(2, device=head.weight.device)[None]).logits
    except Exception:  # every architecture raises its own where it cannot run two tokens
        return False
    finally:
        hook.remove()
    return len(outputs) == 1 and logits.data_ptr() == outputs[0][0] and torch.equal(logits, outputs[0][1])


@contextmanager
def left_out(head: nn.Linear) -> Iterator[None]:
    """Have a network return what enters its head in the place of logits."""
    head.forward = lambda states: states  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del head.forward
