"""Whether two versions measure the same: a fixed set of small runs by the command line, compared row by row.

    python benchmarks/same_rows.py BEFORE AFTER [--python PYTHON] [--keep FOLDER]

BEFORE and AFTER are each a checkout, in which the runs are made, or a folder of runs that an earlier call kept. Keys,
values, intervals, counts and arrays must be equal to the last bit (NaN equals NaN); what a clock decides (the site
`cost`) is left out. A probe's values may differ by rounding, and it may gain intervals. Pages must be drawn as before.

The Parquet parts are read directly, and inputs are made here: nothing depends on the code of either version.
"""

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from string import Template

import numpy as np
import pyarrow.parquet as pq

KEY = ("run", "subject", "condition", "step", "site", "layer", "head", "metric")
VALUES = ("value", "low", "high", "n")
SHOWN = 3
"""Differences of each kind that are printed for a run."""
WORDS = ["good", "bad", "film", "plot", "the", "a", "is", "was", "very", "who", "what", "city", "river", "old"]
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]

TRAINER = """--trainer.logger false --trainer.precision 32-true --trainer.enable_progress_bar false
--checkpoints.every 6 --trainer.max_steps 12 --trainer.val_check_interval 6 --data.batch_size 4"""
SMALL = f"""{TRAINER} --data.corpus text.txt --data.context 32 --data.probe_tokens 256 --data.validation_windows 8
--model.depth 2 --model.width 16 --model.heads 2 --model.warmup_steps 2"""
OPTIONS = {
    "small": SMALL,
    "decoder": f"fit --config $configs/decoder.yaml {SMALL}",
    "encoder": f"fit --config $configs/encoder.yaml {SMALL}",
    "tuned": f"fit --config $configs/finetune.yaml {TRAINER} --data.probe_tokens 64",
    "istar": "--model.regularizers+=IStar --model.regularizers.weight=-2",
    "cosreg": "--model.regularizers+=CosReg --model.regularizers.weight=0.5",
    "scan": "scan --resume auto",
    "text": "--text text.txt --config_overrides '{vocab_size: 259}'",
    "narrow": "{n_embd: 16, n_layer: 2, n_head: 2, vocab_size: 259}",
    "lines": "--text sentences.txt --lines --inputs 20",
    "cone": "cone --sentences sentences.txt --corpus other=other.txt --pairs pairs.tsv",
    "probe": "probe --config $configs/probe.yaml --width 16 --heads 2 --length 8 --batch 2 --seeds 2 --beta [0,64]",
    # The default suite and all that exists beside it.
    "every": """[anisotropy,anisotropy_uncentered,singular_value_share,isoscore,participation_ratio,effective_rank,
        kurtosis,mean_cosine,mean_cosine_across_windows,mean_norm,norm_of_mean,intrinsic_dimension,duplicate_share,
        local_anisotropy,local_anisotropy_random,drift,qk_alignment,qk_mean_cosine,entropy,normalized_entropy,
        max_probability,sink_mass,logit_max,qk_symmetry,cka_to_start,linearity_to_start,linear_cka,
        procrustes_linearity,scale_dependence,min_probability,score_variance,intrinsic_dimension_lowest_20,
        intrinsic_dimension_mle,intrinsic_dimension_corrint,intrinsic_dimension_mom]""",
    "scheduled": "{isoscore: {schedule: {every: 5}}, kurtosis: {max_tokens: 128}, drift: {sites: [key]}}",
}
RUNS = """
decoder         $decoder
decoder         validate
decoder         test
encoder         $encoder
causal_mlm      fit --config $configs/causal-mlm.yaml $small --data.vocabulary bytes --seed_everything 1
every_metric    $decoder --metrics '$every'
scheduled       $decoder --metrics '$scheduled' --monitor.keep_weights last
shaped          $decoder --metrics [isoscore] $istar --model.regularizers.reference_states=300 $cosreg
resumed         $encoder --model.dropout 0.1 --trainer.accumulate_grad_batches 2 --trainer.max_steps 6
resumed         $encoder --model.dropout 0.1 --trainer.accumulate_grad_batches 2 --resume auto
tuned           $tuned --model.checkpoint bert --data.task sst2 --data.path sst2 --metrics [isoscore,drift] $istar
tuned           test
tuned_pairs     $tuned --model.checkpoint gpt2 --data.task stsb --data.path stsb --metrics [entropy]
page_of_twins   report decoder encoder causal_mlm every_metric resumed
page_of_shapes  report shaped tuned tuned_pairs
scan_random     $scan random:gpt2 random:bert $text --tokens 512 --context 64
scan_shuffled   $scan bert gpt2 $lines --shuffled --metrics [mean_cosine,entropy]
scan_module     $scan --module own_module:plain $lines
scan_images     $scan random:vit --images noise --inputs 2 --metrics [anisotropy,mean_cosine,entropy]
scan_sound      $scan random:wav2vec2 --audio noise --inputs 2 --metrics [anisotropy,mean_cosine,entropy]
scan_weights    $scan decoder --revisions 0,4 --metrics [effective_rank,drift,cka_to_start]
scan_weights    $scan decoder --revisions 0,4,12 --metrics [effective_rank,drift,cka_to_start]
scan_shape      $scan random:gpt2 --text text.txt --config_overrides '$narrow' --protocol shape-of-learning
scan_inherent   $scan random:bert $text --tokens 1024 --protocol inherent
cone_run        $cone decoder
cone_encoder    $cone encoder_files bert --compare cka
cone_axes       $cone bert gpt2 --pooling max
probe_blocks    $probe --norm [none,post] --causal [false,true]
probe_gpt2      $probe --architecture gpt2
sweep           sweep sweep.yaml $small --metrics [isoscore,intrinsic_dimension]
"""
"""The name of a run and a command; what a command needs stands above it. Runs of a sweep begin with its name and -."""
SWEEP = """
fit: {decoder: --config $configs/decoder.yaml --monitor.keep_weights none}
vary: {istar: {option: "--model.regularizers+=IStar --model.regularizers.weight={}", values: [-2, 0]}}
seeds: [0, 1]"""
OWN_MODULE = """
import torch
from torch import nn
class Letters(nn.Module):
    def __init__(self):
        super().__init__()
        self.letters, layer = nn.Embedding(128, 16), nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    def encode(self, texts):
        ids = [torch.tensor([ord(letter) % 128 for letter in text]) for text in texts]
        pad = nn.utils.rnn.pad_sequence
        return {"input_ids": pad(ids, True), "attention_mask": pad([torch.ones_like(x) for x in ids], True)}
    def forward(self, input_ids, attention_mask):
        return self.layers(self.letters(input_ids), src_key_padding_mask=attention_mask == 0)
plain = Letters"""


def commands(configs: Path) -> Iterator[tuple[str, list[str]]]:
    """The name of a run and the words of a command, for each in order."""
    for line in RUNS.strip().splitlines():
        name, command = line.split(maxsplit=1)
        whole = Template(command).safe_substitute(OPTIONS)  # leaves $configs
        words = shlex.split(Template(whole).substitute(configs=shlex.quote(str(configs))))
        yield name, [*words, *(("--out", f"{name}.html") if words[0] == "report" else ("--run", name))]


def sentences(count: int, seed: int) -> list[str]:
    """Sentences of two to eleven words."""
    draws = np.random.default_rng(seed)
    return [" ".join(draws.choice(WORDS, size=draws.integers(2, 12))) for _ in range(count)]


def make_inputs(folder: Path, configs: Path) -> None:
    """Write everything that the runs read: text, sentences, tasks, checkpoints, a module and a sweep."""
    words = np.random.default_rng(0).choice(["the", "cat", "sat", "on", "a", "mat", "quietly"], size=20_000)
    pairs = zip(sentences(40, 2), sentences(40, 3), strict=True)
    files = {
        "text.txt": [" ".join(words)],
        "sentences.txt": sentences(60, 0),
        "other.txt": sentences(40, 1),
        "pairs.tsv": [f"{i * i % 6}\t{one}\t{other}" for i, (one, other) in enumerate(pairs)],
        "own_module.py": [OWN_MODULE],
        "sweep.yaml": [SWEEP.replace("$configs", shlex.quote(str(configs)))],
    }
    for seed, (split, count) in enumerate({"train": 30, "dev": 10, "test": 10}.items()):
        said = sentences(count, seed)
        files[f"sst2/{split}.tsv"] = [f"{text}\t{int('good' in text)}" for text in said]
        rows = ({"sentence1": said[-1 - i], "sentence2": said[i], "label": i % 6} for i in range(count))
        files[f"stsb/{split}.jsonl"] = [json.dumps(row) for row in rows]
    for name, lines in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
    for name, kind in (("bert", "bert"), ("gpt2", "gpt2"), ("encoder_files", "bert")):
        make_checkpoint(folder / name, kind)
    make_encoder(folder / "encoder_files")


def make_checkpoint(folder: Path, kind: str) -> None:
    """Save a random model as transformers does, with a tokenizer of words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast, logging

    logging.disable_progress_bar()
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}
    sizes |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(len(folder.name))
    # Weights far from zero: attention far from uniform, so that a wrong mask or scaling shows.
    config = AutoConfig.for_model(kind, initializer_range=0.3, **sizes)
    AutoModel.from_config(config).save_pretrained(folder)
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(SPECIAL + WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=64, **names).save_pretrained(folder)


def make_encoder(folder: Path) -> None:
    """Make of a model a sentence encoder, as sentence-transformers keeps it, with a dense layer."""
    from safetensors.numpy import save_file

    modules = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense", "3_Normalize": "Normalize"}
    dense = {"in_features": 32, "out_features": 12, "activation_function": "torch.nn.modules.activation.Tanh"}
    files = {
        "modules.json": [{"path": path, "type": f"s.models.{kind}"} for path, kind in modules.items()],
        "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
        "2_Dense/config.json": dense,
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    noise = np.random.default_rng(0)
    weight, bias = (noise.normal(size=shape).astype(np.float32) for shape in ((12, 32), 12))
    save_file({"linear.weight": weight, "linear.bias": bias}, folder / "2_Dense" / "model.safetensors")


def make_runs(checkout: Path, folder: Path, python: str) -> bool:
    """Make every run with the code of `checkout`, in `folder`; gives whether none failed."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty: choose another folder to keep runs in.")
    make_inputs(folder, checkout / "configs")
    environment = dict(os.environ, PYTHONPATH=str(checkout), DYNAMICS_CACHE=str(folder / "cache"))
    environment |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "CUDA_VISIBLE_DEVICES": ""}
    # One thread adds in one order.
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    whole = True
    for number, (name, words) in enumerate(commands(checkout / "configs")):
        started, call = time.monotonic(), [python, "-m", "dynamics", *words]
        done = subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        (folder / f"{number:02}-{name}.log").write_text(done.stdout + done.stderr)
        whole &= done.returncode == 0
        failure = f", failed: {done.stderr.strip().rpartition(chr(10))[2]}" if done.returncode else ""
        line = f"{words[0]} {name}, {time.monotonic() - started:.0f} s{failure}"
        print(f"{checkout.name}: {line}", file=sys.stderr, flush=True)
    return whole


def folders(runs: Path, name: str) -> list[Path]:
    """Return the folder of a run, and those of the runs of a sweep."""
    return [runs / "checkpoints" / name, *sorted((runs / "checkpoints").glob(f"{name}-*"))]


def read(runs: Path, name: str) -> dict[tuple, tuple[str, ...]]:
    """Return rows and arrays by key; numbers as text that keeps every bit, all NaN alike."""
    numbers_by_key: dict[tuple, tuple[str, ...]] = {}
    for part in (part for folder in folders(runs, name) for part in sorted(folder.glob("record/*.parquet"))):
        for row in pq.read_table(part).to_pylist():
            if row["site"] == "cost":
                continue
            key, is_array = tuple(row[column] for column in KEY), "values" in row
            key += ("array",) * is_array
            if key in numbers_by_key:
                raise SystemExit(f"{part}: two rows share the key {key}.")
            numbers = row["values"] if is_array else [row[column] for column in VALUES[:3]]
            more = row["shape"] if is_array else row["n"]
            numbers_by_key[key] = (*(number.hex() for number in numbers), str(more))
    return numbers_by_key


def compare(before: Path, after: Path, name: str) -> bool:
    """Print how a run differs between the two versions; return whether it does not."""
    old, new = read(before, name), read(after, name)
    differences = [
        [key for key in old if key in new and is_different(name, old[key], new[key])],
        [key for key in old if key not in new],
        [key for key in new if key not in old],
    ]
    pages = [count_pages(runs, name) for runs in (before, after)]
    counts = (len(old), *map(len, differences), f"{pages[0]} -> {pages[1]}")
    print(name.ljust(16), *(str(count).rjust(10) for count in counts))
    for key in (key for keys in differences for key in keys[:SHOWN]):
        print(f"    {key}: {show(old.get(key, ()))} -> {show(new.get(key, ()))}")
    return bool(old or pages[0]) and pages[0] == pages[1] and not any(differences)


def is_different(name: str, old: tuple[str, ...], new: tuple[str, ...]) -> bool:
    """Whether the numbers of a key differ.

    The probe once had code of its own. Since its rows come from the common code, values agree to rounding only, there
    are intervals where there were none, and n counts different states where a metric drops duplicates.
    """
    if not name.startswith("probe") or len(old) != len(new) or len(old) != len(VALUES):
        return old != new
    pairs = [(float.fromhex(a), float.fromhex(b)) for a, b in zip(old[:3], new[:3], strict=True)]
    return not all(math.isclose(a, b, rel_tol=1e-6) or math.isnan(a) for a, b in pairs)


def show(numbers: tuple[str, ...]) -> str:
    """Return the first numbers of a key as text."""
    return ", ".join([*(repr(float.fromhex(number)) for number in numbers[:-1][:3]), *numbers[-1:]]) or "nothing"


def count_pages(runs: Path, name: str) -> int:
    """Count the pages that were drawn of a run."""
    pages = [runs / f"{name}.html", *(folder / "report.html" for folder in folders(runs, name))]
    return sum(page.is_file() and page.stat().st_size > 0 for page in pages)


def main() -> None:
    """Make the runs of checkouts, compare both sides, and exit with 1 where they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="checkout, or folder of runs")
    parser.add_argument("after", type=Path, help="checkout, or folder of runs")
    parser.add_argument("--python", default=sys.executable, help="what makes the runs")
    parser.add_argument("--keep", type=Path, help="folder for the runs; of two checkouts, before/ and after/")
    args = parser.parse_args()
    sides = {"before": args.before.resolve(), "after": args.after.resolve()}
    made = [side for side, path in sides.items() if (path / "dynamics").is_dir()]
    whole = True
    with tempfile.TemporaryDirectory() as temporary:
        kept = (args.keep or Path(temporary)).resolve()
        for side in made:
            checkout, sides[side] = sides[side], kept / side if len(made) > 1 else kept
            whole &= make_runs(checkout, sides[side], args.python)
        head = ("rows", "different", "missing", "added", "pages")
        print("run".ljust(16), *(word.rjust(10) for word in head))
        same = [compare(*sides.values(), name) for name in dict(commands(kept))]
    sys.exit(0 if whole and all(same) else 1)


if __name__ == "__main__":
    main()
