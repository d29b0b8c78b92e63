"""What becomes of text, images and sound before a model sees them."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.io import wavfile
from transformers import AutoModel

from dynamics import record, runs
from dynamics.errors import InputError
from dynamics.loading import encoder, media, text
from dynamics.loading.inputs import InputSource
from dynamics.loading.models import load
from dynamics.loading.options import InputOptions
from dynamics.loading.subjects import Subject, expand, step_of
from tests.capture.zoo import ZOO, build
from tests.experiments.test_scan import offline, refused, save, scan  # noqa: F401 (offline is a fixture)


def windows(batches):
    return [
        row[mask.bool()].tolist()
        for batch in batches
        for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]


def loaded(name, **overrides):
    options = InputOptions([f"random:{name}"], config_overrides=overrides)
    return load(expand(options)[0], options)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=12), st.integers(1, 9))
def test_running_text_is_cut_without_a_gap(lengths, room):
    given = InputSource(lambda: (("x" * length, 1.0) for length in lengths), {"source": "here"})
    numbers = iter(range(sum(lengths)))
    code = encoder.Encoder(lambda part: [next(numbers) for _ in part], (), (), 0, room, "numbers")
    found = list(text._running(given, code, room))
    assert [i for ids, _ in found for i in ids] == list(range(sum(lengths)))
    assert all(len(ids) == room for ids, _ in found[:-1])


def test_every_token_of_every_line_counts_once(workplace):
    path = workplace / "lines.txt"
    path.write_text("\n".join("word " * (i % 7 + 1) for i in range(50)) + "\n\n")
    model = loaded("bert")
    options = InputOptions([], text=str(path), lines=True, batch_size=4)
    batches = text.text_batches(model, options, text.open_text(options))
    shares: list[float] = []
    batches.on_share = shares.append
    found = windows(batches)
    expected = [[3 + b for b in line.strip().encode()] for line in path.read_text().splitlines() if line]
    assert sorted(found) == sorted(expected)
    assert (batches.inputs, batches.tokens) == (50, sum(map(len, expected)))
    assert 0.99 < shares[-1] <= 1.0


@pytest.mark.parametrize("by_line", [True, False])
def test_no_more_tokens_than_were_asked_for(by_line, workplace):
    path = workplace / "lines.txt"
    path.write_text("one and two and three\n" * 50)
    model = loaded("bert")
    options = InputOptions([], text=str(path), lines=by_line, tokens=100, context=32)
    batches = text.text_batches(model, options, text.open_text(options))
    assert sum(map(len, windows(batches))) == batches.tokens == 100


def test_text_in_blocks_is_the_text(workplace, monkeypatch):
    monkeypatch.setattr(text, "BLOCK", 7)
    path = workplace / "text.txt"
    path.write_text("äöü one two\nthree, and a longwordwithoutanyspaceatallandthenmorethanthat\n\nend" * 3)
    assert "".join(part for part, _ in text._blocks(path)) == path.read_text()


def test_shuffled_tokens_are_the_same_in_another_order(workplace):
    path = workplace / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog " * 20)
    model = loaded("bert")

    def read(**more):
        options = InputOptions([], text=str(path), context=64, **more)
        batches = text.text_batches(model, options, text.open_text(options))
        return windows(batches), batches.condition

    (plain, nothing), (shuffled, said), (again, _) = read(), read(shuffled=True), read(shuffled=True)
    assert (nothing, said) == ({}, {"synthetic": "shuffled"})
    assert plain != shuffled == again
    assert [sorted(ids) for ids in plain] == [sorted(ids) for ids in shuffled]


def test_special_tokens_stand_around_every_window(workplace):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "b"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", model_max_length=5)
    code = encoder._from_tokenizer(fast, 64)
    assert (code.prefix, code.suffix, code.limit) == ((1,), (2,), 5)
    path = workplace / "text.txt"
    path.write_text("a b a b a a a")
    save("bert", workplace / "m")
    fast.save_pretrained(workplace / "m")
    _, told = scan("m", "--text", path)
    facts = told["subjects"]["m@local"]["input"]
    assert (facts["inputs"], facts["tokens"], facts["context"]) == (3, 7 + 2 * 3, 5)


def test_a_data_set_by_datasets(workplace, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(workplace / "cache"))
    (workplace / "set").mkdir()
    rows = [{"label": i, "sentence": "x" * (i + 1)} for i in range(4)]
    (workplace / "set" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = text.open_text(InputOptions([], text="hub:set:::sentence"))
    assert [part for part, _ in found.items()] == ["x", "xx", "xxx", "xxxx"]
    monkeypatch.setattr(text, "CORPUS_TOKENS", 5)  # a data set may have no end
    batches = text.text_batches(loaded("bert"), InputOptions([], text="hub:set:::sentence"), found)
    assert sum(map(len, windows(batches))) == 5
    with pytest.raises(InputError, match="no column text: choose from label, sentence"):
        text.open_text(InputOptions([], text="hub:set"))


def pictures(folder, count=3):
    folder.mkdir()
    for i in range(count):
        pixels = np.random.default_rng(i).integers(256, size=(40, 30 + i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def test_lines_that_are_no_text_are_named_and_the_others_measured(workplace, capsys):
    path = workplace / "mixed.txt"
    path.write_bytes(b"The first one.\nA \xff byte.\n\nThe last one.\n")
    said = refused(capsys, "random:bert", "--text", path, "--lines", code=1)
    assert "line 2 of mixed.txt: UnicodeDecodeError" in said
    facts = runs.read("r").to_dict()["subjects"]["random:bert@seed0"]["input"]
    assert (facts["inputs"], facts["skipped"]) == (2, 1)


def test_images_are_read_and_the_damaged_ones_named(workplace, capsys, caplog):
    folder = pictures(workplace / "images")
    (folder / "torn.jpg").write_bytes(b"\xff\xd8 nothing")
    (folder / "notes.txt").write_text("no image")
    path = save("vit", workplace / "vit")
    said = refused(capsys, path, "--images", folder, code=1)
    assert "r lacks 1 of what was asked for (torn.jpg: UnidentifiedImageError" in said
    frame, told = record.read("r"), runs.read("r").to_dict()
    assert "vit brings no processor" in caplog.text
    facts = told["subjects"]["vit@local"]["input"]
    assert (facts["inputs"], facts["skipped"], list(facts["unreadable"])) == (3, 1, ["torn.jpg"])
    assert (frame["condition"] == "").all()
    processor, _ = media._image_processor(load(Subject("vit", "local", 0, "folder", str(path)), InputOptions([])))
    images = [Image.open(folder / f"{i}.png") for i in range(3)]
    with torch.no_grad():
        states = AutoModel.from_pretrained(path)(
            processor(images, return_tensors="pt")["pixel_values"], output_hidden_states=True
        )
    mean = states.hidden_states[1].flatten(0, 1).double().mean(0).norm()
    row = frame[(frame["metric"] == "norm_of_mean") & (frame["site"] == "residual") & (frame["layer"] == 1)]
    assert row["value"].item() == pytest.approx(float(mean), rel=1e-5)
    for file in folder.glob("*.png"):
        file.write_bytes(b"")
    assert "nothing to measure" in refused(capsys, path, "--images", folder, run="none")
    assert not Path("checkpoints/none").exists()


def clips(folder):
    folder.mkdir()
    random = np.random.default_rng(0)
    short = random.uniform(-0.5, 0.5, 4000)
    wavfile.write(folder / "a.wav", 16000, short.astype(np.float32))
    wavfile.write(folder / "b.wav", 16000, (random.uniform(-0.5, 0.5, (3000, 2)) * 32767).astype(np.int16))
    wavfile.write(folder / "c.wav", 8000, (random.uniform(-0.5, 0.5, 2500) * 32767).astype(np.int16))
    (folder / "d.wav").write_bytes((folder / "a.wav").read_bytes()[:9000])  # a download that broke off
    return folder


@pytest.mark.parametrize("name", ["wav2vec2", "hubert", "whisper"])
def test_sound_is_heard_and_padding_is_not(name, workplace, capsys):
    folder = clips(workplace / "clips")
    if name == "whisper":
        from transformers import AutoConfig

        config = AutoConfig.for_model(name, **(ZOO[name].config | {"max_source_positions": 100}))
        AutoModel.from_config(config).save_pretrained(workplace / "m")
    else:
        build(name).save_pretrained(workplace / "m")
    refused(capsys, "m", "--audio", folder, metrics="[norm_of_mean]", code=1)
    facts = runs.read("r").to_dict()["subjects"]["m@local"]
    assert (facts["input"]["inputs"], facts["input"]["skipped"]) == (3, 1)
    samples = [4000, 3000, 5000]
    if name == "whisper":
        expected = sum((n // 160 + 1) // 2 for n in samples)
        assert abs(facts["input"]["tokens"] - expected) <= len(samples)  # frames at the end round up or down
    else:
        expected = sum(((n - 8) // 4 + 1 - 4) // 4 + 1 for n in samples)
        assert facts["input"]["tokens"] == expected


def test_samples_of_any_kind_are_between_minus_one_and_one(tmp_path):
    wave = np.array([0.0, 0.5, -0.5, 0.25])
    for dtype, scale, shift in (
        (np.int16, 2**15, 0),
        (np.int32, 2**31, 0),
        (np.uint8, 128, 128),
        (np.float32, 1, 0),
    ):
        wavfile.write(tmp_path / "w.wav", 8000, (wave * scale + shift).astype(dtype))
        heard, rate = media._read_clip(tmp_path / "w.wav")
        assert rate == 8000
        np.testing.assert_allclose(heard, wave, atol=1e-6)


@pytest.mark.parametrize("factory", ["plain", "pair"])
def test_any_module_that_encodes_its_texts(factory, workplace):
    path = workplace / "lines.txt"
    path.write_text("one two three\nfour five\n")
    frame, told = scan("--module", f"tests.experiments.factories:{factory}", "--text", path, "--lines")
    (facts,) = told["subjects"].values()
    assert (facts["layers"], facts["heads"], facts["is_causal"]) == (3, [2, 2, 2], False)
    assert (frame.loc[frame["metric"] == "norm_of_mean", "n"] == 5).all()


def test_inputs_of_a_module_that_encodes_are_counted_one_by_one(workplace, capsys):
    path = workplace / "lines.txt"
    path.write_text("one two\n" * 5)
    words = ["--module", "tests.experiments.factories:plain", "--text", path, "--lines"]
    _, told = scan(*words, "--inputs", "3")
    (facts,) = told["subjects"].values()
    assert facts["input"]["inputs"] == 3
    assert "--shuffled has no effect" in refused(capsys, *words, "--shuffled", run="none")


def test_a_factory_draws_its_weights_from_the_seed(workplace):
    (workplace / "lines.txt").write_text("one two\n")
    words = ["--module", "tests.experiments.factories:plain", "--text", "lines.txt", "--lines"]
    values = []
    for run, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(len(run + str(values)))
        frame, _ = scan(*words, "--seed", str(seed), run=run)
        values.append(frame.loc[frame["metric"] == "norm_of_mean", "value"].tolist())
    assert values[0] == values[1] != values[2]


def test_a_factory_that_gives_no_module_is_refused(workplace, capsys):
    (workplace / "lines.txt").write_text("one\n")
    words = ["--module", "tests.experiments.factories:number", "--text", "lines.txt"]
    assert "returns int" in refused(capsys, *words)


def test_half_precision_is_what_the_model_runs_in(workplace):
    path = workplace / "lines.txt"
    path.write_text("one two three\nfour five\n")
    exact, _ = scan("random:bert", "--text", path, "--lines", run="exact")
    rough, told = scan("random:bert", "--text", path, "--lines", "--dtype", "bf16", run="rough")
    value = [frame.loc[frame["metric"] == "mean_cosine", "value"].to_numpy() for frame in (exact, rough)]
    assert told["subjects"]["random:bert@seed0"]["dtype"] == "bf16"
    assert 0 < np.abs(value[0] - value[1]).max() < 0.05


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("EleutherAI/pythia-70m", {"step0": 0, "step512": 512}),
        ("google/multiberts-seed_0", {"step_20k": 20_000}),
    ],
)
def test_public_checkpoints_are_known_by_their_names(name, steps):
    found = expand(InputOptions([name], revisions=",".join(steps)))
    assert {subject.revision: subject.step for subject in found} == steps
    assert {subject.series for subject in found} == {name}
    alone = expand(InputOptions(["google/multiberts-seed_0-step_20k"]))[0]
    assert (alone.step, alone.series) == (20_000, "google/multiberts-seed_0")
    assert expand(InputOptions([name], revisions="step_2000k"))[0].step == step_of("step_2000k") == 2_000_000


@pytest.mark.parametrize("online", [True, False])
def test_all_steps_of_a_model_whose_checkpoints_are_repositories(online, monkeypatch, tmp_path):
    names = [f"google/multiberts-seed_{seed}-step_{step}k" for seed in (1, 10) for step in (20, 0)]

    def search(api, search):
        if not online:
            raise huggingface_hub.errors.OfflineModeIsEnabled
        return [SimpleNamespace(id=name) for name in [*names, "google/multiberts-seed_1"] if search in name]

    monkeypatch.setattr(huggingface_hub.HfApi, "list_models", search)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for name in names:
        (tmp_path / f"models--{name.replace('/', '--')}").mkdir()
    found = expand(InputOptions(["google/multiberts-seed_1"], revisions="all"))
    assert [(subject.step, subject.source) for subject in found] == [(0, names[1]), (20_000, names[0])]


MEASURE = """
import resource, sys
from dynamics.experiments.scan.loop import scan
from dynamics.experiments.scan.options import ScanOptions
scan(ScanOptions(["random:gpt2"], run=sys.argv[1], text="long.txt", tokens=int(sys.argv[2]), batch_size=8, context=128,
             metrics=["anisotropy", "mean_cosine", "norm_of_mean", "intrinsic_dimension"],
             config_overrides={"n_embd": 64, "n_layer": 2}))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_tokens(workplace):
    words = np.random.default_rng(0).choice(["the", "cat", "sat", "on", "a", "mat"], size=60_000)
    (workplace / "long.txt").write_text(" ".join(words))

    def peak(tokens):
        command = [sys.executable, "-c", MEASURE, f"r{tokens}", str(tokens)]
        done = subprocess.run(command, cwd=workplace, capture_output=True, text=True, check=True)
        return int(done.stdout.split()[-1])

    assert peak(150_000) < 1.05 * peak(15_000)


@pytest.mark.parametrize("name", ["lab/model", "google/multiberts-seed_1"])
def test_revisions_without_a_network_are_refused_in_a_sentence(monkeypatch, name):
    class Unreachable(Exception):
        """As the library's client raises it: no OSError."""

    def refuse(*args, **options):
        raise Unreachable("name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_refs", refuse)
    monkeypatch.setattr("huggingface_hub.HfApi.list_models", refuse)
    with pytest.raises(InputError, match="cannot be listed"):
        expand(InputOptions([name], revisions="all"))
