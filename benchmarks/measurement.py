"""Where the time of a default measurement goes: in all, by metric, and on a GPU what of it is the GPU's own work.

    python benchmarks/measurement.py [--size tiny|small|base] [--repeat 3] [--calls 0]

An untrained network of `benchmarks/training.py`'s sizes is measured on 4,096 tokens again and again; the first time,
which compiles and allocates, is left out. The GPU's work is the sum over its kernels and copies, by torch.profiler, in
a measurement of its own. `--calls N` adds the N functions of Python that take longest, by cProfile.
"""

import argparse
import cProfile
import os
import pstats
import time
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line has it, before torch reads it

import torch
from training import SIZES, VOCABULARY, configuration

from dynamics.measure import Measurement, measure
from dynamics.models import architectures

TOKENS = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--calls", type=int, default=0)
    options = parser.parse_args()
    size, device = SIZES[options.size], "cuda" if torch.cuda.is_available() else "cpu"
    network = architectures.draw(configuration(size, VOCABULARY), 0).to(device)
    ids = torch.randint(
        2, VOCABULARY, (TOKENS // size.context, size.context), generator=torch.Generator().manual_seed(0)
    )
    batches = [{"input_ids": ids.to(device)}]
    references = measure(network, batches, references={}).references

    def once() -> Measurement:
        result = measure(network, batches, step=1, references=references)
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    card = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{card}, torch {torch.__version__}, {options.size}: {size}")
    for _ in range(options.repeat):
        start = time.perf_counter()
        result = once()
        print(f"in all {1e3 * (time.perf_counter() - start):.0f} ms")
    print(", ".join(f"{name} {1e3 * seconds:.1f} ms" for name, seconds in result.seconds.items()))
    if device == "cuda":
        print(f"work of the GPU {work_of_gpu(once):.0f} ms")
    if options.calls:
        with cProfile.Profile() as profile:
            once()
        pstats.Stats(profile).sort_stats("cumtime").print_stats(options.calls)


def work_of_gpu(function: Callable[[], object]) -> float:
    """Return the milliseconds of all kernels and copies that a function has a GPU do."""
    with torch.profiler.profile(activities=list(torch.profiler.supported_activities())) as profile:
        function()
    return sum(event.self_device_time_total for event in profile.key_averages()) / 1e3


if __name__ == "__main__":
    main()
