from hypothesis import given
from hypothesis import strategies as st

from dynamics.report.plot.style import TEMPLATE, Scale, looks, plain

steps = st.sets(st.integers(0, 10**6), min_size=1, max_size=30)


@given(steps)
def test_positions_keep_their_order_and_lie_on_the_axis(values):
    scale = Scale.of(values)
    placed = scale.place(sorted(values))
    assert placed == sorted(set(placed))
    low, high = scale.axis("step")["range"]
    assert all(10**low <= x <= 10**high for x in placed)


@given(steps)
def test_ticks_are_few_true_and_on_the_axis(values):
    at, text = Scale.of(values).ticks()
    assert 1 <= len(at) <= 8
    assert ("0" in text) == (0 in values)
    assert len(set(text)) == len(text)


@given(steps)
def test_colours_run_from_the_first_to_the_last_position(values):
    ordered = sorted(values)
    shades = Scale.of(values).fraction(ordered)
    assert shades[0] == 0
    assert len(ordered) == 1 or abs(shades[-1] - 1) < 1e-9


def test_zero_stands_at_half_the_first_step_and_is_called_zero():
    axis = Scale.of([0, 1000, 143000]).axis("step")
    assert Scale.of([0, 1000, 143000]).place([0]) == [500]
    assert dict(zip(axis["tickvals"], axis["ticktext"], strict=True))[500] == "0"


def test_negative_values_make_the_axis_linear():
    scale = Scale.of([-2, 0, 2])
    assert "type" not in scale.axis("weight")
    assert scale.place([-2, 0]) == [-2, 0]
    assert scale.fraction([-2, 0, 2]).tolist() == [0, 0.5, 1]


def test_arms_never_look_alike():
    found = looks([f"arm {i}" for i in range(20)])
    assert len(set(found.values())) == 20
    assert len({look.colour for look in list(found.values())[:7]}) == 7


def test_text_in_figures_carries_no_markup():
    assert plain("<b onclick='x'>") == "&lt;b onclick='x'&gt;"


def test_long_labels_of_values_that_hardly_differ_push_the_title_aside():
    axes = TEMPLATE.layout
    assert (axes.yaxis.automargin, axes.xaxis.automargin) == (True, False)
