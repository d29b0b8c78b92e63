"""Options of `dynamics scan`. No torch here."""

from dataclasses import dataclass, field

from dynamics.loading.options import READING, InputOptions

SHAPE_OF_LEARNING, INHERENT = "shape-of-learning", "inherent"


@dataclass(frozen=True)
class ScanOptions(InputOptions):
    """Measure any model, layer by layer, as training is measured.

    Args:
        protocol: shape-of-learning (2311.05928) or inherent (2401.12143)
        audit: first check that the checkpoints are what their steps say, as dynamics audit does
        allow_classes: another package whose classes the config.yaml of a run may name
    """

    protocol: str | None = None
    audit: bool = False
    allow_classes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.protocol is not None:
            self.refuse_unknown("protocol", (SHAPE_OF_LEARNING, INHERENT))
        if self.protocol == SHAPE_OF_LEARNING:
            self.refuse_unused(READING, f"with --protocol {SHAPE_OF_LEARNING}, which cuts its own windows")
