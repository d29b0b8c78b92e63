"""`dynamics cone`: where the cone of sentence vectors comes from, what its axis means, what centring buys."""

from dynamics.experiments.cone.loop import cone
from dynamics.experiments.cone.options import Options

__all__ = ["Options", "cone"]
