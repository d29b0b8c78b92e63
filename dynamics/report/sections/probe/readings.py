"""What the designs of a probe show, in words."""

import numpy as np

from dynamics.report.names import capital, number
from dynamics.report.sections.probe.designs import BIASES, CONE, PARTS, ProbeDesign
from dynamics.report.study import Study


def cone_reading(design: ProbeDesign) -> str:
    """Return the cone in numbers, near the norm at which half of an input is bias."""
    at = float(min(design.rows["at"].unique(), key=lambda beta: abs(beta - design.width**0.5)))
    places = {PARTS[part]: (part, min(1, i)) for i, part in enumerate(PARTS)}
    if design.layers > 1:
        places[f"output of block {design.layers}"] = "mlp", design.layers
    parts = []
    for name, (part, layer) in places.items():
        pooled, within = (design.mean(metric, at, part=part, layer=layer) for metric in CONE[:2])
        if np.isfinite(pooled):
            parts.append(f"{name} {number(pooled)}" + (f" ({number(within)})" if np.isfinite(within) else ""))
    return f"Mean cosine at β = {at:g} (within a sequence): {', '.join(parts)}." if parts else ""


def sharpness_reading(study: Study, design: ProbeDesign) -> str:
    """Return how far attention moves from its unbiased entropy, for every place of the bias."""
    metric = next((m for m in ("entropy", "normalized_entropy") if design.has(m)), "")
    ends = design.rows["at"].min(), design.rows["at"].max()
    parts = []
    for bias, name in BIASES.items():
        first, last = (design.mean(metric, at, bias=bias, layer=1) for at in ends)
        if np.isfinite([first, last]).all():
            parts.append(f"{number(first)} → {number(last)} with the bias {name}")
    start = f"{capital(study.words(metric).axis)} from β = {ends[0]:g} to {ends[1]:g}: "
    return f"{start}{', '.join(parts)}." if parts else ""
