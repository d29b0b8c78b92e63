"""Metrics describe themselves, and what the report reads without torch says the same."""

import json
from pathlib import Path

import pytest

import dynamics
from dynamics import metrics
from dynamics.measure.suite import Suite
from dynamics.metrics.streaming.base import SITES, Metric

DESCRIPTIONS = metrics.describe()


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_every_metric_and_variant_describes_itself(name):
    facts = DESCRIPTIONS[name]
    assert all(facts[key] for key in ("title", "meaning", "estimator", "source"))
    low, high = facts["range"]
    assert low is None or high is None or low < high
    assert facts["signed"] == (low is None or low < 0)
    assert not (facts["wide"] and facts["signed"])
    assert json.loads(json.dumps(facts)) == facts


def test_what_the_report_reads_says_the_same():
    path = Path(dynamics.__file__).parent / "report" / "metrics.json"
    assert json.loads(path.read_text()) == DESCRIPTIONS, "stale: run `python docs/make_metrics.py`"


def test_titles_of_variants():
    titles = [DESCRIPTIONS[f"intrinsic_dimension{suffix}"]["title"] for suffix in ("", "_mle", "_lowest_20")]
    assert titles == ["intrinsic dimension", "intrinsic dimension (mle)", "intrinsic dimension (lowest 20)"]
    assert metrics.resolve("intrinsic_dimension_lowest_35").description()["title"] == "intrinsic dimension (lowest 35)"
    assert DESCRIPTIONS["local_anisotropy_random"]["title"] == "local anisotropy, random"


def test_a_metric_that_says_nothing_is_described_by_its_name():
    class Silent(Metric):
        name = "stable_rank"

    facts = Silent().description()
    assert (facts["title"], facts["range"], facts["signed"]) == ("stable rank", [None, None], True)


def test_a_suite_describes_what_it_measures_by_the_names_of_its_rows():
    suite = Suite.parse({"anisotropy": None, "intrinsic_dimension": {"keep": 0.2, "size": 64}})
    described = suite.descriptions()
    assert list(described) == ["anisotropy", "intrinsic_dimension_lowest_20"]
    assert described["anisotropy"] == DESCRIPTIONS["anisotropy"]
    assert Suite.parse().descriptions().keys() == Suite.parse().names


def test_the_default_suite_is_what_the_classes_say():
    assert list(metrics.default()) == [site for site in SITES if site != "value"]
    assert metrics.default()["query"] == metrics.default()["key"] == ("norm_of_mean", "drift", "mean_cosine")
    assert metrics.default()["residual"][-2:] == ("local_anisotropy", "local_anisotropy_random")
    for site, names in metrics.default().items():
        assert all(site in metrics.resolve(name).sites for name in names)
