"""The hinge: a model and batches in, rows out."""

from dynamics.measure.measurement import Measurement, measure

__all__ = ["Measurement", "measure"]
