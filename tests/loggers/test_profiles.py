"""Extremes of quantities over depth, and their pictures."""

import numpy as np

from dynamics.loggers.profiles import COLOURS, HEIGHT, LEFT, TOP, WIDTH, Profiles


def profile(*values, name="anisotropy"):
    return {f"{name}/layer_{layer:02d}": value for layer, value in enumerate(values)}


def test_the_summary_has_the_peak_of_the_last_step_and_extremes_with_their_places():
    profiles = Profiles()
    summary = profiles.add(0, profile(9.0, 0.1, 0.5, 0.2))
    summary |= profiles.add(4, profile(9.0, 0.3, 0.2, float("nan")) | {"train/loss": 2.0})
    summary |= profiles.add(5, {"train/loss": 3.0, "cost/step_seconds": 1.0})
    assert summary == {
        "anisotropy/peak_layer": 1,
        **{"anisotropy/min": 0.1, "anisotropy/min_step": 0, "anisotropy/min_layer": 1},
        **{"anisotropy/max": 0.5, "anisotropy/max_step": 0, "anisotropy/max_layer": 2},
        **{"train/loss_min": 2.0, "train/loss_min_step": 4, "train/loss_max": 3.0, "train/loss_max_step": 5},
    }
    assert profiles.add(6, {"train/loss": 2.5}) == {}


def test_a_picture_has_layers_upwards_and_steps_to_the_right():
    profiles = Profiles()
    for step, values in ((0, (0, 0, 1)), (1, (0, 2, 3))):
        profiles.add(step, profile(*map(float, values)))
    assert list(profiles.pictures(2)) == []
    ((name, picture),) = profiles.pictures(1)
    pixels = np.asarray(picture)
    rows, columns = TOP + HEIGHT // 4, LEFT + WIDTH // 4
    corners = [[pixels[y, x].tolist() for x in (columns, columns + WIDTH // 2)] for y in (rows + HEIGHT // 2, rows)]
    assert name == "anisotropy"
    assert corners[0][0] == COLOURS[0].tolist()  # layer 1 at step 0: the least
    assert corners[1][1] == COLOURS[-1].tolist()  # layer 2 at step 1: the greatest
    assert corners[1][0] != corners[0][1]


def test_values_that_are_all_equal_and_values_that_are_missing_are_drawn():
    profiles = Profiles(["drift"])
    profiles.add(0, profile(0.0, 0.0, 0.0, name="drift"))
    profiles.add(1, profile(0.0, 0.0, float("nan"), name="drift"))
    assert len(list(profiles.pictures(1))) == 1
    profiles.add(2, profile(float("nan"), float("nan"), name="drift"))
    assert list(profiles.pictures(2)) == []
