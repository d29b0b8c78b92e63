"""The hinge: a model and batches in, rows out; an experiment that runs the model itself feeds a `Meter`."""

from dynamics.measure.measurement import measure
from dynamics.measure.meter import Meter
from dynamics.measure.result import Measurement, Missing, united
from dynamics.measure.share import Share
from dynamics.measure.suite import Suite

__all__ = ["Measurement", "Meter", "Missing", "Share", "Suite", "measure", "united"]
