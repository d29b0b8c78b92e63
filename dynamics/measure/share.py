"""The part of a measurement that one of several ranks makes: all run the model, each feeds some layers of each site.

Every rank sees every batch, so no states are merged: a row is what a single rank would have computed, to the bit.
"""

from typing import NamedTuple

from dynamics.metrics.streaming import SITES

PAIR = "pair"  # metrics of two representations of the same tokens; their rows stand at `residual`
PLACES = (*SITES, PAIR)


class Share(NamedTuple):
    """The part of rank `rank` of `ranks`.

    >>> [layer for layer in range(5) if Share(1, 2).holds("residual", layer)]
    [1, 3]
    """

    rank: int = 0
    ranks: int = 1

    def holds(self, site: str, layer: int) -> bool:
        """Return whether this rank measures a layer of a site: layers go round, each site from another rank on."""
        return (layer + PLACES.index(site)) % self.ranks == self.rank
