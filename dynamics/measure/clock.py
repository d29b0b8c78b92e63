"""How long metrics take on a device, without waiting for it."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

MOST = 4096  # spans that are kept before they are added up


class Clock:
    """Seconds by name, from events on a GPU and from the host's clock elsewhere."""

    def __init__(self, device: torch.device, seconds: Mapping[str, float] | None = None) -> None:
        self._device = device
        self._spans: list[tuple[list[str], Any, Any]] = []
        self._seconds: dict[str, float] = defaultdict(float, seconds or {})

    @contextmanager
    def booked(self, names: list[str]) -> Iterator[None]:
        """Book the time of the block on these names, evenly."""
        started = self._mark()
        yield
        self._spans.append((names, started, self._mark()))
        if len(self._spans) > MOST:
            self.seconds()

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each name so far, once the device has done its work."""
        if self._spans and not isinstance(self._spans[-1][2], float):
            self._spans[-1][2].synchronize()
        for names, start, end in self._spans:
            spent = end - start if isinstance(start, float) else start.elapsed_time(end) / 1000
            for name in names:
                self._seconds[name] += spent / len(names)
        self._spans.clear()
        return dict(self._seconds)

    def _mark(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event
