"""`dynamics scan`: the same measurement on any model: pretrained, intermediate, untrained, or of our own runs."""

from dynamics.experiments.scan.loop import scan
from dynamics.loading.options import Options

__all__ = ["Options", "scan"]
