"""The quantities, found by name.

A quantity lives in the module that bears its name, as a function of that name and as the streaming `Metric`
whose class bears it too: `anisotropy.anisotropy(x)` and `anisotropy.Anisotropy`. Nothing here imports one
before it is asked for: a new file is a new metric.

>>> resolve("mean_cosine").name
'mean_cosine'
"""

from difflib import get_close_matches
from functools import cache
from importlib import import_module
from inspect import signature
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from dynamics.errors import InputError

if TYPE_CHECKING:
    from dynamics.metrics.streaming.base import Metric

DEFAULT: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("residual", "output", "sentence", "token"),
        (
            *("anisotropy", "anisotropy_uncentered", "singular_value_share", "isoscore", "participation_ratio"),
            *("effective_rank", "kurtosis", "mean_cosine", "mean_cosine_across_windows", "mean_norm"),
            *("norm_of_mean", "intrinsic_dimension", "duplicate_share", "local_anisotropy"),
            "local_anisotropy_random",
        ),
    ),
    **dict.fromkeys(("query", "key"), ("norm_of_mean", "drift", "mean_cosine")),
    "attention": (
        *("qk_alignment", "qk_mean_cosine", "entropy", "normalized_entropy", "max_probability"),
        *("sink_mass", "logit_max"),
    ),
    "weight": ("qk_symmetry",),
}
"""What is measured at each site unless something else is asked for."""


@cache
def names() -> tuple[str, ...]:
    """The names of all quantities, sorted."""
    return tuple(sorted(module.name for module in iter_modules(__path__) if not module.ispkg))


def resolve(name: str, **options: Any) -> "Metric":
    """A new metric by its name (`anisotropy`), a variant's (`intrinsic_dimension_mle`) or a class path.

    Raises InputError for a name that nothing bears, or options that the metric does not take.
    """
    metric, fixed = _imported(name) if "." in name else _named(name)
    try:
        signature(metric).bind(**fixed, **options)
    except TypeError as error:
        raise InputError(f"metric {name} does not take its options: {error}.") from error
    return metric(**fixed, **options)


def _named(name: str) -> tuple[type["Metric"], dict[str, Any]]:
    for stem in sorted(names(), key=len, reverse=True):
        if name == stem or name.startswith(f"{stem}_"):
            metric = getattr(import_module(f"{__name__}.{stem}"), stem.title().replace("_", ""))
            options = {} if name == stem else metric.variant(name[len(stem) + 1 :])
            if options is not None:
                return metric, options
    near = get_close_matches(name, names(), n=3) or names()
    raise InputError(f"no metric named {name}: did you mean {', '.join(near)}? (A class path works too.)")


def _imported(path: str) -> tuple[type["Metric"], dict[str, Any]]:
    from dynamics.metrics.streaming.base import Metric

    module, _, attribute = path.rpartition(".")
    try:
        metric = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"metric {path} cannot be imported: {error}.") from error
    if not (isinstance(metric, type) and issubclass(metric, Metric)):
        raise InputError(f"metric {path} is not a Metric (dynamics.metrics.streaming.base.Metric).")
    return metric, {}
