"""Keep the cost of measuring under a share of training: a plan made once and followed. No torch here."""

from collections.abc import Mapping

Plan = dict[str, tuple[int, ...]]  # the steps at which each metric is measured, ascending, by its name


def thinned(steps: tuple[int, ...], now: int) -> tuple[int, ...]:
    """Return the steps without every other one after `now`, counted from the last, which stays.

    >>> thinned((0, 1, 2, 4, 8, 16, 32), 2)
    (0, 1, 2, 8, 32)
    """
    done, ahead = [s for s in steps if s <= now], [s for s in steps if s > now]
    return (*done, *ahead[::-1][::2][::-1])


def price(steps: Plan, costs: Mapping[str, float]) -> float:
    """Return the seconds that measuring at these steps takes, at the prices `costs` (see `plan`).

    >>> price({"a": (0, 1), "b": (0,)}, {"a": 1.0, "b": 2.0, "forward": 3.0})
    10.0
    """
    alone = sum(costs.get(name, 0.0) * len(part) for name, part in steps.items())
    return alone + costs.get("forward", 0.0) * len(set().union(*steps.values()))


def plan(steps: Plan, costs: Mapping[str, float], budget: float, now: int) -> Plan:
    """Return the steps of every metric such that measuring after `now` costs at most `budget` seconds.

    The metric that costs most over the rest of the run, with its share of the forward passes, loses every other of
    its steps, until all fit. The last step of each stays, even where that exceeds the budget.

    `costs` are seconds of one measurement of each metric, and of the forward passes that all share (`forward`).

    >>> plan({"a": (0, 1, 2, 4, 8), "b": (0, 8)}, {"a": 1.0, "b": 2.0}, budget=4.0, now=1)
    {'a': (0, 1, 2, 8), 'b': (0, 8)}
    """
    forward = costs.get("forward", 0.0)

    def ahead(name: str) -> set[int]:
        return {step for step in planned[name] if step > now}

    planned = dict(steps)
    while price({name: tuple(ahead(name)) for name in planned}, costs) > budget:
        many = {name: len(ahead(name)) for name in planned if len(ahead(name)) > 1}
        costly = {name: (costs.get(name, 0.0) + forward / len(planned)) * count for name, count in many.items()}
        worst = max(costly, key=costly.__getitem__, default=None)
        if worst is None or costly[worst] == 0:
            break
        planned[worst] = thinned(planned[worst], now)
    return planned
