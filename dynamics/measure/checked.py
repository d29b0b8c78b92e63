"""The check of a capture, made once for a model's code, configuration and versions, and remembered."""

import hashlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from dynamics import capture
from dynamics.capture import input_device
from dynamics.capture.check import Comparison, Verdict, check
from dynamics.errors import InputError
from dynamics.files import cache_folder, write_text
from dynamics.measure.batches import to_device
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
    key = _key(model, batch, dtype)
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


def _key(model: nn.Module, batch: Mapping[str, Tensor], dtype: torch.dtype | None) -> str:
    """Return a hash of all that decides what is captured: code, configuration, versions, form of the inputs."""
    model = getattr(model, "_orig_mod", model)
    configs = [part.config for part in model.modules() if isinstance(part, PreTrainedModel)]
    facts = [
        (torch.__version__, transformers.__version__, str(dtype)),
        [(config.to_json_string(), config._attn_implementation) for config in configs[:1]],
        [(name, type(part).__qualname__, part.__module__) for name, part in model.named_modules()],
        [(name, x.dtype, x.shape[1:], bool((x == 0).any())) for name, x in sorted(batch.items())],
        *(_source(kind) for kind in sorted({type(part) for part in model.modules()}, key=str) if _is_foreign(kind)),
        *(path.read_text() for path in sorted(Path(capture.__file__).parent.glob("*.py"))),
    ]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def _is_foreign(kind: type) -> bool:
    """Whether the code of a class may change without the version of torch or transformers."""
    return kind.__module__.partition(".")[0] not in ("torch", "transformers")


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # made at run time
        return repr(kind)


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
