"""Claims of findings since: attention, optimisers, ranks, dimension along depth, and what opposes the sources.

No torch here.
"""

import numpy as np

from dynamics.claims import measures as m
from dynamics.claims.base import Claim, Criterion, Threshold
from dynamics.claims.controls import dimension_controls
from dynamics.claims.evidence import Evidence
from dynamics.claims.members import DECODER, ENCODER, MASKED, TRANSFORMERS, Member
from dynamics.claims.phases import FALL, RISE
from dynamics.claims.statistics import Effects, Measured, directed, mean_of
from dynamics.report.profiles import BELL

SHARE = Threshold(BELL, "5 % of the variance, as for S1a and S1b")
SMALL = Threshold(0.05, "5 %: seeds differ by 1 to 3 %")
ASKED = "asked by Razzhigaev et al., arXiv 2311.05928, as further work"
HEIGHT = "height of the peak of anisotropy above both ends, last step"
OVER_OBJECTIVE = "effect of the mask (at objective mlm) less that of the objective (under the mask), in size"
TRIPLET = "decoder, encoder and causal mlm of 3 layers or more with `anisotropy`, of equal seeds"
STEPS = (DECODER, MASKED), (MASKED, ENCODER)  # that differ in the objective alone, and in the mask alone

_height = m.quantity("residual", "anisotropy", m.height)
_bend = m.quantity("residual", "intrinsic_dimension", m.logs(m.height))
_kurtosis = m.quantity("residual", "kurtosis", m.logs())


def _share_of_mean(member: Member, step: int) -> Measured | None:
    """Return the norm of the mean embedding over the mean norm of embeddings (layer 0)."""
    mean, norm = member.grid("residual", "norm_of_mean"), member.grid("residual", "mean_norm")
    if mean is None or norm is None or 0 not in mean.layers or 0 not in norm.layers:
        return None
    if step not in mean.steps or step not in norm.steps:
        return None
    drift, length = (g.values[g.steps.index(step), g.layers.index(0)] for g in (mean, norm))
    return Measured(float(drift / length)) if length > 0 else None


def _unlike_values(member: Member, step: int) -> Measured | None:
    """Return the log drift of values less that of queries and keys."""
    query, key, value = (member.at(site, "drift", step, m.logs()) for site in ("query", "key", "value"))
    return m.minus(value, mean_of([query, key])) if query is not None and key is not None else None


def _distance(of: m.OfMember) -> m.Measure:
    """Return a quantity of transformers in its own direction, whichever that is."""
    measure = m.level(of, *TRANSFORMERS)
    return lambda evidence: Effects(directed(measure(evidence).units))


def _mask_over_objective(evidence: Evidence) -> Effects:
    """Return the effect of the mask on the bell less that of the objective, by way of the causal model with mlm."""
    objective, mask = (directed(m.contrast(_height, *kinds)(evidence).units) for kinds in STEPS)
    return Effects(evidence.by_unit((unit, m.minus(mask[unit], objective.get(unit))) for unit in mask))


def _optimizer(of: m.OfMember, *others: str) -> m.Measure:
    """Return a quantity with Adam less that with others; the learning rate that suits each may differ."""
    return m.arms(of, "optimizer", ("adam", "adamw"), others, "learning_rate", "momentum", "betas", "weight_decay")


CLAIMS = (
    Claim(
        "B1",
        "Bidirectional training makes W_q W_kᵀ more symmetric than causal training.",
        "Saponati et al., The underlying structures of self-attention, arXiv 2502.10927",
        "symmetry score of W_q W_kᵀ, mean over layers 1..L, last step",
        (
            Criterion(
                "symmetry of encoders less that of decoders",
                m.contrast(m.quantity("weight", "qk_symmetry"), ENCODER, DECODER),
                Threshold(
                    0.05, "random weights have 0 within about 0.02; the source reports differences of 0.1 to 0.8"
                ),
            ),
        ),
        "encoders and decoders with `qk_symmetry`",
    ),
    Claim(
        "B2",
        "Attention sinks appear through training.",
        "Gu et al., When Attention Sink Emerges in Language Models, arXiv 2410.10781",
        "mean attention probability on position 0, mean over heads and layers, decoders",
        (
            Criterion(
                "value at the last step less that before training",
                m.growth(m.quantity("attention", "sink_mass"), DECODER),
                Threshold(
                    0.05, "a twentieth of all attention; untrained attention gives each position its equal share"
                ),
            ),
        ),
        "decoders with `sink_mass` at step 0 (or an untrained control) and later",
    ),
    Claim(
        "B3",
        "Adam moves the mean embedding away from the origin, SGD does not.",
        "Stollenwerk and Stollenwerk, Better Embeddings with Coupled Adam, arXiv 2502.08441",
        "norm of the mean embedding over the mean norm (layer 0), last step",
        (Criterion("Adam less SGD", _optimizer(_share_of_mean, "sgd"), Threshold(0.05, "5 % of the mean norm")),),
        "runs that differ in `model.optimizer` (adam or adamw, sgd) alone, of equal seeds",
        note="The learning rate may differ with the optimiser. Embeddings are weighed by how often tokens occur.",
    ),
    Claim(
        "B4",
        "Outlier features depend on the block and on the optimiser: norms and Adam make more of them.",
        "He et al., Understanding and Minimising Outlier Features in Transformer Training, arXiv 2405.19279",
        "kurtosis of neuron norms (logarithm), mean over layers 1..L, last step",
        (
            Criterion(
                "Adam less SGD or Muon",
                _optimizer(_kurtosis, "sgd", "muon"),
                Threshold(0.1, "10 %: seeds differ by about 5 %"),
                role="where measured",
            ),
            Criterion(
                "pre-norm blocks less those without norms",
                m.arms(_kurtosis, "norm", ("pre",), ("none",), "learning_rate"),
                Threshold(0.1, "10 %: seeds differ by about 5 %"),
                role="where measured",
            ),
        ),
        "runs that differ in `model.optimizer` or in `model.norm` alone, of equal seeds, with `kurtosis`",
    ),
    Claim(
        "B5",
        "In untrained transformers the rank of the states collapses with depth.",
        "Nait Saada et al., Mind the Gap: Rank Collapse and Signal Propagation in Attention Layers, arXiv 2410.07799",
        "effective rank (logarithm) over layers 1..L at step 0 or of untrained controls",
        (
            Criterion(
                "last layer less the first",
                m.at_start(m.quantity("residual", "effective_rank", m.logs(m.last_to_first)), *TRANSFORMERS),
                -SMALL,
                above=False,
            ),
        ),
        "transformers with `effective_rank` at step 0, or an untrained control",
        note="Depth alone: rows of several context lengths are not compared.",
    ),
    Claim(
        "B6",
        "The effective rank collapses, then expands, then is compressed along training.",
        "Li et al., Tracing the Representation Geometry of Language Models, arXiv 2509.23024",
        "effective rank (RankMe), mean over layers 1..L, along the steps, decoders",
        tuple(
            Criterion(
                f"relative {name} (change of the logarithm)",
                m.phase("residual", "effective_rank", (FALL, RISE, FALL), i, DECODER),
                SMALL,
            )
            for i, name in enumerate(("collapse", "expansion", "compression"))
        ),
        "training runs, or revisions of 3 models, with `effective_rank` at 7 steps or more",
        note="The turning points are change points, tested over seeds; those of a seed are those of the others.",
    ),
    Claim(
        "B7",
        "The intrinsic dimension has a peak in inner layers that untrained models lack.",
        "Cheng et al., Emergence of a High-Dimensional Abstraction Phase in Language Transformers, arXiv 2405.15471",
        "intrinsic dimension (TwoNN, logarithm) over layers 1..L, last step",
        (
            Criterion("height of the peak above both ends", m.level(_bend, *TRANSFORMERS), SMALL),
            Criterion("height in trained models less that before training", m.growth(_bend, *TRANSFORMERS), SMALL),
            *dimension_controls()[1:],  # the untrained models are compared above
        ),
        "transformers of 3 layers or more with `intrinsic_dimension`, trained and untrained",
    ),
    Claim(
        "B8",
        "Anisotropy is not inherent to transformers: trained ones keep their states isotropic.",
        "Machina and Mercer, Anisotropy Is Not Inherent to Transformers, NAACL 2024",
        "mean cosine over all pairs of states, mean over layers 1..L, last step",
        (
            Criterion(
                "mean cosine of transformers",
                m.level(m.quantity("residual", "mean_cosine"), *TRANSFORMERS),
                Threshold(
                    0.1, "states without structure have 0, within about 0.02 in 256 dimensions; S3a has the same"
                ),
                above=False,
            ),
        ),
        "transformers with `mean_cosine`",
        opposes=("S3a",),
    ),
    Claim(
        "B9",
        "Queries and keys move unlike values during training.",
        "arXiv 2604.22778",
        "drift of the mean query, key and value since step 0 (logarithm), mean over layers, last step",
        (
            Criterion(
                "distance between the drift of values and that of queries and keys",
                _distance(_unlike_values),
                Threshold(
                    float(np.log(1.5)), "a factor of 1.5: the drift of queries differs from that of keys by about 1.2"
                ),
            ),
        ),
        "training runs with `drift` at the sites query, key and value (the default suite leaves values out)",
    ),
    Claim(
        "B12",
        "Anisotropy grows towards the upper layers.",
        "Ethayarajh, How Contextual Are Contextualized Word Representations?, arXiv 1909.00512",
        "anisotropy over layers 1..L of decoders, last step",
        (
            Criterion(
                "mean of the upper third of the layers less that of the middle third",
                m.level(m.quantity("residual", "anisotropy", m.upper_rise), DECODER),
                SHARE,
            ),
        ),
        "decoders of 3 layers or more with `anisotropy`",
        opposes=("S1a",),
        note="The source takes the mean cosine; this is the quantity of S1a, which it opposes.",
    ),
    Claim(
        "B14",
        "The causal mask makes the bell, not the objective.",
        ASKED,
        HEIGHT,
        (
            Criterion(
                OVER_OBJECTIVE,
                _mask_over_objective,
                SHARE,
            ),
        ),
        TRIPLET,
        opposes=("B15",),
    ),
    Claim(
        "B15",
        "The objective makes the bell, not the causal mask.",
        ASKED,
        HEIGHT,
        (
            Criterion(
                OVER_OBJECTIVE,
                _mask_over_objective,
                -SHARE,
                above=False,
            ),
        ),
        TRIPLET,
        opposes=("B14",),
    ),
    Claim(
        "B17",
        "The bell of anisotropy needs attention that learns where to look.",
        ASKED,
        HEIGHT,
        (
            Criterion(
                "height with softmax attention less that with uniform or no attention",
                m.arms(_height, "attention", ("softmax",), ("uniform", "none")),
                SHARE,
            ),
        ),
        "runs that differ in `model.attention` (softmax, uniform or none) alone, of equal seeds",
    ),
)
