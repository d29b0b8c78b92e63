import torch

from dynamics.measure import clock
from dynamics.measure.clock import Clock


class Event:
    """An event on a device whose work takes a second each time."""

    now, waits = 0, 0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self, stream):
        Event.now += 1
        self.at = Event.now

    def synchronize(self):
        Event.waits += 1

    def elapsed_time(self, other):
        return 1000 * (other.at - self.at)


def test_a_device_is_waited_for_when_the_seconds_are_read(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(clock, "MOST", 2)
    spent = Clock(torch.device("cuda"))
    for names in (["a", "b"], ["a"]):
        with spent.booked(names):
            pass
    assert Event.waits == 0
    assert spent.seconds() == {"a": 1.5, "b": 0.5}
    for _ in range(3):  # many are added up now and then, lest their events fill the memory
        with spent.booked(["a"]):
            pass
    assert Event.waits == 2
    assert spent.seconds() == {"a": 4.5, "b": 0.5}
