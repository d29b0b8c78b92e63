"""What to measure, when, and on how much: the `metrics:` block as a value."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from dynamics import metrics as registry
from dynamics.errors import InputError
from dynamics.metrics.streaming import Group, Metric, groups
from dynamics.schedule import Schedule

Settings = Mapping[str, Any]
Metrics = (
    Mapping[str, Settings | None] | Sequence[str]
)  # a `metrics:` block: names or class paths, perhaps with options


class Entry(NamedTuple):
    """One metric of a suite: the name of its rows, the name that it was asked for by, and its options.

    Without a schedule of its own it is measured when the run measures; `max_tokens` None means every token.
    """

    name: str
    asked: str
    options: Settings
    schedule: Schedule | None = None
    max_tokens: int | None = None

    def metric(self) -> Metric:
        return registry.resolve(self.asked, **self.options)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that was set, as in the `metrics:` block."""
        schedule = {"schedule": str(self.schedule)} if self.schedule else {}
        return {**self.options, **schedule, **({"max_tokens": self.max_tokens} if self.max_tokens else {})}


class Suite(NamedTuple):
    """The metrics of each site."""

    sites: dict[str, list[Entry]]

    @classmethod
    def parse(cls, metrics: Metrics | None = None) -> "Suite":
        """Read the `metrics:` block; the default suite when None.

        Every metric takes three options: `sites` cuts the metric to some of its sites, `schedule` (`{every: 50}` or
        `{per_decade: 5}`) gives it steps of its own, `max_tokens` a token budget; the others are its own.

        Raises:
            InputError: an unknown metric, option or site.
        """
        if metrics is None:
            return cls({site: [Entry(name, name, {}) for name in names] for site, names in registry.default().items()})
        block = metrics if isinstance(metrics, Mapping) else dict.fromkeys(metrics)
        if not block:
            raise InputError("metrics is empty: name at least one, or leave the block out for the default suite.")
        if len(block) < len(metrics):
            twice = next(name for number, name in enumerate(metrics) if name in list(metrics)[:number])
            raise InputError(f"metrics names {twice} twice: leave one out.")
        sites: dict[str, list[Entry]] = defaultdict(list)
        for name, settings in block.items():
            options = dict(settings or {})
            wanted, schedule = options.pop("sites", None), options.pop("schedule", None)
            if isinstance(wanted, str):
                raise InputError(f"metrics.{name}.sites must be a list, such as [{wanted}].")
            max_tokens = options.pop("max_tokens", None)
            if max_tokens is not None and (not isinstance(max_tokens, int) or max_tokens < 1):
                raise InputError(f"metrics.{name}.max_tokens must be at least 1 (got {max_tokens}).")
            parsed = None if schedule is None else Schedule.parse(schedule, f"metrics.{name}.schedule")
            metric = registry.resolve(name, **options)
            for site in wanted or metric.sites:
                if site not in metric.sites:
                    raise InputError(f"metrics.{name}.sites: {site} is not one of {', '.join(metric.sites)}.")
                if metric.name in (entry.name for entry in sites[site]):
                    raise InputError(f"metrics.{name}: {metric.name} is asked for twice at {site}; leave one out.")
                sites[site].append(Entry(metric.name, name, options, parsed, max_tokens))
        return cls(dict(sites))

    @property
    def entries(self) -> Iterator[Entry]:
        """Every metric at each of its sites."""
        return chain.from_iterable(self.sites.values())

    @property
    def names(self) -> set[str]:
        """Every metric's name, that of its rows."""
        return {entry.name for entry in self.entries}

    def steps(self, default: Schedule, last: int) -> dict[str, tuple[int, ...]]:
        """Return the steps of every metric in a run of `last` updates."""
        return {entry.name: (entry.schedule or default).steps(last) for entry in self.entries}

    def refuse_schedules(self, where: str) -> None:
        """Refuse metrics with a schedule of their own in `where`, which has no steps to choose from."""
        for entry in self.entries:
            if entry.schedule is not None:
                raise InputError(f"metrics.{entry.name}.schedule has no effect in {where}; remove it.")

    def only(self, names: set[str]) -> "Suite":
        """Return the suite cut to some of its metrics."""
        cut = {site: [e for e in entries if e.name in names] for site, entries in self.sites.items()}
        return Suite({site: entries for site, entries in cut.items() if entries})

    def build(self, site: str) -> list[tuple[Group, int | None]]:
        """Return fresh groups of metrics for one layer of a site, each with its token budget."""
        budgets: dict[int | None, list[Metric]] = defaultdict(list)
        for entry in self.sites[site]:
            budgets[entry.max_tokens].append(entry.metric())
        return [(group, budget) for budget, metrics in budgets.items() for group in groups(metrics)]

    def descriptions(self) -> dict[str, dict[str, Any]]:
        """Return title, unit, range, estimator and the like of every metric, by the name of its rows."""
        return {entry.name: entry.metric().description() for entry in self.entries}

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return sites, names and settings, for the record."""
        return {site: {entry.asked: entry.settings for entry in entries} for site, entries in self.sites.items()}
