"""The check of a capture, made once for a model's code, configuration and versions, and remembered."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from dynamics.capture import input_device
from dynamics.capture.check import Comparison, Verdict, check
from dynamics.errors import InputError
from dynamics.files import cache_folder, write_text
from dynamics.measure.batches import to_device
from dynamics.measure.identity import of_capture
from dynamics.measure.measurement import exact
from dynamics.readers import read_json

_VERDICTS: dict[str, Verdict] = {}


def checked(
    model: nn.Module, batch: Mapping[str, Tensor], name: str, dtype: torch.dtype | None = torch.float32
) -> Verdict:
    """Return the verdict on what is captured of a model, from a slice of its first batch or from an earlier check.

    Args:
        name: what the model is called in an error.
        dtype: precision that it is measured in; None keeps its own.

    Raises:
        InputError: something that is captured disagrees with what the model computes.
    """
    key = of_capture(model, batch, dtype)
    path = cache_folder() / "checks" / f"{key}.json"
    if key not in _VERDICTS:
        verdict = _read(path)
        if verdict is None:
            with exact(model, dtype) as network:
                verdict = check(network, to_device(batch, input_device(network)))
            _write(path, verdict)
        _VERDICTS[key] = verdict
    _VERDICTS[key].refuse(name)
    return _VERDICTS[key]


def _read(path: Path) -> Verdict | None:
    if not path.is_file():
        return None
    try:
        rows = read_json(path, list[tuple[str, str, float, str, str]], "")
    except InputError:
        return None  # the check is made again
    return Verdict(tuple(Comparison(*row) for row in rows))


def _write(path: Path, verdict: Verdict) -> None:
    try:
        write_text(path, json.dumps(verdict.comparisons))
    except OSError as error:
        raise InputError(
            f"the cache folder {path.parent} cannot be used ({error}): make room, or set DYNAMICS_CACHE to another."
        ) from error
