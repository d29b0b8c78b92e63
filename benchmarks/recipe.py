"""nanoGPT's own recipe for a CPU, by nanoGPT and by `dynamics fit`: the validation losses after the same budget.

    python benchmarks/recipe.py --nanogpt DIR [--text FILE] [--iterations 2000] [--seeds 0 1 2] [--json FILE]

4 layers of width 128 and 4 heads, 12 windows of 64 characters, AdamW with a peak learning rate of 1e-3, betas .9 and
.99, 100 steps of warm-up and a cosine to a tenth, decay .1, the gradient clipped to norm 1, no dropout, float32:
`train.py config/train_shakespeare_char.py --device=cpu ...` of its README. FILE may be its Shakespeare; else it is our
sample.
Both train on the same characters, each on windows that it draws itself, and are judged on the same validation windows.
"""

import argparse
import contextlib
import json
import math
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from training import load_nanogpt

from dynamics import record
from dynamics.cli.main import main as dynamics
from dynamics.data.windows import CharData

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "decoder.yaml"
DEPTH, WIDTH, HEADS, CONTEXT, BATCH = 4, 128, 4, 64, 12
PEAK, FINAL, WARMUP, BETAS, DECAY = 1e-3, 1e-4, 100, (0.9, 0.99), 0.1


def ours(text: str, iterations: int, seed: int) -> float:
    """Return the validation loss of `dynamics fit`, in nats a character."""
    settings = {
        **{"model.depth": DEPTH, "model.width": WIDTH, "model.heads": HEADS, "model.betas": list(BETAS)},
        **{"model.learning_rate": PEAK, "model.final_learning_rate": FINAL / PEAK, "model.warmup_steps": WARMUP},
        **{"data.corpus": text, "data.context": CONTEXT, "data.batch_size": BATCH, "seed_everything": seed},
        **{"trainer.max_steps": iterations, "trainer.accelerator": "cpu", "trainer.precision": "32-true"},
        **{"trainer.logger": "false", "trainer.enable_progress_bar": "false", "monitor.keep_weights": "none"},
        **{"metrics": "[mean_norm]"},
    }
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    dynamics(["fit", "--config", str(CONFIG), "--run", f"seed-{seed}", *words])
    rows = record.read(f"seed-{seed}")
    last = rows[(rows["site"] == "validation") & (rows["metric"] == "loss") & (rows["step"] == iterations)]
    return float(last["value"].item())


def pair(windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs and targets, contiguous as nanoGPT takes them."""
    return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()


def nanogpt(folder: Path, data: CharData, iterations: int, seed: int) -> float:
    """Return the validation loss of nanoGPT's model under the loop of its train.py, on the windows of `ours`."""
    torch.manual_seed(1337 + seed)
    source = load_nanogpt(folder)
    shape = {"block_size": CONTEXT, "n_layer": DEPTH, "n_head": HEADS, "n_embd": WIDTH}
    with contextlib.redirect_stdout(None):
        network = source.GPT(source.GPTConfig(**shape, vocab_size=data.text.vocabulary.size, dropout=0.0, bias=False))
        optimizer = network.configure_optimizers(DECAY, PEAK, BETAS, "cpu")
    split = data.text.splits["train"]
    for step in range(iterations):
        share = min(1.0, (step - WARMUP) / (iterations - WARMUP))
        rate = FINAL + 0.5 * (1 + math.cos(math.pi * share)) * (PEAK - FINAL)
        for group in optimizer.param_groups:
            group["lr"] = PEAK * (step + 1) / (WARMUP + 1) if step < WARMUP else rate
        offsets = split.start + torch.randint(split.stop - split.start - CONTEXT, (BATCH,))
        _, loss = network(*pair(data._gather(offsets, torch.device("cpu"))))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in data.val_dataloader():
            total += network(*pair(batch.windows))[1].item() * len(batch.windows)
            count += len(batch.windows)
    return total / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True)
    parser.add_argument("--text", default="sample", help="a corpus as --data.corpus takes it")
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    folder = arguments.nanogpt.resolve()
    text = str(Path(arguments.text).resolve()) if Path(arguments.text).is_file() else arguments.text
    data = CharData(text, CONTEXT, BATCH)
    data.setup()
    data.trainer = SimpleNamespace(
        world_size=1, global_rank=0, strategy=SimpleNamespace(root_device=torch.device("cpu"))
    )  # type: ignore[assignment]
    losses: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        for seed in arguments.seeds:
            both = {"ours": ours(text, arguments.iterations, seed)}
            both["nanogpt"] = nanogpt(folder, data, arguments.iterations, seed)
            losses.append({"seed": seed, **both})
            print(f"seed {seed}: validation loss {both['ours']:.4f}, nanoGPT {both['nanogpt']:.4f}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(losses, indent=2) + "\n")


if __name__ == "__main__":
    main()
