import subprocess
import sys

import pytest
import torch

from dynamics import metrics
from dynamics.errors import InputError
from dynamics.metrics.mean_cosine import mean_cosine
from dynamics.metrics.streaming import Metric, Windowed


@pytest.mark.parametrize("name", metrics.names())
def test_file_function_and_class_bear_the_name(name):
    module = __import__(f"dynamics.metrics.{name}", fromlist=[name])
    function = getattr(module, name)
    metric = metrics.resolve(name)
    assert isinstance(metric, Metric)
    assert metric.name == name
    for section in ("Formula:", "Pitfalls:", ">>> "):
        assert section in function.__doc__, section
    assert "Interval:" in function.__doc__ or isinstance(metric, Windowed)


@pytest.mark.parametrize(
    "name", ["intrinsic_dimension_lowest_20", "intrinsic_dimension_mle", "local_anisotropy_random"]
)
def test_variants_bear_theirs(name):
    assert metrics.resolve(name).name == name


def test_a_class_path_and_options():
    metric = metrics.resolve("dynamics.metrics.intrinsic_dimension.IntrinsicDimension", size=100)
    assert metric.size == 100
    assert metrics.resolve("intrinsic_dimension", size=100).accumulator == metric.accumulator


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("anisotopy", {}, "did you mean anisotropy"),
        ("anisotropy_of_mine", {}, "no metric named anisotropy_of_mine"),
        ("anisotropy", {"sise": 3}, "sise"),
        ("nowhere.Metric", {}, "nowhere"),
        ("dynamics.metrics.streaming.base.Estimate", {}, "is no Metric"),
        ("dynamics.metrics.entropy.Entropie", {}, "Entropie"),
    ],
)
def test_refusals(name, options, sentence):
    with pytest.raises(InputError, match=sentence) as refusal:
        metrics.resolve(name, **options)
    assert "\n" not in str(refusal.value)


def test_looking_names_up_imports_no_torch():
    code = "import sys; from dynamics import metrics; metrics.names(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_shapes_are_checked_in_tests():
    with pytest.raises(TypeError, match="x"):
        mean_cosine(torch.ones(3))


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [("intrinsic_dimension", "size", -1), ("mean_norm", "windows", 0), ("local_anisotropy", "neighbors", -1)],
)
def test_no_size_is_less_than_one(name, option, value):
    with pytest.raises(InputError, match=rf"metrics\.{name}\.{option} must be at least 1 \(got {value}\)"):
        metrics.resolve(name, **{option: value})
    assert metrics.resolve("intrinsic_dimension", seed=0).seed == 0
