"""Which layers' attention a forward pass let be heard whole, and why not that of the others."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from dynamics.capture.calls import Call
from dynamics.capture.fused import Scores
from dynamics.capture.states import first_states

NO_SCORES = "no softmax over products of its queries and keys was heard in it"
PADDED_WINDOWS = "its local windows hold padding that cannot be told from tokens"
SEVERAL = "it takes several softmaxes over products, which together are not one for each of its tokens"


@dataclass
class _Heard:
    """The queries of each softmax of one call of an attention; `position` in the trace, its input's tokens."""

    position: int
    name: str
    tokens: int
    queries: list[int] = field(default_factory=list)


class Hearing:
    """Notes what is heard of each attention of one forward pass, by its place in the trace of modules."""

    def __init__(self) -> None:
        self._started: WeakKeyDictionary[Call, int] = WeakKeyDictionary()
        self._notes: WeakKeyDictionary[Call, _Heard] = WeakKeyDictionary()
        self._heard: list[_Heard] = []

    def start(self, call: Call, position: int) -> None:
        self._started[call] = position

    def add(self, call: Call, scores: Scores, heads: int) -> None:
        """Note one softmax of a call; notes keep none of its tensors."""
        if call not in self._notes:
            x = first_states((*call.args, *call.kwargs.values()))
            tokens = 0 if x is None else x.numel() // x.shape[-1]
            self._notes[call] = _Heard(self._started[call], call.name, tokens)
            self._heard.append(self._notes[call])
        self._notes[call].queries.append(scores.query.shape[:-1].numel() // heads)

    def reasons(self, unclear: Mapping[Call, str], trace: list[tuple[str, int]], blocks: set[str]) -> dict[int, str]:
        """Return why a layer's attention was not heard whole, by the number of its run, from 0.

        A softmax that is `unclear`, for the reason that is its value, counts in the module that was heard in the layer,
        or where none was: other parts may take what softmaxes they like.
        """
        troubles = [(self._started[call], call.name, reason) for call, reason in unclear.items()]
        troubles += [
            (heard.position, heard.name, SEVERAL)
            for heard in self._heard
            if len(heard.queries) > 1 and sum(heard.queries) != heard.tokens
        ]
        starts = [position for position, (name, heads) in enumerate(trace) if heads == 0 and name in blocks]
        reasons: dict[int, str] = {}
        for position, name, reason in troubles:
            run = bisect_right(starts, position) - 1
            if run >= 0:
                end = starts[run + 1] if run + 1 < len(starts) else None
                attending = {x for x, heads in trace[starts[run] : end] if heads}
                if not attending or name in attending:
                    reasons.setdefault(run, reason)
        return reasons
