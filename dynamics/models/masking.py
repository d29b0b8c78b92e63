"""MLM masks by hashing: a position's draw is a function of seed, step and place alone, equal on every device.

Integer arithmetic only, in tensors of the device that the batch is on: the host waits for nothing. A device draws the
masks of some steps at once, since a draw is many small kernels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dynamics.data.shares import pinned
from dynamics.metrics.streaming.sampling import GAMMA, splitmix64

MASKED_SHARE = 0.15


class Masks(NamedTuple):
    """What the MLM objective does to windows of T tokens, of which M are chosen, whatever they hold."""

    positions: Int[Tensor, "*any M"]  # the chosen ones, in random order
    replacements: Int[Tensor, "*any T"]  # what stands in the place of a token
    stays: Bool[Tensor, "*any T"]  # the tokens that none replaces


def draws(seed: int, stream: int, steps: Sequence[int], places: Int[Tensor, "*any"]) -> Int[Tensor, "S ..."]:
    """Return 64 random bits for every place of each of some steps, which repeat for the same arguments alone."""
    starts = [np.random.SeedSequence((seed, stream, step)).generate_state(1, np.uint64)[0] for step in steps]
    bits = pinned(torch.tensor(np.array(starts).view(np.int64))).to(places.device, non_blocking=True)
    return splitmix64(places * GAMMA + bits.view(-1, *[1] * places.ndim))


def choose(bits: Int[Tensor, "*any T"], mask_id: int, characters: int) -> Masks:
    """Return the masks of windows (BERT, 1810.04805, section 3.1) from their `draws`.

    The M = round(0.15 T) positions of a window whose draws are least are chosen: of these, each becomes `<mask>` with
    probability 0.8, a uniform random character (an id below `characters`) with 0.1, and stays with 0.1, by the
    lowest bits of its draw, which say nothing of its rank.
    """
    stays, chosen = torch.ones_like(bits, dtype=torch.bool), round(MASKED_SHARE * bits.shape[-1])
    bits, positions = bits.sort(dim=-1, stable=True)
    bits, positions = bits[..., :chosen] & 2**31 - 1, positions[..., :chosen].contiguous()
    fate = bits % 10
    shown = (bits // 10 % characters).masked_fill(fate < 8, mask_id)
    replacements = torch.zeros_like(stays, dtype=torch.int64).scatter(-1, positions, shown)
    return Masks(positions, replacements, stays.scatter(-1, positions, fate == 9))


def corrupt(ids: Int[Tensor, "B T"], masks: Masks) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B M"], Int[Tensor, "B M"]]:
    """Return the corrupted ids, the chosen positions and what stood there."""
    return torch.where(masks.stays, ids, masks.replacements), masks.positions, ids.gather(1, masks.positions)
