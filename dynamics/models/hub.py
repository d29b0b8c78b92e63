"""Loading from the hub or a folder by transformers; what goes wrong becomes one sentence."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedConfig

from dynamics.errors import InputError
from dynamics.readers import refuse_damaged_in

# What the hub's errors say of a model that is neither on this machine nor within reach.
UNREACHABLE = ("connect", "not a local folder", "offline", "cached snapshot")


def fetch(call: Callable[..., Any], source: str, *, name: str = "", revision: str = "", **settings: Any) -> Any:
    """Return `call(source, **settings)`, for a `from_pretrained` of transformers; errors say `name` for the source."""
    name, can_trust = name or source, "trust_remote_code" in settings
    if getattr(call, "__name__", "") == "from_pretrained":  # else transformers asks on a terminal whether to run code
        settings = {"trust_remote_code": False} | settings
    refuse_damaged_in(Path(source), f"restore it from a copy: {name} is not loaded")
    try:
        product = call(source, **settings, **({"revision": revision} if revision else {}))
        if kernel := next(_kernels(product), ""):
            raise InputError(
                f"{name} names {kernel} for its attention, code that is not run: remove it from config.json."
            )
        return product
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        raise InputError(
            f"the weights of {name} are pickled and hold more than tensors: they could run code and are "
            "not loaded; save them as safetensors."
        ) from error
    except SafetensorError as error:
        raise InputError(f"the weights of {name} are damaged ({error}): fetch them again.") from error
    except RuntimeError as error:
        if "mismatched_sizes" not in str(error):
            raise
        raise InputError(
            f"the weights of {name} have other sizes than its config.json states: fix one of the two."
        ) from error
    except Exception as error:  # transformers trips over whatever its files make it trip over, or lacks a package
        message = " ".join(str(error).split()) or type(error).__name__
        if "trust_remote_code" in message:
            hint = ": add --trust_remote_code if you trust it" if can_trust else ""
            raise InputError(f"{name} brings its own code, which is not run by default{hint}.") from error
        raise InputError(_explain(message, source, name, revision)) from error


def _kernels(config: Any) -> Iterator[str]:
    """Yield the attentions that a configuration, or a part of it, names as repositories of compiled code."""
    if isinstance(config, PreTrainedConfig):
        if "/" in (implementation := str(config._attn_implementation)):
            yield implementation
        for part in config.sub_configs:
            yield from _kernels(getattr(config, part, None))


def _explain(message: str, source: str, name: str, revision: str) -> str:
    if "git identifier" in message or "Revision Not Found" in message:
        return f"{name} has no revision {revision}: see its branches on the hub."
    if not Path(source).exists() and any(part in message for part in UNREACHABLE):
        at, option = (f" at {revision}", f" --revision {revision}") if revision else ("", "")
        return (
            f"{name}{at} is neither a folder here nor in the cache of the hub, and cannot be fetched now: where "
            f"there is a network, run `hf download {source}{option}`."
        )
    return f"{name} cannot be loaded: {message[:300].rstrip('.')}."
