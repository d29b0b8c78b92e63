"""The weights of all checkpoints in one pass: a hash of every tensor, and the distances between all of them."""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from dynamics.experiments.audit.weights import Tensors

NUMBERS = 2**24  # of all checkpoints together, in memory at a time
ROUNDED = (torch.float16, torch.bfloat16)  # precisions to which another checkpoint may have been rounded
EXACT = "exact"

Group = tuple[str, int]  # stack (`encoder`, `decoder`; `other`: neither embeddings nor a block) and layer


class TensorHash:
    """The SHA-256 of a tensor's dtype, shape and content, as it is and rounded to 16 bits; it comes in pieces."""

    def __init__(self, tensor: Tensor) -> None:
        self.dtype, self.is_matrix = tensor.dtype, tensor.dim() > 1
        kinds = [self.dtype, *(ROUNDED if self.dtype.is_floating_point and self.dtype.itemsize > 2 else ())]
        self._hashes = {kind: hashlib.sha256(f"{kind}{tuple(tensor.shape)}".encode()) for kind in kinds}
        self.unchanged = set(kinds)  # precisions to which it can be rounded without a change

    def update(self, piece: Tensor) -> None:
        """Take the next piece, of shape (numbers,)."""
        for kind, digest in self._hashes.items():
            rounded = piece.to(kind)
            digest.update(rounded.view(torch.uint8).numpy().data)
            if kind in self.unchanged and kind != self.dtype and not torch.equal(rounded.to(self.dtype), piece):
                self.unchanged.remove(kind)

    def digest(self, kind: torch.dtype | None = None) -> str:
        """Return the hash at a precision; as it is where none is named, or where it has no finer one."""
        return self._hashes.get(kind or self.dtype, self._hashes[self.dtype]).hexdigest()


@dataclass
class Contents:
    """What one pass over n checkpoints returns.

    `squared` (n, n) are squared distances and `norms` (n,) squared norms, for each group of tensors, over the `numbers`
    of the tensors `shared` by all that are `comparable`; they are NaN for the others.
    """

    hashes: list[dict[str, TensorHash]]
    comparable: list[int]
    shared: list[str]
    squared: dict[Group, np.ndarray]
    norms: dict[Group, np.ndarray]
    numbers: dict[Group, int]
    infinite: set[int]  # checkpoints with values that are not finite

    def digest(self, i: int) -> str:
        """Return one hash of a checkpoint, whatever its files and their shards."""
        parts = [f"{name}:{item.digest()}" for name, item in sorted(self.hashes[i].items())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def copies(self) -> dict[tuple[int, int], str]:
        """Return the pairs of equal checkpoints: `exact`, or the precision to which one of both was rounded."""
        pairs: dict[tuple[int, int], str] = {}
        for kind in (None, *ROUNDED):
            keys, coarse = {}, set()
            for i in self.comparable:
                items = [self.hashes[i][name] for name in self.shared]
                keys[i] = [item.digest(kind) for item in items]
                if kind is None or all(kind in item.unchanged or not item.dtype.is_floating_point for item in items):
                    coarse.add(i)
            for i, j in combinations(self.comparable, 2):
                if keys[i] == keys[j] and coarse & {i, j}:
                    pairs.setdefault((i, j), EXACT if kind is None else str(kind).removeprefix("torch."))
        return pairs

    def returning(self, order: Sequence[int]) -> dict[tuple[int, int], int]:
        """Return how many matrices of a checkpoint are those of an earlier one again, while some between differ."""
        pairs: Counter[tuple[int, int]] = Counter()
        for name in self.shared:
            if self.hashes[order[0]][name].is_matrix:
                last: dict[str, int] = {}
                for place, i in enumerate(order):
                    digest = self.hashes[i][name].digest()
                    if digest in last and last[digest] < place - 1:
                        pairs[order[last[digest]], i] += 1
                    last[digest] = place
        return dict(pairs)

    def lacking(self, i: int) -> list[str]:
        """Return the matrices that a checkpoint lacks and others have; one that is tied, or never changes, is none."""
        names = {name for j in self.comparable for name, item in self.hashes[j].items() if item.is_matrix}
        lacking = []
        for name in sorted(names - set(self.hashes[i])):
            holders = [hashes for j in self.comparable if name in (hashes := self.hashes[j])]
            copies = {other for h in holders for other in h if other != name and h[other].digest() == h[name].digest()}
            is_frozen = len(holders) > 1 and len({hashes[name].digest() for hashes in holders}) == 1
            if not is_frozen and not copies & set(self.hashes[i]):
                lacking.append(name)
        return lacking


def compare(checkpoints: Sequence[Tensors], on_share: Callable[[float], None]) -> Contents:
    """Read every tensor of every checkpoint once."""
    count = len(checkpoints)
    comparable, shared = _shared(checkpoints)
    contents = Contents([{} for _ in checkpoints], comparable, shared, {}, {}, {}, set())
    stacks = {stack for stack in ("encoder", "decoder") if any(f"{stack}." in name for name in shared)}
    names = sorted({name for tensors in checkpoints for name in tensors})
    sizes = {name: max(tensors[name].numel() for tensors in checkpoints if name in tensors) for name in names}
    done, total = 0, max(1, sum(sizes.values()))
    for name in names:
        holders = {i: tensors[name].detach().reshape(-1) for i, tensors in enumerate(checkpoints) if name in tensors}
        hashes = {i: TensorHash(checkpoints[i][name]) for i in holders}
        group = group_of(name, len(stacks) > 1)
        if name in shared and group not in contents.squared:
            contents.squared[group], contents.norms[group] = np.zeros((count, count)), np.zeros(count)
        step = max(1024, NUMBERS // count)
        for start in range(0, sizes[name], step):
            pieces = {i: flat[start : start + step].contiguous() for i, flat in holders.items()}
            for i, piece in pieces.items():
                hashes[i].update(piece)
                if not torch.isfinite(piece.double()).all():
                    contents.infinite.add(i)
            if name in shared:
                _add(contents, group, {i: pieces[i] for i in comparable})
            on_share((done + min(start + step, sizes[name])) / total)
        done += sizes[name]
        for i, item in hashes.items():
            contents.hashes[i][name] = item
    others = [i for i in range(count) if i not in comparable]
    for squared in contents.squared.values():
        squared[others], squared[:, others] = np.nan, np.nan
    for norms in contents.norms.values():
        norms[others] = np.nan
    return contents


def _add(contents: Contents, group: Group, pieces: dict[int, Tensor]) -> None:
    """Add the share of one piece to norms and squared distances; the first checkpoint is subtracted for precision."""
    rows = torch.stack([piece.double() for piece in pieces.values()]).nan_to_num(0.0, 0.0, 0.0)
    places = np.array([*pieces])
    contents.norms[group][places] += rows.square().sum(1).numpy()
    rows -= rows[0].clone()
    products = (rows @ rows.T).numpy()
    own = products.diagonal()
    contents.squared[group][np.ix_(places, places)] += np.maximum(own[:, None] + own - 2 * products, 0)
    contents.numbers[group] = contents.numbers.get(group, 0) + rows.shape[1]


def _shared(checkpoints: Sequence[Tensors]) -> tuple[list[int], list[str]]:
    """Return the checkpoints that are like the others, and the tensors that all of these have.

    Usual are names and shapes in at least half of the checkpoints. Those are alike that share more than half of the
    usual numbers with the one that has most of them.
    """
    shapes = [{(name, tuple(tensor.shape)) for name, tensor in tensors.items()} for tensors in checkpoints]
    counts = Counter(item for held in shapes for item in held)
    usual = [{item for item in held if 2 * counts[item] >= len(shapes)} for held in shapes]
    model = max(usual, key=_numbers)
    comparable = [i for i, held in enumerate(usual) if 2 * _numbers(held & model) > _numbers(model)]
    return comparable, sorted(name for name, _ in model.intersection(*(shapes[i] for i in comparable)))


def _numbers(items: Collection[tuple[str, tuple[int, ...]]]) -> int:
    return sum(math.prod(shape) for _, shape in items)


def group_of(name: str, is_pair: bool = False) -> Group:
    """Return where a tensor belongs by its name; of an encoder and a decoder, with its stack.

    >>> group_of("gpt_neox.layers.3.mlp.dense.weight"), group_of("wte.weight"), group_of("lm_head.weight")
    (('', 4), ('', 0), ('other', -1))
    """
    stack = next((part for part in ("encoder", "decoder") if f"{part}." in name), "") if is_pair else ""
    if match := re.search(r"\.(\d+)\.", f".{name}"):
        return stack, int(match[1]) + 1
    is_input = re.search(r"wte|wpe|emb|shared", name) and not re.search(r"embed_out|unembed|lm_head", name)
    return (stack, 0) if is_input else ("other", -1)
