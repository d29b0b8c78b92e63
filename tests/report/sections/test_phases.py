import numpy as np
import pandas as pd
import pytest

from dynamics import record
from dynamics.changepoints import ChangePoint, Phases
from dynamics.report.sections import phases
from dynamics.report.study import study_of
from dynamics.run_info import FitInfo

STEPS = (0, 1, 2, 4, 8, 16, 32, 64)


def study(seeds, steps=STEPS):
    """Decoders whose anisotropy rises, then falls, and whose mean cosine grows evenly; encoders that do neither."""
    generator, infos, rows = np.random.default_rng(0), {}, {}
    for arm, bend in (("decoder", 1), ("encoder", 0)):
        for seed in range(seeds):
            run = f"{arm}-{seed}"
            place = {"objective": "clm" if bend else "mlm", "is_causal": bool(bend), "label": arm}
            infos[run] = FitInfo(run=run, status="done", seed=seed, **place)
            table = []
            for i, step in enumerate(steps):
                for metric, value in (("anisotropy", 0.1 + bend * 0.05 * min(i, 8 - i)), ("mean_cosine", 0.05 * i)):
                    noisy = value + 0.002 * generator.standard_normal()
                    table.append(record.Row(run, "", "", step, "residual", 1, -1, metric, noisy))
            rows[run] = record.with_conditions(pd.DataFrame(table))
    return study_of(infos, rows, [])


def test_quantities_with_change_points_have_their_phases_told():
    section = phases.section(study(4))
    (table,) = section.blocks
    assert [row.label for row in table.rows] == ["Anisotropy (residual stream)"]
    assert table.columns == ("decoder", "encoder")
    decoder, encoder = table.rows[0].cells
    assert decoder.startswith("rises by 0.199 until")
    assert decoder.endswith("until step 8 [6, 11], then falls by 0.149")
    assert encoder == phases.NONE
    assert table.note.startswith("4 seeds.")


@pytest.mark.parametrize(("seeds", "steps"), [(2, STEPS), (4, STEPS[:4])])
def test_too_few_seeds_or_steps_have_no_section(seeds, steps):
    assert not phases.applies(study(seeds, steps))


def test_a_small_change_is_called_level():
    points = (ChangePoint(8, 6, 11),)
    assert phases.words(Phases(points, (0.01,), (0.01, -1.0), 4)) == (
        "stays level until step 8 [6, 11], then falls by 1.00"
    )
