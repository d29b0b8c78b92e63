"""How fast the metrics are, side by side with other implementations, in one run on one machine.

    python benchmarks/metrics.py [--device cuda] [--json FILE]

A ratio is our speed over the peer's: 5 is five times faster (for memory: five times less). Ours and the peer's run in
turns, and the fastest of each counts. The peers:

- llm-microscope: TwoNN as the released code of arXiv 2311.05928 goes about it (a loop over the states, all distances of
  each in float64, its two smallest kept in lists, a fit of the lowest 20 %), written anew from its description: the
  package itself (0.0.7) does not import. Timed once.
- llm-microscope in place: the same with the two smallest written into one tensor, which spares the allocator.
- scikit-dimension: `skdim.id.TwoNN`, the library itself.
- svd: anisotropy from the singular value decomposition, as the same released code has it.
- softmax, softmax causal, softmax padded: mean attention entropy from the whole matrix of probabilities.
- softmax memory: the peak of memory of the latter, without a mask.
"""

import argparse
import ctypes
import json
import os
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does: two pools must not spin side by side

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from dynamics.metrics.anisotropy import anisotropy
from dynamics.metrics.entropy import entropy
from dynamics.metrics.intrinsic_dimension import intrinsic_dimension

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""Of mallopt, in glibc."""


def states(points, width, device):
    """States that need some 40 coordinates of `width`, as trained layers do, with noise in all, off the origin."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(points, 64, generator=generator) @ torch.randn(64, width, generator=generator)
    return (x + 0.3 * torch.randn(points, width, generator=generator) + 3).to(device)


def queries_and_keys(device):
    """B 8, H 8, T 512, d 64."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(8, 8, 512, 64, generator=generator).to(device) for _ in range(2)]


def llm_microscope(x: Tensor, first: list | Tensor, second: list | Tensor) -> float:
    x = x.double()
    x = x - x.mean(0)
    x = x / x.norm(dim=1).mean()
    for i in range(len(x)):
        apart = torch.nn.functional.pairwise_distance(x[i, None, :], x[None], eps=0)[0]
        apart = torch.cat([apart[:i], apart[i + 1 :]])
        first[i], second[i] = apart.kthvalue(1).values, apart.kthvalue(2).values
    first, second = torch.as_tensor(first), torch.as_tensor(second)
    log_mu = (second / first).sort().values.log()
    kept = len(x) // 5
    log_f = -(1 - torch.arange(1, kept + 1, device=log_mu.device) / len(x)).log()
    return float((log_mu[:kept] * log_f).sum() / log_mu[:kept].square().sum())


@contextmanager
def large_blocks_returned():
    """Give large blocks of memory back when they are freed.

    The small tensors that the loop keeps otherwise settle in the holes of the large ones, and at 4096 x 512 its memory
    grows to 60 GB: the same pages are touched for the first time either way, here without being killed for it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda *_: 0)
    mallopt(MMAP_THRESHOLD, 128 << 10)
    yield
    mallopt(MMAP_THRESHOLD, 32 << 20)  # what glibc comes to by itself, when blocks of this size are freed
    mallopt(TRIM_THRESHOLD, 64 << 20)


def scikit_dimension(x: Tensor) -> float:
    from skdim.id import TwoNN

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TwoNN().fit(x.cpu().numpy()).dimension_


def svd(x: Tensor) -> float:
    _, sigma, _ = torch.linalg.svd(x - x.mean(0, keepdim=True), full_matrices=False)
    return float(sigma[0] ** 2 / sigma.square().sum())


def softmax(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    logits = query @ key.mT * query.shape[-1] ** -0.5
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    p = logits.softmax(-1)
    return -torch.special.xlogy(p, p).sum(-1).mean((0, 2))


def seconds(ours, peer, repeats, device):
    """The fastest of `repeats` runs of each, in turns, after one that warms up; none: a slow peer's first counts."""
    best = [float("inf"), float("inf")]
    for repeat in range(max(repeats, 3) + 1):
        for who, function in enumerate((ours, peer)):
            if who == 1 and repeat > repeats:
                continue
            started = time.perf_counter()
            function()
            if device == "cuda":
                torch.cuda.synchronize()
            best[who] = min(best[who], time.perf_counter() - started)
    return best


def peak(function, device):
    """Bytes by which a call raises the peak of memory over what is held before it."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)  # what is free goes back, so that it counts again when it is taken
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    function()
    return resident("VmHWM") - before


def resident(field):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--points", type=int, default=4096)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    x = states(options.points, options.width, options.device)
    query, key = queries_and_keys(options.device)
    causal = torch.ones(512, 512, dtype=torch.bool, device=options.device).tril()
    padded = torch.arange(512, device=options.device) < torch.tensor([512, 400] * 4, device=options.device)[:, None]
    padded = padded[:, None, None]

    @large_blocks_returned()
    def in_lists():
        return llm_microscope(x, *([None] * len(x) for _ in range(2)))

    def in_place():
        return llm_microscope(x, *x.new_empty(2, len(x), dtype=torch.float64))

    cases = {
        "llm-microscope": (lambda: intrinsic_dimension(x, keep=0.2), in_lists, 0),
        "llm-microscope in place": (lambda: intrinsic_dimension(x, keep=0.2), in_place, 1),
        "scikit-dimension": (lambda: intrinsic_dimension(x), lambda: scikit_dimension(x), options.repeats),
        "svd": (lambda: anisotropy(x), lambda: svd(x), options.repeats),
        "softmax": (lambda: entropy(query, key), lambda: softmax(query, key), options.repeats),
        "softmax causal": (
            lambda: entropy(query, key, is_causal=True),
            lambda: softmax(query, key, causal),
            options.repeats,
        ),
        "softmax padded": (
            lambda: entropy(query, key, mask=padded),
            lambda: softmax(query, key, padded),
            options.repeats,
        ),
    }
    results = {}
    with threadpool_limits(options.threads), torch.no_grad():
        for name, (ours, peer, repeats) in cases.items():
            results[name] = (*seconds(ours, peer, repeats, options.device), 1e3, "ms")
        ours, peer, _ = cases["softmax"]
        sizes = [peak(function, options.device) for function in (ours, peer)]
        results["softmax memory"] = (*sizes, 2**-20, "MiB")
    print(f"{'peer':24} {'ours':>12} {'peer':>12} {'ratio':>8}")
    for name, (ours, peer, unit, symbol) in results.items():
        print(f"{name:24} {ours * unit:8.1f} {symbol:3} {peer * unit:8.1f} {symbol:3} {peer / ours:7.1f}x")
    if options.json:
        ratio = {name: peer / ours for name, (ours, peer, *_) in results.items()}
        meaning = "our speed over the peer's (memory: the peer's peak over ours); above 1 is better"
        options.json.write_text(json.dumps({"ratio": ratio, "meaning": meaning}, indent=2) + "\n")


if __name__ == "__main__":
    main()
