"""Findings as programs: claims of papers, judged by records. No torch here."""

from dynamics.claims import beyond, cone, istar, quality, selfattention, shape
from dynamics.claims.base import Claim

_BEYOND = sorted(
    (*beyond.CLAIMS, *quality.CLAIMS, *istar.BEYOND, *selfattention.BEYOND), key=lambda claim: int(claim.id[1:])
)
CLAIMS: tuple[Claim, ...] = (*shape.CLAIMS, *istar.CLAIMS, *selfattention.CLAIMS, *cone.CLAIMS, *_BEYOND)
