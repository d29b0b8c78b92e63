import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from dynamics import record
from dynamics.record import Row
from dynamics.report.plot.style import DARK, looks
from dynamics.report.study import load
from dynamics.watch import view
from tests.report.conftest import write_run

NAMES = ("subject", "condition", "step", "site", "metric")


def rows_of(answer, run):
    """The rows that an answer holds, as the record has them."""
    rows = []
    for group in (group for groups in answer["runs"][run]["parts"].values() for group in groups):
        count = len(group["values"])
        layers, heads = (group.get(name, [-1] * count) for name in ("layers", "heads"))
        steps = group.get("steps") or [group["step"]] * count
        low, high = (group.get(name) or [None] * count for name in ("low", "high"))
        for i, value in enumerate(group["values"]):
            rows.append((steps[i], group["site"], layers[i], heads[i], group["metric"], value, low[i], high[i]))
    columns = ["step", "site", "layer", "head", "metric", "value", "low", "high"]
    return (
        pd.DataFrame(rows, columns=columns)
        .sort_values(columns[:5], ignore_index=True)
        .astype({"value": float, "low": float, "high": float})
    )


def expected(run, heads=False):
    frame = record.read(run)
    frame = frame[(frame["head"] >= 0) == heads]
    is_curve = frame["site"].isin(["train", "validation", "cost"])
    frame = frame.assign(low=frame["low"].mask(is_curve | heads), high=frame["high"].mask(is_curve | heads))
    columns = ["step", "site", "layer", "head", "metric", "value", "low", "high"]
    return frame[columns].sort_values(columns[:5], ignore_index=True)


def same(a, b):
    pd.testing.assert_frame_equal(a, b, check_dtype=False, check_exact=True)


def looks_of(study):
    """The looks of a report's arms, each with the colour that it has on a dark page."""
    return [asdict(look) | {"dark": DARK[look.colour]} for look in looks(study.arm_names).values()]


def test_what_the_page_gets_is_what_the_record_has(store, make):
    make("d0")
    make("e0", "encoder")
    for run in ("d0", "e0"):
        layers, heads = (
            json.loads(json.dumps(read(store, ["e0", "d0"]), allow_nan=False)) for read in (view.view, view.heads)
        )
        same(rows_of(layers, run), expected(run))
        same(rows_of(heads, run), expected(run, heads=True))


def test_only_news_is_sent_and_a_cut_sends_all(store, make, place):
    folder = make("d0")
    first = view.view(store, ["d0"])
    assert first["runs"]["d0"]["whole"]
    nothing = view.view(store, ["d0"], first["version"])
    assert (nothing["runs"]["d0"]["parts"], nothing["version"]) == ({}, first["version"])
    record.Record(folder).write(400, [Row("d0", "", "", 400, "residual", 1, -1, "anisotropy", 0.5)])
    news = view.view(store, ["d0"], first["version"])["runs"]["d0"]
    assert (list(news["parts"]), news["whole"]) == (["geometry-0000000400.parquet"], False)
    record.Record(folder).cut(64)
    cut = view.view(store, ["d0"], news.get("version", first["version"]))["runs"]["d0"]
    assert cut["whole"]
    assert max(group.get("step", 0) for groups in cut["parts"].values() for group in groups) == 64


def test_a_change_of_one_run_is_no_news_of_another(store, make, small):
    small("a")
    small("b")
    version = view.view(store, ["a", "b"])["version"]
    small("a", 8)
    assert {run: list(news["parts"]) for run, news in view.view(store, ["a", "b"], version)["runs"].items()} == {
        "a": ["geometry-0000000008.parquet"],
        "b": [],
    }


def test_arms_names_and_looks_are_those_of_the_report(store, make):
    folders = [make("d0"), make("d1", seed=1), make("e0", "encoder"), make("m0", "masked")]
    arms = view.view(store, [folder.name for folder in folders])["arms"]
    study = load(folders)
    assert [arm["name"] for arm in arms] == study.arm_names
    assert [arm["look"] for arm in arms] == looks_of(study)
    assert [[member[0] for member in arm["members"]] for arm in arms] == [["d0", "d1"], ["e0"], ["m0"]]
    assert [member[3] for member in arms[0]["members"]] == ["0", "1"]


def test_looks_and_names_are_those_of_the_report_for_a_scan_whose_checkpoints_were_audited(store, place):
    out = record.Record(place / "checkpoints" / "s")
    for subject in ("m@step8", "a@main", "m@step0", "m@step4"):
        step = int(subject.partition("step")[2] or 0)
        rows = [Row("s", subject, "", step, "residual", layer, -1, "anisotropy", 0.5) for layer in (0, 1)]
        audited = [Row("s", subject, "to=main", step, "weight", -1, -1, "weight_distance", 0.5)]
        out.write(step, [*audited, *rows], part=subject)
    subjects = {"m@step8": {"series": "m"}, "a@main": {}, "m@step0": {"series": "m"}, "m@step4": {"series": "m"}}
    write_run(place / "checkpoints" / "s", {"run": "s", "kind": "scan", "subjects": subjects})
    arms, study = view.view(store, ["s"])["arms"], load(["s"])
    assert [arm["name"] for arm in arms] == study.arm_names == ["a", "m"]
    assert [arm["look"] for arm in arms] == looks_of(study)


def test_conditions_are_followed_along_what_varies(store, place):
    out = record.Record(place / "checkpoints" / "p")
    for beta in (0, 1, 4):
        condition = record.condition(beta=beta, seed=0)
        out.write(0, [Row("p", "", condition, 0, "residual", 1, -1, "anisotropy", beta / 8)], part=condition)
    (arm,) = view.view(store, ["p"])["arms"]
    assert arm["along"] == "beta"
    assert sorted(member[4] for member in arm["members"]) == [0, 1, 4]


def test_quantities_have_the_words_of_the_report_and_of_the_run(store, small, place):
    small("a")
    own = {"anisotropy": {"title": "own words", "unit": "shares"}}
    write_run(place / "checkpoints" / "a", {"run": "a", "descriptions": own})
    words = view.view(store, ["a"])["words"]
    assert {key: words["residual/anisotropy"][key] for key in ("title", "unit", "site", "core")} == {
        "title": "own words",
        "unit": "shares",
        "site": "residual stream",
        "core": 0,
    }


@pytest.mark.parametrize(
    "descriptions",
    [[1], {"anisotropy": 3}, {"anisotropy": {"title": ["a"], "wide": "x"}}, {"anisotropy": {"wide": "x"}}],
)
def test_a_foreign_run_json_leaves_the_record_to_be_drawn(store, small, place, descriptions):
    small("a")
    write_run(place / "checkpoints" / "a", {"kind": "fit", "run": "a", "descriptions": descriptions, "subjects": 3})
    answer = json.loads(json.dumps(view.view(store, ["a"]), allow_nan=False))
    assert "is not what it must be" in answer["runs"]["a"]["problems"][0]
    assert len(answer["arms"]) == 1
    assert isinstance(answer["words"]["residual/anisotropy"]["title"], str)


def test_runs_that_are_not_there_and_empty_ones_are_left_out_or_empty(store, place):
    (place / "checkpoints" / "empty").mkdir(parents=True)
    write_run(place / "checkpoints" / "empty", {"run": "empty", "kind": "fit"})
    answer = view.view(store, ["empty", "../empty", "/etc", "none", ""])
    assert list(answer["runs"]) == ["empty"]
    assert (answer["runs"]["empty"]["parts"], answer["arms"]) == ({}, [])


def test_settings_are_text(store, make):
    make("d0", learning_rate=float("nan"), overrides={"a": [1, np.inf.__float__()]})
    settings = view.view(store, ["d0"])["runs"]["d0"]["settings"]
    assert (settings["learning_rate"], settings["layers"]) == ("nan", "4")
    assert all(isinstance(value, str) for value in settings.values())
