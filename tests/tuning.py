"""Checkpoints and task files so small that a test can fine-tune several times."""

import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from dynamics.cli.main import main
from tests.capture.zoo import ZOO
from tests.runs import CONFIGS, arguments

WORDS = ["good", "bad", "film", "plot", "the", "a", "is", "was", "very", "who", "what", "city", "river", "old"]
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
TINY = {
    "data.batch_size": 4,
    "data.probe_tokens": 64,
    "trainer.max_steps": 6,
    "trainer.logger": "false",
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": "false",
    "trainer.val_check_interval": 3,
    "checkpoints.every": 3,
    "metrics": "[isoscore, intrinsic_dimension]",
}


def tokenizer(pad: str | None = "<pad>") -> PreTrainedTokenizerFast:
    """Words to ids, with a special token before and after every text."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    special |= {"pad_token": pad} if pad else {}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=64, **special)


def checkpoint(folder: Path, kind: str = "bert", pad: str | None = "<pad>") -> Path:
    """A random model of the zoo, as transformers saves it, with a tokenizer."""
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(kind, **ZOO[kind].config)).save_pretrained(folder)
    tokenizer(pad).save_pretrained(folder)
    return folder


def sentences(count: int, seed: int = 0) -> list[str]:
    """Sentences of two to eleven words."""
    draws = np.random.default_rng(seed)
    return [" ".join(draws.choice(WORDS, size=draws.integers(2, 12))) for _ in range(count)]


def sst2(folder: Path, train: int = 30, dev: int = 10) -> Path:
    """A task of sentences: is there `good` in them?"""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (("train", train, 0), ("dev", dev, 1), ("test", dev, 2)):
        lines = [f"{text}\t{int('good' in text)}" for text in sentences(count, seed)]
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def stsb(folder: Path) -> Path:
    """Pairs with a score."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, seed in (("train", 0), ("dev", 1)):
        pairs = zip(sentences(20, seed), sentences(20, seed + 10), strict=True)
        rows = [{"sentence1": a, "sentence2": b, "label": i % 6} for i, (a, b) in enumerate(pairs)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def squad(folder: Path) -> Path:
    """Questions as SQuAD publishes them; contexts longer than a row."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, seed in (("train", 0), ("dev", 1)):
        paragraphs = []
        for i, text in enumerate(sentences(12, seed)):
            context = " ".join([text] * 4)
            start = context.index(text.split()[1])
            answer = {"text": text.split()[1], "answer_start": start}
            asked = {"id": f"{name}-{i}", "question": "what was the city", "answers": [answer]}
            paragraphs.append({"context": context, "qas": [asked]})
        (folder / f"{name}.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    return folder


def finetune(model, data, run, *words, task="sst2", **settings):
    """`dynamics fit` with configs/finetune.yaml; `settings` use __ for the dot."""
    chosen = TINY | {key.replace("__", "."): value for key, value in settings.items()}
    main(
        [
            *("fit", "--config", str(CONFIGS / "finetune.yaml"), "--model.checkpoint", str(model)),
            *("--data.task", task, "--data.path", str(data), "--run", run),
            *(*arguments(chosen), *map(str, words)),
        ]
    )
