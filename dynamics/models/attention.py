"""Attention in bfloat16 on a CPU: torch's kernel forward, and backward its float32 kernel, which is twice as fast."""

from typing import Any

import torch
from torch import Tensor

KERNEL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def applies(query: Tensor, mask: Tensor | None, dropout: float) -> bool:
    """Return whether `attend` computes what sdpa would, and is faster."""
    return query.dtype == torch.bfloat16 and query.device.type == "cpu" and mask is None and not dropout


def attend(query: Tensor, key: Tensor, value: Tensor, is_causal: bool, scaling: float) -> Tensor:
    """Return softmax(query key^T scaling) value (B, T, H, K), of tensors (B, H, T, K), with a causal mask or none."""
    mixed: Tensor = _Attention.apply(query, key, value, is_causal, scaling)
    return mixed.transpose(1, 2)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, is_causal: bool, scaling: float) -> Tensor:
        mixed, log_sums = KERNEL(query, key, value, 0.0, is_causal, scale=scaling)
        ctx.save_for_backward(query, key, value, mixed, log_sums)
        ctx.is_causal, ctx.scaling = is_causal, scaling
        return mixed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs = (x.float() for x in (gradient, *ctx.saved_tensors))
        gradients = BACKWARD(*inputs, 0.0, ctx.is_causal, scale=ctx.scaling)
        return *(x.to(gradient.dtype) for x in gradients), None, None
