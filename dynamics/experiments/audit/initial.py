"""Step 0 against the initialisation that its configuration declares: a fresh model of the same configuration."""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel

import dynamics.models.transformer  # noqa: F401 (registers our own architecture)
from dynamics import runs
from dynamics.errors import InputError
from dynamics.experiments.audit.contents import Group, group_of
from dynamics.experiments.audit.weights import Tensors
from dynamics.loading.subjects import Subject
from dynamics.models import hub
from dynamics.run_info import FitInfo

MOVED = 1e-3  # least change of a norm or bias that training makes
SPREAD = 3.0  # least spread of a matrix's row norms, over that of a random one, that training makes
SHARE = 0.1  # least share of the tensors that must show it


def against_fresh(subject: Subject, tensors: Tensors, trust_remote_code: bool) -> tuple[str, str, dict[Group, float]]:
    """Return why a step 0 is no untrained model, what else to know, and its standard deviations over the fresh ones.

    Norms and biases must have their initial values, and the rows of matrices the like norms that random ones have.
    Other standard deviations than the configuration declares are a note: libraries that train initialise otherwise.
    """
    info = runs.read(subject.run) if subject.kind == "run" else None
    if isinstance(info, FitInfo) and info.task:
        return "", "step 0 of fine-tuning is a pretrained model: not compared with a fresh one", {}
    try:
        fresh, prefix = _fresh(subject, trust_remote_code)
    except (InputError, ValueError, ImportError, KeyError, AttributeError) as error:
        return "", f"not compared with a fresh model ({' '.join(str(error).split())[:120].rstrip('.')})", {}
    moved, spread, ratios, squares = [], [], [], dict[Group, list[float]]()
    for name, start in fresh.items():
        value = tensors.get(name, tensors.get(prefix + name))
        if value is None or value.shape != start.shape:
            continue
        value = value.float()
        if start.std(correction=0) == 0:
            moved.append((float((value - start).abs().max()), name))
            continue
        now, then = float(value.std(correction=0)), float(start.std(correction=0))
        if abs(now / then - 1) > 0.05 + 6 / (2 * start.numel()) ** 0.5:
            ratios.append(now / then)
        if start.dim() > 1:
            spread.append((_spread(value) / _spread(start), name))
        sums = squares.setdefault(group_of(name), [0.0, 0.0])
        sums[0], sums[1] = sums[0] + now**2 * start.numel(), sums[1] + then**2 * start.numel()
    compared = len(moved) + len(spread)
    if not compared:
        return "", "not compared with a fresh model: none of its tensors bears a name of this one", {}
    found = {group: (now / then) ** 0.5 for group, (now, then) in squares.items()}
    for values, least, what in ((moved, MOVED, "norms and biases"), (spread, SPREAD, "matrices")):
        signs = sorted((item for item in values if item[0] > least), reverse=True)
        if len(signs) > SHARE * len(values):
            return f"{len(signs)} of its {len(values)} {what} are not those of an untrained model", "", found
    low, high = (min(ratios), max(ratios)) if ratios else (1.0, 1.0)
    note = f"untrained, but its standard deviations are {low:.2f} to {high:.2f} times those that its config declares"
    return "", note if ratios else "", found


def _fresh(subject: Subject, trust_remote_code: bool) -> tuple[dict[str, Tensor], str]:
    """Return the parameters of a fresh model without its head, and the prefix that they have where there is a head."""
    settings = {"name": subject.model, "revision": subject.hub_revision if subject.kind == "hub" else ""}
    config = hub.fetch(AutoConfig.from_pretrained, subject.source, **settings, trust_remote_code=trust_remote_code)
    kind: Any = AutoModel
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind.from_config(config, dtype=torch.float32, trust_remote_code=trust_remote_code)
    return {name: value.detach() for name, value in model.named_parameters()}, f"{model.base_model_prefix}."


def _spread(matrix: Tensor) -> float:
    """Return the spread of the rows' mean squares about their mean; no less than that of rounding."""
    rows = matrix.flatten(1).square().mean(1)
    return max(float(rows.std(correction=0) / rows.mean()), 1e-6) if rows.mean() > 0 else 1e-6
