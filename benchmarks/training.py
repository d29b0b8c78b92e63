"""The speed of a training step: ours against nanoGPT's and transformers' models, interleaved in one run.

    python benchmarks/training.py [--nanogpt DIR] [--size small|tiny|base] [--modes fp32/eager bf16/compiled ...]
                                  [--steps 4] [--rounds 7] [--fresh] [--json FILE]

Every contender trains a causal model of the same size on random characters, with fused AdamW, decay on matrices alone
and the gradient clipped to norm 1: windows are drawn, gathered and moved to the device as each does it. Ours is the
training step of `dynamics fit` without Lightning around it, its memory held as the command holds it (`--fresh` adds
one that leaves this to the system); nanoGPT (DIR is a checkout of github.com/karpathy/nanoGPT) takes its own batches,
model and optimiser; GPT-2 and Llama of transformers run in a plain loop, and with `--against gpt2-trainer` under its
`Trainer` (which needs the package accelerate). Each has a process of its own, of which one works at a time. A ratio is
our speed over the other's: the median over rounds, with the least and the greatest. Memory is the most that a process
held beyond what its imports take, compilation included (on a GPU: that was allocated); the time of the system is that
of a step's work by the system itself, fresh pages of memory above all. Model FLOPs are 6 N + 12 L D T a token; the
ceiling is that of a matrix product of 4096 x 4096 (2048 on a CPU) in the same precision, in the same run.
"""

import argparse
import contextlib
import importlib.util
import itertools
import json
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line has it; read before torch is imported

import numpy as np
import torch
import transformers

from dynamics.cli.memory import reuse_memory
from dynamics.data.windows import WindowBatch, training_offsets
from dynamics.models import architectures
from dynamics.models.language import LanguageModel, Tokens
from dynamics.models.transformer import CharTransformerConfig

VOCABULARY = 207
WARM = 4  # steps before those that are timed
PEERS = ("gpt2", "llama", "gpt2-trainer", "llama-trainer")
MODES = ("fp32/eager", "fp32/compiled", "bf16/eager", "bf16/compiled")


class Size(NamedTuple):
    """The shape of a model and of its batches."""

    depth: int
    width: int
    heads: int
    context: int
    batch: int

    @property
    def tokens(self) -> int:
        return self.context * self.batch

    @property
    def flops(self) -> float:
        """Floating-point operations of a step: 6 a weight and token, and 12 L D T a token for the attention."""
        weights = 12 * self.depth * self.width**2 + VOCABULARY * self.width
        return self.tokens * (6 * weights + 12 * self.depth * self.width * self.context)


SIZES = {  # for comparisons: those of configs/sizes have other widths
    "small": Size(4, 256, 8, 256, 16),
    "tiny": Size(6, 256, 8, 256, 64),
    "base": Size(12, 512, 8, 512, 64),
}


def configuration(size: Size, vocabulary: int) -> CharTransformerConfig:
    """Return the configuration of our model of a size."""
    return CharTransformerConfig(
        vocab_size=vocabulary,
        hidden_size=size.width,
        num_hidden_layers=size.depth,
        num_attention_heads=size.heads,
        max_position_embeddings=size.context,
    )


def ours(size: Size, is_compiled: bool, autocast: Callable[[], Any], device: str) -> Callable[[], None]:
    module = LanguageModel(
        depth=size.depth, width=size.width, heads=size.heads, compile=is_compiled, warmup_steps=10**9
    )
    config = configuration(size, VOCABULARY)
    module._take(architectures.draw(config, 0).to(device), Tokens(205, 205, 1.0))
    configured = module.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    corpus = torch.from_numpy(characters()).to(device)
    reach = torch.arange(size.context + 1, device=device)
    steps = itertools.count(1)

    def step() -> None:
        number = next(steps)
        offsets = training_offsets(0, number, size.batch, len(corpus) - size.context)
        starts = torch.from_numpy(offsets)
        starts = starts.pin_memory().to(device, non_blocking=True) if device == "cuda" else starts
        batch = WindowBatch(corpus[starts[:, None] + reach].long(), number, 0, size.batch)
        with autocast():
            loss = module.training_step(batch, number)
        loss.backward()
        module.guard.before_update(optimizer, number, [("task_loss", loss.detach())], is_scaled=False)
        module.guard.clip(optimizer, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()

    return step


def load_nanogpt(folder: Path) -> Any:
    """Return the module `model.py` of a checkout."""
    specification = importlib.util.spec_from_file_location("nanogpt_model", folder / "model.py")
    assert specification is not None
    assert specification.loader is not None
    source = importlib.util.module_from_spec(specification)
    sys.modules["nanogpt_model"] = source
    specification.loader.exec_module(source)
    return source


def nanogpt(
    size: Size, is_compiled: bool, autocast: Callable[[], Any], device: str, folder: Path
) -> Callable[[], None]:
    """The loop of nanoGPT's train.py, its losses left on the device."""
    source = load_nanogpt(folder)
    config = source.GPTConfig(
        block_size=size.context,
        vocab_size=VOCABULARY,
        n_layer=size.depth,
        n_head=size.heads,
        n_embd=size.width,
        dropout=0.0,
        bias=False,
    )
    with contextlib.redirect_stdout(None):
        network = source.GPT(config).to(device)
        optimizer = network.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cuda" if device == "cuda" else "cpu")
    run = torch.compile(network) if is_compiled else network
    data = characters()

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        starts = torch.randint(len(data) - size.context, (size.batch,))
        parts = [
            torch.stack([torch.from_numpy(data[i + shift : i + shift + size.context].astype(np.int64)) for i in starts])
            for shift in (0, 1)
        ]
        if device == "cuda":
            parts = [part.pin_memory().to(device, non_blocking=True) for part in parts]
        return parts[0], parts[1]

    following = [batch()]

    def step() -> None:
        with autocast():
            _, loss = run(*following.pop())
        following.append(batch())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def peer_network(kind: str, size: Size) -> Any:
    """Return a model of transformers of a size."""
    shapes: dict[str, Any] = {
        "gpt2": {"n_layer": size.depth, "n_head": size.heads, "n_embd": size.width, "n_positions": size.context}
        | dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        "llama": {
            "num_hidden_layers": size.depth,
            "num_attention_heads": size.heads,
            "hidden_size": size.width,
            "intermediate_size": 8 * size.width // 3,
            "max_position_embeddings": size.context,
            "tie_word_embeddings": True,
        },
    }
    config = transformers.AutoConfig.for_model(kind, vocab_size=VOCABULARY, use_cache=False, **shapes[kind])
    return transformers.AutoModelForCausalLM.from_config(config)


def peer(kind: str, size: Size, is_compiled: bool, autocast: Callable[[], Any], device: str) -> Callable[[], None]:
    """A model of transformers in a plain loop."""
    network = peer_network(kind, size).to(device).train()
    parameters = list(network.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)
    run = torch.compile(network) if is_compiled else network
    data = torch.from_numpy(characters())

    def step() -> None:
        starts = torch.randint(len(data) - size.context, (size.batch, 1))
        ids = data[starts + torch.arange(size.context)].long().to(device)
        with autocast():
            loss = run(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


class Windows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Every window of the characters, as `Trainer` takes them."""

    def __init__(self, context: int) -> None:
        self.data, self.context = torch.from_numpy(characters()), context

    def __len__(self) -> int:
        return len(self.data) - self.context

    def __getitem__(self, start: int) -> dict[str, torch.Tensor]:
        ids = self.data[start : start + self.context].long()
        return {"input_ids": ids, "labels": ids}


class Pause(transformers.TrainerCallback):
    """Ends each step of a `Trainer`, which runs in a thread, by waiting until the next one is asked for."""

    def __init__(self) -> None:
        self.asked, self.done = threading.Semaphore(0), threading.Semaphore(0)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.asked.acquire()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.done.release()

    def __call__(self) -> None:
        self.asked.release()
        self.done.acquire()


def under_trainer(kind: str, size: Size, is_compiled: bool, is_bf16: bool, folder: str) -> Callable[[], None]:
    """A model of transformers under its `Trainer`, which needs the package accelerate."""
    options = transformers.TrainingArguments(
        output_dir=folder,
        max_steps=10**6,
        per_device_train_batch_size=size.batch,
        learning_rate=1e-3,
        weight_decay=0.1,
        adam_beta2=0.95,
        bf16=is_bf16,
        torch_compile=is_compiled,
        report_to=[],
        save_strategy="no",
        logging_steps=50,
        disable_tqdm=True,
    )
    pause = Pause()
    trainer = transformers.Trainer(
        peer_network(kind, size), options, train_dataset=Windows(size.context), callbacks=[pause]
    )
    threading.Thread(target=trainer.train, daemon=True).start()
    return pause


def characters() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 205, 1_000_000).astype(np.uint8)


def ceiling(dtype: torch.dtype, device: str) -> float:
    """Return the speed of a large matrix product, in FLOPs a second."""
    n = 4096 if device == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    repetitions = 20 if device == "cuda" else 2
    best = min(seconds(lambda: a @ b, repetitions, device) for _ in range(4))
    return 2 * n**3 / best


def system_seconds() -> float:
    """Return the time that the system has worked for this process: on a CPU, mostly for fresh pages of memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_stime


def seconds(work: Callable[[], Any], steps: int, device: str) -> float:
    """Return the time of one call, over `steps` of them."""
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    started = time.perf_counter()
    for _ in range(steps):
        work()
    synchronize()
    return (time.perf_counter() - started) / steps


def held(device: str) -> float:
    """Return the most memory that this process has held so far, in MiB."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def serve(pipe: Connection, name: str, mode: str, size: Size, folder: Path, device: str) -> None:
    """Build one contender, then take numbers of steps from the pipe and return their times; at 0, memory and system."""
    precision, how = mode.split("/")
    before, is_compiled = held(device), how == "compiled"

    def autocast() -> Any:
        return torch.autocast(device, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()

    if name.startswith("ours"):
        if name == "ours":
            reuse_memory()
        step = ours(size, is_compiled, autocast, device)
    elif name == "nanogpt":
        step = nanogpt(size, is_compiled, autocast, device, folder)
    elif name.endswith("-trainer"):
        kind = name.removeprefix("hf-").removesuffix("-trainer")
        step = under_trainer(kind, size, is_compiled, precision == "bf16", tempfile.mkdtemp())
    else:
        step = peer(name.removeprefix("hf-"), size, is_compiled, autocast, device)
    for _ in range(WARM):
        step()
    pipe.send(None)
    started, taken = system_seconds(), 0
    while steps := pipe.recv():
        pipe.send(seconds(step, steps, device))
        taken += steps
    pipe.send((held(device) - before, (system_seconds() - started) / max(taken, 1)))


def compare(
    mode: str, size: Size, folder: Path | None, others: list[str], steps: int, rounds: int, device: str
) -> dict[str, Any]:
    """Return times, speeds, ratios and memory of every contender in one mode."""
    dtype, spawn = torch.bfloat16 if mode.startswith("bf16") else torch.float32, multiprocessing.get_context("spawn")
    names = ["ours", *(["nanogpt"] if folder is not None else []), *others]
    pipes, processes, times, ends = {}, [], {name: list[float]() for name in names}, {}
    for name in names:
        pipes[name], end = spawn.Pipe()
        processes.append(spawn.Process(target=serve, args=(end, name, mode, size, folder, device), daemon=True))
        processes[-1].start()
        end.close()  # so that the pipe breaks where the process does
        pipes[name].recv()
    for _ in range(rounds):
        for name, pipe in pipes.items():
            pipe.send(steps)
            times[name].append(pipe.recv())
    for name, pipe in pipes.items():
        pipe.send(0)
        ends[name] = pipe.recv()
    for process in processes:
        process.join()  # freeing their memory is work too
    best = ceiling(dtype, device)
    result: dict[str, Any] = {"ceiling_tflops": best / 1e12}
    for name, spent in times.items():
        middle = statistics.median(spent)
        ratios = [theirs / mine for mine, theirs in zip(times["ours"], spent, strict=True)]
        result[name] = {
            "milliseconds": 1e3 * middle,
            "peak_mib": ends[name][0],
            "system_milliseconds": 1e3 * ends[name][1],
            "tokens_per_second": size.tokens / middle,
            "share_of_ceiling": size.flops / middle / best,
            "ratio": statistics.median(ratios),
            "least": min(ratios),
            "greatest": max(ratios),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--against", nargs="*", choices=PEERS, default=PEERS[:2], help="models of transformers")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--fresh", action="store_true", help="ours too as it is without `cli/memory.py`")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    card = torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} cores"
    size = SIZES[arguments.size]
    print(f"{card}, torch {torch.__version__}, {arguments.size}: {size}")
    output: dict[str, Any] = {"device": card, "torch": torch.__version__, "size": size._asdict(), "ratio": {}}
    others = ["ours-fresh"] * arguments.fresh + [f"hf-{kind}" for kind in arguments.against]
    for mode in arguments.modes:
        result = compare(mode, size, arguments.nanogpt, others, arguments.steps, arguments.rounds, device)
        output[mode] = result
        print(f"{mode}: matrix product {result.pop('ceiling_tflops'):.2f} TFLOP/s")
        for name, facts in result.items():
            output["ratio"][f"{name}/{mode}"] = facts["ratio"]
            print(
                f"  {name:10} {facts['milliseconds']:9.2f} ms  {facts['tokens_per_second']:12,.0f} tokens/s  "
                f"{facts['share_of_ceiling']:6.1%} of it  {facts['peak_mib']:7,.0f} MiB  "
                f"{facts['system_milliseconds']:6.1f} ms of the system  ours {facts['ratio']:.2f}x "
                f"[{facts['least']:.2f}, {facts['greatest']:.2f}]",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(output, indent=2) + "\n")


if __name__ == "__main__":
    main()
