"""MLM masks by hashing: a position's draw is a function of seed, step and place alone, equal on every device.

Integer arithmetic only, in tensors of the device that the batch is on: the host waits for nothing.
"""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

MASKED_SHARE = 0.15
# SplitMix64 (Steele, Lea and Flood 2014, doi 10.1145/2714064.2660195): the step of its counter, then the shift and the
# factor of every round of its output function. Factors are signed: int64 products wrap.
GAMMA = 0x9E3779B97F4A7C15 - 2**64
ROUNDS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64), (31, 1))


def draws(seed: int, stream: int, step: int, places: Int[Tensor, "*any"]) -> Int[Tensor, "*any"]:
    """Return 64 random bits for every place of a step, one number that repeats for the same arguments alone."""
    bits = int(np.random.SeedSequence((seed, stream, step)).generate_state(1, np.uint64).view(np.int64)[0])
    z = places * GAMMA + bits
    for shift, factor in ROUNDS:
        z = (z ^ (z >> shift & 2 ** (64 - shift) - 1)) * factor  # int64 shifts repeat the sign, which is cut off
    return z


def corrupt(
    ids: Int[Tensor, "B T"], bits: Int[Tensor, "B T"], mask_id: int, characters: int
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B M"], Int[Tensor, "B M"]]:
    """Mask token ids for the MLM objective (BERT, 1810.04805, section 3.1).

    The M = round(0.15 T) positions of a window whose `draws` are least are chosen: of these, each becomes `<mask>` with
    probability 0.8, a uniform random character (an id below `characters`) with 0.1, and stays with 0.1, by the
    lowest bits of its draw, which say nothing of its rank.

    Returns:
        The corrupted ids, the chosen positions, in random order, and what stood there.
    """
    bits, positions = bits.sort(dim=1, stable=True)
    bits, positions = (x[:, : round(MASKED_SHARE * ids.shape[1])] for x in (bits & 2**31 - 1, positions))
    kept, fate = ids.gather(1, positions), bits % 10
    random = torch.where(fate == 8, bits // 10 % characters, kept)
    return ids.scatter(1, positions, random.masked_fill(fate < 8, mask_id)), positions, kept
