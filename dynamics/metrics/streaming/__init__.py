"""The building blocks of a metric: import them from here.

A metric is a class: an accumulator (`Sums`, `Moments`, `Sample`, ...) with class attributes that describe it and an
estimate computed from what was accumulated. See docs/own_metric.py for a whole one.
"""

from dynamics.metrics.streaming.attention import AttentionStatistics, QueryKeySums, QueryMeans
from dynamics.metrics.streaming.base import (
    HEAD_SITES,
    SITES,
    STATE_SITES,
    Attention,
    Estimate,
    Group,
    Metric,
    Pair,
    Referenced,
    States,
    Weights,
    groups,
    once,
    undefined,
)
from dynamics.metrics.streaming.cross import Cross
from dynamics.metrics.streaming.intervals import Windowed, estimate
from dynamics.metrics.streaming.moments import CrossMoments, Moments
from dynamics.metrics.streaming.sampling import Sample
from dynamics.metrics.streaming.spectrum import Spectral
from dynamics.metrics.streaming.start import ToStart
from dynamics.metrics.streaming.sums import Sums, WindowSums

__all__ = ["HEAD_SITES", "SITES", "STATE_SITES", "Attention", "Estimate", "Pair", "States", "Weights"]
__all__ += ["AttentionStatistics", "Cross", "CrossMoments", "Moments", "QueryKeySums", "QueryMeans", "Referenced"]
__all__ += ["Group", "Metric", "Sample", "Spectral", "Sums", "ToStart", "WindowSums", "Windowed"]
__all__ += ["estimate", "groups", "once", "undefined"]
