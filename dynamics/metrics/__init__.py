"""The quantities, by name.

A quantity lives in the module of its name, as a function of that name and as the streaming `Metric` whose class has the
name too: `anisotropy.anisotropy(x)` and `anisotropy.Anisotropy`. Nothing here imports one before it is asked for: a new
file is a new metric.

>>> resolve("mean_cosine").name
'mean_cosine'
"""

from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from inspect import signature
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from dynamics.allowed import load_class
from dynamics.errors import InputError

if TYPE_CHECKING:
    from dynamics.metrics.streaming.base import Metric


@cache
def names() -> tuple[str, ...]:
    """Return the names of all quantities, sorted."""
    return tuple(sorted(module.name for module in iter_modules(__path__) if not module.ispkg))


def variants(name: str) -> list[str]:
    """Return the names of a quantity's variants.

    >>> variants("local_anisotropy")
    ['local_anisotropy_random']
    """
    return [f"{name}_{suffix}" for suffix in _metric_class(name).variants]


@cache
def default() -> dict[str, tuple[str, ...]]:
    """Return what is measured at each site unless something else is asked for.

    >>> default()["key"]
    ('norm_of_mean', 'drift', 'mean_cosine')
    """
    from dynamics.metrics.streaming.base import SITES

    places: dict[str, list[tuple[int, str]]] = {site: [] for site in SITES}
    for name in names():
        metric = _metric_class(name)
        for site, place in metric.default_sites.items():
            places[site] += [(place, name), *((place, f"{name}_{suffix}") for suffix in metric.default_variants)]
    return {site: tuple(name for _, name in sorted(members)) for site, members in places.items() if members}


def describe(metrics: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
    """Return the description of some metrics by name; by default of all, with their variants."""
    if metrics is None:
        metrics = [name for stem in names() for name in (stem, *variants(stem))]
    return {name: resolve(name).description() for name in metrics}


def resolve(name: str, **options: Any) -> "Metric":
    """Return a new metric by its name (`anisotropy`), a variant's (`intrinsic_dimension_mle`) or a class path.

    Raises: InputError: an unknown name, or options that the metric does not take.
    """
    from dynamics.metrics.streaming.base import Metric

    metric, fixed = (load_class(name, Metric, "metrics"), {}) if "." in name else _named(name)
    try:
        signature(metric).bind(**fixed, **options)
    except TypeError as error:
        raise InputError(f"metric {name} does not take its options: {error}.") from error
    for option, value in options.items() if "." not in name else ():  # all integers of ours are sizes, but the seed
        if type(value) is int and value < (least := int(option != "seed")):
            raise InputError(f"metrics.{name}.{option} must be at least {least} (got {value}).")
    return metric(**fixed, **options)


def _metric_class(name: str) -> type["Metric"]:
    return getattr(import_module(f"{__name__}.{name}"), name.title().replace("_", ""))


def _named(name: str) -> tuple[type["Metric"], dict[str, Any]]:
    for stem in sorted(names(), key=len, reverse=True):
        if name == stem or name.startswith(f"{stem}_"):
            metric = _metric_class(stem)
            options = {} if name == stem else metric.variant(name[len(stem) + 1 :])
            if options is not None:
                return metric, options
    near = get_close_matches(name, names(), n=3) or names()
    raise InputError(f"no metric named {name}: did you mean {', '.join(near)}? (A class path works too.)")
