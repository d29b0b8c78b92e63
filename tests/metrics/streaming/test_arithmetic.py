"""Full precision whatever was set, by which switch; all switches as they were afterwards."""

import pytest
import torch

from dynamics.metrics.streaming import arithmetic
from dynamics.metrics.streaming.arithmetic import full_precision, multiplies_in_full

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BACKENDS = torch.backends


def read():
    """Every switch as it is read, those of before torch 2.9 too; they raise where both kinds were used."""
    places = [BACKENDS.cuda.matmul, BACKENDS.cudnn.conv, BACKENDS.cudnn.rnn, BACKENDS.mkldnn.matmul, BACKENDS.cudnn]
    values = [place.fp32_precision for place in (BACKENDS, *places)] if arithmetic.MODERN else []
    for getter in (torch.get_float32_matmul_precision, lambda: BACKENDS.cudnn.allow_tf32):
        try:
            values.append(getter())
        except RuntimeError:
            values.append("raises")
    return values


@pytest.fixture(autouse=True)
def restored():
    switches = arithmetic._switches()
    before = [switch.read() for switch in switches]
    precision, tf32 = torch.get_float32_matmul_precision(), BACKENDS.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(precision)
    BACKENDS.cudnn.allow_tf32 = tf32
    for switch, value in zip(switches, before, strict=True):
        switch.write(value)


def set_to(place, value):
    return lambda: setattr(place, "fp32_precision", value)


LEGACY = [
    lambda: None,
    lambda: torch.set_float32_matmul_precision("high"),
    lambda: torch.set_float32_matmul_precision("medium"),
    lambda: setattr(BACKENDS.cudnn, "allow_tf32", False),
]
MODERN = [
    set_to(BACKENDS, "tf32"),
    set_to(BACKENDS, "ieee"),
    set_to(BACKENDS.cuda.matmul, "tf32"),
    set_to(BACKENDS.cudnn, "tf32"),
    set_to(BACKENDS.mkldnn, "bf16"),
]
if arithmetic.MODERN:
    MODERN += [set_to(BACKENDS.cudnn.conv, "tf32"), set_to(BACKENDS.mkldnn.matmul, "bf16")]
modern = pytest.mark.skipif(not arithmetic.MODERN, reason="torch has no fp32_precision")


@modern
@pytest.mark.parametrize("number", range(len(LEGACY) + len(MODERN)))
def test_precision_is_full_inside_and_as_it_was_outside(number):
    (LEGACY + MODERN)[number]()
    before = read()
    with full_precision():
        assert multiplies_in_full(CPU)
        assert multiplies_in_full(CUDA)
        assert BACKENDS.cudnn.conv.fp32_precision == "ieee"
    assert read() == before


@modern
def test_what_inherits_keeps_inheriting():
    with full_precision():
        pass
    BACKENDS.fp32_precision = "tf32"
    assert BACKENDS.cuda.matmul.fp32_precision == BACKENDS.mkldnn.matmul.fp32_precision == "tf32"


@pytest.mark.parametrize("number", range(len(LEGACY)))
def test_precision_with_the_switches_of_before_torch_29(number, monkeypatch):
    monkeypatch.setattr(arithmetic, "MODERN", False)
    LEGACY[number]()
    before = read()
    with full_precision():
        assert torch.get_float32_matmul_precision() == "highest"
        assert BACKENDS.cudnn.allow_tf32 is False
        assert multiplies_in_full(CUDA)
    assert read() == before
    torch.set_float32_matmul_precision("high")
    assert not multiplies_in_full(CUDA)


@modern
@pytest.mark.parametrize("kind", ["tf32", "bf16"])
def test_another_precision_is_noticed(kind):
    BACKENDS.mkldnn.matmul.fp32_precision = kind
    assert not multiplies_in_full(CPU)
    assert multiplies_in_full(CUDA)


def test_products_on_the_cpu_are_the_same_to_the_bit():
    x = torch.randn(200, 300, generator=torch.Generator().manual_seed(0))
    plain = x @ x.mT
    with full_precision():
        assert torch.equal(x @ x.mT, plain)
