"""`dynamics audit` on runs, folders and the hub: what is injected is found, and nothing else."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from dynamics import record, runs
from dynamics.cli.main import main
from dynamics.experiments.audit.loop import series_of
from tests.runs import fit, working_in

STEPS = 50
EVERY_STEP = {
    **{"trainer__max_steps": STEPS, "trainer__val_check_interval": STEPS, "checkpoints__every": STEPS},
    **{"monitor__schedule__class_path": "dynamics.schedule.Every", "monitor__schedule__init_args__interval": 1},
    "metrics": "[mean_norm]",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, text_file):
    """Two runs that keep their weights at each of 50 steps."""
    place = tmp_path_factory.mktemp("trained")
    with working_in(place):
        fit(text_file, "first", **EVERY_STEP)
        fit(text_file, "second", **EVERY_STEP, seed_everything=1)
    return place / "checkpoints"


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def injected(trained, folder, changes):
    """The first run, where the steps of `changes` have the weights of another step, of (run, step)."""
    (folder / "weights").mkdir(parents=True)
    shutil.copy(trained / "first" / "run.json", folder)
    for step in range(STEPS + 1):
        run, source = changes.get(step, ("first", step))
        (folder / "weights" / f"step-{step:010d}").symlink_to(trained / run / "weights" / f"step-{source:010d}")
    return folder


def suspects(model, revisions=None):
    series = series_of(str(model), revisions)
    series.examine(False, False, lambda share: None)
    return {verdict.subject.step: "; ".join(verdict.reasons) for verdict in series.verdicts if verdict.reasons}


def swap(i, j):
    return {i: ("first", j), j: ("first", i)}


INJECTED = [
    *(swap(k, k + 1) for k in (0, 4, 17, 36, 49)),
    *(swap(i, j) for i, j in ((2, 40), (11, 14), (20, 50), (0, 33))),
    *({k: ("first", k + 1)} for k in (9, 30)),
    *({i: ("first", j)} for i, j in ((3, 21), (44, 6), (25, 0))),
    *({k: ("first", STEPS)} for k in (8, 47)),
    *({k: ("second", k)} for k in (0, 5, 28, 50)),
]


def test_20_of_20_swaps_are_found_and_nothing_else(trained, tmp_path):
    assert len(INJECTED) == 20
    assert suspects(trained / "first") == suspects(trained / "second") == {}
    named = [set(suspects(injected(trained, tmp_path / f"r{k}", changes))) for k, changes in enumerate(INJECTED)]
    neighbours = {9: {9, 10}, 30: {30, 31}}  # copies of a neighbour: distances do not tell which of both is one
    expected = [neighbours.get(min(changes), set(changes)) for changes in INJECTED]
    assert named == expected


def test_parts_of_a_series_are_clean(trained):
    noise = np.random.default_rng(0)
    for count in (3, 5, 8, 13):
        steps = sorted(noise.choice(STEPS + 1, count, replace=False))
        assert suspects(trained / "first", ",".join(map(str, steps))) == {}


def test_many_steps_with_the_last_weights_are_named(trained, tmp_path):
    changes = dict.fromkeys(range(10, 40), ("first", STEPS))
    named = suspects(injected(trained, tmp_path / "r", changes))
    assert set(named) == set(changes)
    assert "step50" in named[20]


def audit(*words, code=0):
    if code:
        with pytest.raises(SystemExit) as exit:
            main(["audit", *map(str, words)])
        assert exit.value.code == code
    else:
        main(["audit", *map(str, words)])


def test_verb_record_and_page(trained, workplace, capsys):
    folder = injected(trained, workplace / "mixed", swap(20, 21) | {40: ("second", 40)})
    audit(folder, "--run", "a", code=1)
    out, err = capsys.readouterr()
    assert "mixed@step20 is suspect: its weights fit the place of step 21: swapped." in out
    assert "dynamics: 3 of 51 checkpoints are suspect: mixed@step20, mixed@step21, mixed@step40." in err
    info = runs.read("a")
    assert (info.kind, info.status) == ("audit", "done")
    assert info.audit["mixed@step20"]["suspect"]
    assert not info.audit["mixed@step19"]["suspect"]
    frame = record.read("a", conditions=True)
    marked = frame[(frame["metric"] == "suspect") & (frame["value"] == 1)].set_index("step")["reason"]
    assert list(marked.index) == [20, 21, 40]
    assert marked[40].startswith("the way through it is ")
    distances = frame[(frame["metric"] == "weight_distance") & (frame["to"] == "previous")]
    weights = [load_file(trained / "first" / "weights" / f"step-{k:010d}" / "model.safetensors") for k in (5, 6)]
    for layer, part in ((-1, ""), (2, "layers.1.")):
        old, new = (torch.cat([v.flatten() for n, v in sorted(w.items()) if part in n]).double() for w in weights)
        value = distances[(distances["step"] == 6) & (distances["layer"] == layer) & distances["stack"].isna()]["value"]
        assert value.item() == pytest.approx(((new - old).norm() / old.norm()).item(), rel=1e-9)
    to_last = frame[(frame["metric"] == "weight_distance") & (frame["to"] == "last") & (frame["layer"] == -1)]
    clean = to_last[~to_last["step"].isin([20, 21, 40]) & to_last["stack"].isna()].sort_values("step")["value"]
    assert len(clean) == 47
    assert clean.is_monotonic_decreasing
    html = Path("checkpoints/a/report.html").read_text()
    assert "3 of 51 checkpoints are suspect" in html
    assert "swapped" in html
    audit(trained / "first", "--run", "a", "--resume", "auto")
    assert "first: none of 51 checkpoints is suspect" in capsys.readouterr().out
    assert set(record.read("a")["subject"]) == {f"first@step{step}" for step in range(51)}


def test_a_scan_with_audit_keeps_the_verdicts_and_says_so_at_its_figures(trained, workplace, text_file, capsys):
    folder = injected(trained, workplace / "mixed", {30: ("first", 50)})
    words = [
        "--revisions",
        "0,10,20,30,40,50",
        "--text",
        str(text_file),
        "--tokens",
        "256",
        "--metrics",
        "[anisotropy]",
    ]
    with pytest.raises(SystemExit) as exit:
        main(["scan", str(folder), *words, "--metrics", "[anisotropy]", "--audit", "--run", "s"])
    assert exit.value.code == 1
    assert "1 of 6 checkpoints is suspect: mixed@step30" in capsys.readouterr().err
    assert runs.read("s").audit["mixed@step30"]["equal"] == {"step50": "exact"}
    html = Path("checkpoints/s/report.html").read_text()
    assert html.count("Of mixed, step30 is suspect: see Audit.") >= 3  # head, over depth, along training
    with pytest.raises(SystemExit) as exit:
        main(["scan", "random:gpt2", *words[2:4], "--audit", "--run", "t"])
    assert exit.value.code == 2
    assert "--audit has no effect on random:gpt2" in capsys.readouterr().err


def tiny(seed):
    torch.manual_seed(seed)
    return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=16, n_embd=24, n_layer=2, n_head=2))


def series_folder(folder, count=8):
    """A folder of steps, and main beside them: a model that moves on at random."""
    model = tiny(0)
    for step in range(count):
        model.save_pretrained(folder / f"step{step}")
        for parameter in model.parameters():
            parameter.data += 0.01 * torch.randn_like(parameter)
    shutil.copytree(folder / f"step{count - 1}", folder, dirs_exist_ok=True)
    return folder


def test_only_the_last_step_may_be_main(tmp_path):
    folder = series_folder(tmp_path / "m")
    assert suspects(folder) == {}
    shutil.copy(folder / "model.safetensors", folder / "step3")
    named = suspects(folder)
    assert set(named) == {3}
    assert "equal to step7, main" in named[3]
    assert "as only the last step (7) may be" in suspects(folder, "step0,step3")[3]  # the last is not among them


def test_main_may_be_a_step_that_is_not_the_last_if_it_is_in_its_place(tmp_path):
    folder = series_folder(tmp_path / "m")
    shutil.copy(folder / "step5" / "model.safetensors", folder)
    series = series_of(str(folder), None)
    series.examine(False, False, lambda share: None)
    assert not any(verdict.reasons for verdict in series.verdicts)
    assert "main is this step, which is not the last" in series.verdicts[5].notes


def test_format_and_precision_do_not_matter(tmp_path):
    folder = series_folder(tmp_path / "m")
    (weights := folder / "step4" / "model.safetensors").rename(weights.with_name("moved"))
    tensors = load_file(weights.with_name("moved"))
    torch.save(tensors | {"lm_head.weight": tensors["transformer.wte.weight"]}, weights.with_name("pytorch_model.bin"))
    assert suspects(folder) == {}
    halves = {name: value.bfloat16() for name, value in load_file(folder / "step2" / "model.safetensors").items()}
    names = sorted(halves)
    shards = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    (folder / "step6" / "model.safetensors").unlink()
    for shard, part in shards.items():
        save_file({name: halves[name] for name in part}, folder / "step6" / shard)
    weight_map = {name: shard for shard, part in shards.items() for name in part}
    index = folder / "step6" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert suspects(folder) == {6: "equal to step2 after rounding to bfloat16"}


def test_a_lost_part_and_a_part_of_another_step_are_named(tmp_path):
    folder = series_folder(tmp_path / "m")
    path = folder / "step3" / "model.safetensors"
    whole, late = load_file(path), load_file(folder / "step6" / "model.safetensors")
    save_file({name: value for name, value in whole.items() if "h.1.mlp" not in name}, path)
    assert "it lacks 2 matrices that others have" in suspects(folder)[3]
    save_file(whole | {name: value for name, value in late.items() if "h.1.mlp" in name}, path)
    assert "of its matrices are those of step6" in suspects(folder)[3]


@pytest.mark.parametrize("kind", ["trained", "scaled", "fine"])
def test_step_0_is_compared_with_its_declared_initialisation(kind, tmp_path):
    folder = series_folder(tmp_path / "m", 1)
    model = tiny(3)
    for name, parameter in model.named_parameters():
        if kind == "trained" and ("ln" in name or "bias" in name):
            parameter.data += 0.1 * torch.rand_like(parameter)
        if kind == "scaled" and parameter.dim() > 1:
            parameter.data *= 0.5
    model.save_pretrained(folder / "step0")
    series = series_of(str(folder), "step0")
    series.examine(False, False, lambda share: None)
    verdict = series.verdicts[0]
    assert any("not those of an untrained model" in reason for reason in verdict.reasons) == (kind == "trained")
    assert any("times those that its config declares" in note for note in verdict.notes) == (kind == "scaled")
    ratios = [value for (metric, _, _), value in verdict.values.items() if metric == "initial_std_ratio"]
    assert kind == "trained" or ratios == pytest.approx([0.5 if kind == "scaled" else 1.0] * 3, abs=0.05)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no"), "cannot be read"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
        (lambda folder: torch.save({"w": Path("x")}, folder / "pytorch_model.bin"), None),
    ],
)
def test_what_cannot_be_read_is_suspect_and_refused_alone(damage, says, workplace, capsys):
    folder = series_folder(workplace / "m", 4)
    damage(folder / "step1")
    if says is None:
        (folder / "step1" / "model.safetensors").unlink()
        says = "cannot be read"
    audit(folder, "--run", "a", code=1)
    assert "1 of 5 checkpoints is suspect: m@step1" in capsys.readouterr().err
    assert says in runs.read("a").audit["m@step1"]["reasons"][0]
    audit(folder / "step1", "--run", "b", code=2)
    err = capsys.readouterr().err.strip()
    assert says in err
    assert "step1@local" in err
    assert len(err.splitlines()) == 1
    assert not Path("checkpoints/b").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["random:gpt2"], "has no checkpoint to audit"),
        ([], "name at least one model"),
        (["./none"], "no model at ./none"),
    ],
)
def test_what_has_no_checkpoints_is_refused(words, says, workplace, capsys):
    audit(*words, code=2)
    assert says in capsys.readouterr().err


def test_two_models_of_one_name_are_refused(workplace, capsys):
    for place in ("x", "y"):
        series_folder(workplace / place / "m", 2)
    audit("x/m", "y/m", code=2)
    assert "m@step0 is named twice" in capsys.readouterr().err


def test_what_cannot_be_compared_with_main_says_so(workplace, monkeypatch, capsys):
    folder = series_folder(workplace / "m", 3)
    (folder / "model.safetensors").unlink()
    audit("m", "--run", "a")
    assert "m@step2: not compared with main (m@main holds no weights" in capsys.readouterr().out


def test_hashes_of_the_hub_need_no_download(workplace, monkeypatch, capsys):
    """86 of 154 branches of a model once had the weights of main: their hashes alone tell."""
    steps = [0, 1, 2, 4, 1000, 2000, 3000]
    wrong = {1000, 2000}

    def tree(self, repo, revision):
        last = revision in ("main", "step3000") or int(revision.removeprefix("step")) in wrong
        lfs = SimpleNamespace(sha256=("f" if last else revision[-1]) * 64)
        return [SimpleNamespace(path="config.json", lfs=None), SimpleNamespace(path="model.safetensors", lfs=lfs)]

    branches = [SimpleNamespace(name=name) for name in ("main", *(f"step{step}" for step in steps))]
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_refs", lambda self, name: SimpleNamespace(branches=branches))
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_tree", tree)
    audit("lab/model", "--hashes_only", "--run", "a", code=1)
    verdicts = runs.read("a").audit
    assert {name for name, facts in verdicts.items() if facts["suspect"]} == {f"lab/model@step{s}" for s in wrong}
    assert verdicts["lab/model@step3000"]["equal"] == {"step1000": "exact", "step2000": "exact", "main": "exact"}
    audit("lab/model", "--hashes_only", "--revisions", "step0,step2000", "--run", "b", code=1)
    assert "step2000 is suspect: equal to main, as only the last step (3000) may be" in capsys.readouterr().out


def test_a_model_that_cannot_be_reached_is_named_in_a_sentence(workplace, monkeypatch, capsys):
    class Unreachable(Exception):
        """As the library's client raises it: no OSError."""

    def refuse(*args, **options):
        raise Unreachable("name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_tree", refuse)
    audit("lab/nowhere", "--hashes_only", "--revisions", "step0,step1", "--run", "a", code=2)
    assert "neither a folder here nor in the cache" in capsys.readouterr().err
