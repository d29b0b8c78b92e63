"""Claims of The Shape of Learning (arXiv 2311.05928). No torch here."""

from dynamics.claims import measures as m
from dynamics.claims.base import Claim, Criterion, Threshold
from dynamics.claims.controls import dimension_controls
from dynamics.claims.members import DECODER, ENCODER, TRANSFORMERS
from dynamics.claims.phases import FALL, RISE
from dynamics.report.profiles import BELL

SOURCE = "Razzhigaev et al., The Shape of Learning, arXiv 2311.05928"
SHARE = Threshold(
    BELL, "5 % of the variance: bells of the source are 20 to 80 % high, noise between seeds is about 1 %"
)
RELATIVE = Threshold(0.05, "5 %: about the sampling error of one TwoNN estimate on 4096 states")
STATES = "layers 1..L of the residual stream, last step"

_anisotropy = m.quantity("residual", "anisotropy")

CLAIMS = (
    Claim(
        "S1a",
        "The anisotropy of decoders over depth is a bell whose peak is in the middle layers.",
        SOURCE,
        f"anisotropy, {STATES}",
        (
            Criterion(
                "height of the peak above both ends",
                m.level(m.quantity("residual", "anisotropy", m.height), DECODER),
                SHARE,
            ),
            Criterion(
                "distance of the peak from the middle, in shares of the depth",
                m.level(m.quantity("residual", "anisotropy", m.off_centre), DECODER),
                Threshold(0.25, "the middle half of the layers"),
                above=False,
            ),
        ),
        "decoders of 3 layers or more with `anisotropy`",
        opposes=("B12",),
    ),
    Claim(
        "S1b",
        "The anisotropy of encoders over depth is flatter than that of decoders.",
        SOURCE,
        f"anisotropy, {STATES}",
        (
            Criterion(
                "span over depth (greatest less least) of decoders, less that of encoders",
                m.contrast(m.quantity("residual", "anisotropy", m.span), DECODER, ENCODER),
                SHARE,
            ),
        ),
        "decoders and encoders of 3 layers or more with `anisotropy`",
    ),
    Claim(
        "S1c",
        "The intrinsic dimension first rises, then falls during training.",
        SOURCE,
        "intrinsic dimension (TwoNN), mean over layers 1..L, along the steps",
        (
            *(
                Criterion(
                    f"relative {name} (change of the logarithm)",
                    m.phase("residual", "intrinsic_dimension", (RISE, FALL), i, *TRANSFORMERS),
                    RELATIVE,
                )
                for i, name in enumerate(("rise to the turning point", "fall after it"))
            ),
            *dimension_controls()[1:],  # the rise is one against the untrained model by itself
        ),
        "training runs, or revisions of 3 models, with `intrinsic_dimension` at 5 steps or more",
        note="The turning point is a change point, tested over seeds; that of a seed is that of the others.",
    ),
    Claim(
        "S1d",
        "Anisotropy grows during training in decoders.",
        SOURCE,
        "anisotropy, mean over layers 1..L",
        (Criterion("value at the last step less that before training", m.growth(_anisotropy, DECODER), SHARE),),
        "decoders with `anisotropy` at step 0 (or an untrained control) and later",
    ),
    Claim(
        "S1e",
        "Within neighbourhoods states are closer to isotropic than the whole cloud, which is anisotropic.",
        SOURCE,
        f"anisotropy of 64 nearest neighbours against 64 random states, {STATES}",
        (
            Criterion(
                "anisotropy of random states less that of neighbours",
                m.level(
                    m.less(
                        m.quantity("residual", "local_anisotropy_random"), m.quantity("residual", "local_anisotropy")
                    ),
                    *TRANSFORMERS,
                ),
                Threshold(0.02, "2 % of the variance; 64 isotropic states have a share of 4 to 6 % each way"),
            ),
            Criterion(
                "anisotropy of the whole cloud at its greatest layer",
                m.level(m.quantity("residual", "anisotropy", m.greatest), *TRANSFORMERS),
                Threshold(0.1, "a tenth of the variance along one of hundreds of directions"),
            ),
        ),
        "transformers with `anisotropy`, `local_anisotropy` and `local_anisotropy_random`",
    ),
)
