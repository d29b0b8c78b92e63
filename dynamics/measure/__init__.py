"""The hinge: a model and batches in, rows out; an experiment that runs the model itself feeds a `Meter`."""

from dynamics.measure.measurement import measure
from dynamics.measure.meter import Measurement, Meter, Missing
from dynamics.measure.suite import Suite

__all__ = ["Measurement", "Meter", "Missing", "Suite", "measure"]
