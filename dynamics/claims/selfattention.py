"""Claims of Anisotropy Is Inherent to Self-Attention in Transformers (arXiv 2401.12143). No torch here."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from dynamics.claims import measures as m
from dynamics.claims.base import Claim, Criterion, NotMeasurable, Threshold
from dynamics.claims.evidence import Evidence
from dynamics.claims.members import CONVOLUTIONAL, TRANSFORMERS, Member
from dynamics.claims.statistics import Effects, Measured

SOURCE = "Godey et al., Anisotropy Is Inherent to Self-Attention in Transformers, arXiv 2401.12143"
MODALITIES = {"characters": "character", "audio": "speech", "images": "vision"}
POINTS = 4  # layers or heads that a correlation takes
CORRELATION = Threshold(0.3, "a moderate correlation: smooth profiles over few layers agree by chance")
CONE = Threshold(0.1, "states without structure have a mean cosine of 0, within about 0.02 in 256 dimensions")
SHARPER = Threshold(0.01, "1 %: draws of random weights differ by about 0.1 %")
OfDraw = Callable[[pd.DataFrame], float]  # of the rows of one metric in one draw of a design


def _cone_with_drift(member: Member, step: int) -> Measured | None:
    """Return the correlation over layers between the mean cosine and the norm of the mean."""
    cosine, norm = (member.profile("residual", metric, step) for metric in ("mean_cosine", "norm_of_mean"))
    if cosine is None or norm is None or not POINTS <= len(cosine) == len(norm):
        return None
    return Measured(float(np.corrcoef([[v.value for v in values] for values in (cosine, norm)])[0, 1]))


def _alignment(member: Member, step: int) -> Measured | None:
    """Return the mean over heads of |cos(mean query, mean key)|: parallel or opposed alike."""
    values = member.heads("attention", "qk_alignment", step).abs()
    return Measured(float(values.mean(skipna=False))) if len(values) else None


def _sharper_with_drift(member: Member, step: int) -> Measured | None:
    """Return the correlation over heads between drift of queries and keys and the fall of entropy since step 0."""
    if member.steps[0] != 0 or step == 0:
        return None
    drift = np.hypot(*(member.heads(site, "drift", step) for site in ("query", "key")))
    start, end = (member.heads("attention", "normalized_entropy", at) for at in (0, step))
    table = pd.DataFrame({"drift": drift, "sharper": start - end}).dropna()
    return Measured(float(table.corr().iloc[0, 1])) if len(table) >= POINTS else None


def _apart_from_convolutions(evidence: Evidence) -> Effects:
    kinds = TRANSFORMERS, (CONVOLUTIONAL,)
    return Effects(*(evidence.effects(evidence.of(*some), m.at_end(_cone_with_drift)) for some in kinds))


def _probe(value: OfDraw, metric: str, bias: str = "input") -> m.Measure:
    """Return a number of every draw (seed) of a probe: the mean over its designs."""

    def measure(evidence: Evidence) -> Effects:
        rows = evidence.probe
        if evidence.population != "seeds" or rows.empty or "seed" not in rows:
            raise NotMeasurable("no probe among the runs")
        rows = rows[(rows["metric"] == metric) & (rows["bias"] == bias)]
        rows = rows.assign(norm=rows["beta"].astype(float), part=rows.get("part"))
        known = ("seed", "beta", "norm", "bias", "part", "least", "greatest")
        varied = [name for name in rows.columns[rows.columns.get_loc("reason") + 1 :] if name not in known]
        draws = rows.groupby(["seed", "run", "subject", *varied], dropna=False)
        return Effects(evidence.by_unit((f"draw {key[0]}", Measured(value(part))) for key, part in draws))

    return measure


def _gain(rows: pd.DataFrame) -> float:
    """Return the mean cosine of the last block's output less the input's, mean over norms above 0."""
    rows = rows[rows["norm"] > 0]
    output = rows[(rows["part"] == "mlp") & (rows["layer"] == rows["layer"].max())]
    inputs = rows[rows["part"] == "input"]
    return float((output.groupby("norm")["value"].mean() - inputs.groupby("norm")["value"].mean()).mean())


def _fall(rows: pd.DataFrame) -> float:
    """Return the value at the least norm less that at the greatest, in the first block."""
    by_norm = rows[rows["layer"] == rows["layer"].min()].groupby("norm")["value"].mean()
    return float(by_norm.iloc[0] - by_norm.iloc[-1]) if len(by_norm) > 1 else np.nan


def _query_against_key(evidence: Evidence) -> Effects:
    query, key = (_probe(_fall, "normalized_entropy", bias)(evidence).units for bias in ("query", "key"))
    return Effects(evidence.by_unit((draw, m.minus(query[draw], key.get(draw))) for draw in query))


CLAIMS = (
    Claim(
        "S3a",
        "Anisotropy appears in character, speech and vision transformers.",
        SOURCE,
        "mean cosine over all pairs of states, mean over layers 1..L, last step",
        tuple(
            Criterion(
                f"mean cosine of {name} transformers",
                m.level(m.quantity("residual", "mean_cosine"), *TRANSFORMERS, modalities=(modality,)),
                CONE,
                role="where measured",
            )
            for modality, name in MODALITIES.items()
        ),
        "transformers of these modalities with `mean_cosine` (training runs read characters)",
        opposes=("B8",),
    ),
    Claim(
        "S3b",
        "In transformers anisotropy goes with drift (the norm of the mean state), in convolutional networks not.",
        SOURCE,
        "Pearson correlation over layers between mean cosine and norm of the mean, last step",
        (
            Criterion("correlation in transformers", m.level(_cone_with_drift, *TRANSFORMERS), CORRELATION),
            Criterion(
                "correlation in transformers less that in convolutional networks",
                _apart_from_convolutions,
                CORRELATION,
                role="where measured",
            ),
        ),
        f"transformers of {POINTS} layers or more with `mean_cosine` and `norm_of_mean`; convolutional networks beside",
    ),
    Claim(
        "S3c",
        "Untrained blocks make biased input more anisotropic, and their attention is the sharper the greater the bias.",
        SOURCE,
        "mean cosine and normalised attention entropy of untrained blocks, over the norm of the bias",
        (
            Criterion(
                "mean cosine of the output less the input's, mean over the norms", _probe(_gain, "mean_cosine"), SHARPER
            ),
            Criterion(
                "entropy at the least norm less that at the greatest", _probe(_fall, "normalized_entropy"), SHARPER
            ),
        ),
        "a probe of 3 draws or more, with `mean_cosine` and `normalized_entropy`",
    ),
    Claim(
        "S3d",
        "Queries and keys drift in parallel (same or opposite) directions as training goes on.",
        SOURCE,
        "|cos(mean query, mean key)|, mean over heads and layers",
        (
            Criterion(
                "value at the last step less that before training",
                m.growth(_alignment, *TRANSFORMERS),
                Threshold(0.05, "random directions in 32 dimensions have 0.14; seeds differ by about 0.02"),
            ),
        ),
        "transformers with `qk_alignment` at step 0 (or an untrained control) and later",
    ),
    Claim(
        "S3e",
        "Sharper attention comes with the drift of queries and keys.",
        SOURCE,
        "drift of queries and keys, and the fall of normalised attention entropy since step 0, by head",
        (Criterion("Pearson correlation over heads", m.level(_sharper_with_drift, *TRANSFORMERS), CORRELATION),),
        f"training runs with `drift` and `normalized_entropy` of {POINTS} heads or more, from step 0",
        note="Over heads, not over steps: any two quantities that both grow as training goes on correlate over steps.",
    ),
)

BEYOND = (
    Claim(
        "B16",
        "A bias on queries sharpens attention; one on keys leaves it as it is (softmax does not see it).",
        SOURCE + "; softmax is invariant to what all its logits share",
        "normalised attention entropy of untrained blocks",
        (Criterion("fall with a bias on queries, less that with one on keys", _query_against_key, SHARPER),),
        "a probe of 3 draws or more, with `normalized_entropy` and the biases `query` and `key`",
    ),
)
