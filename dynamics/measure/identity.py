"""What decides the rows of a model: hashes that tell whether something from before still holds."""

import hashlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torchmetrics
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from dynamics import capture, metrics
from dynamics.errors import InputError
from dynamics.measure.suite import Suite


def of_capture(model: nn.Module, batch: Mapping[str, Tensor], dtype: torch.dtype | None) -> str:
    """Return a hash of all that decides what is captured: code, configuration, versions, form of the inputs."""
    model = getattr(model, "_orig_mod", model)
    configs = [part.config for part in model.modules() if isinstance(part, PreTrainedModel)]
    facts = [
        (torch.__version__, transformers.__version__, str(dtype)),
        [(config.to_json_string(), config._attn_implementation) for config in configs[:1]],
        [(name, type(part).__qualname__, part.__module__) for name, part in model.named_modules()],
        [(name, x.dtype, x.shape[1:], bool((x == 0).any())) for name, x in sorted(batch.items())],
        *_sources(type(part) for part in model.modules()),
        *_files(capture.__file__),
    ]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def of_states(model: nn.Module, suite: Suite, device: torch.device, mask: str | None) -> str:
    """Return a hash of all but the batches that decides what a meter holds; raises `InputError` where it cannot."""
    kinds = {kind for entry in suite.entries for kind in type(entry.metric()).__mro__}
    own = (kind for kind in kinds if kind.__module__.partition(".")[0] not in ("dynamics", "torchmetrics", "builtins"))
    facts: list[Any] = [suite.describe(), str(device), mask, of_capture(model, {}, None), torchmetrics.__version__]
    facts += [*_sources(own), *_files(__file__), *_files(metrics.__file__)]
    facts += [(x.dtype, x.shape, hashlib.sha256(content(x)).digest()) for x in _weights(model)]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def _weights(model: nn.Module) -> Iterator[Tensor]:
    """Yield weights and buffers; those that are offloaded from where accelerate keeps them."""
    for module in model.modules():
        hook = getattr(module, "_hf_hook", None)
        maps = [getattr(part, "weights_map", None) for part in (hook, *getattr(hook, "hooks", ()))]
        for name, x in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            weight = next((kept[name] for kept in maps if x.is_meta and kept is not None), x.detach())
            if weight.is_meta:
                raise InputError("weights are offloaded to where they cannot be read")
            yield weight


def content(x: Tensor) -> memoryview:
    """Return the bytes of a tensor."""
    return x.cpu().contiguous().view(-1).view(torch.uint8).numpy().data


def _sources(kinds: Iterable[type]) -> list[str]:
    """Return the code of those classes whose code may change without the version of torch or transformers."""
    foreign = {kind for kind in kinds if kind.__module__.partition(".")[0] not in ("torch", "transformers")}
    return [_source(kind) for kind in sorted(foreign, key=str)]


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # made at run time
        return repr(kind)


def _files(package: str | None) -> list[str]:
    """Return the code of a package."""
    return [path.read_text() for path in sorted(Path(str(package)).parent.rglob("*.py"))]
