"""Where the weights of a model go."""

import pytest
import torch
from transformers import AutoConfig, AutoModel

from dynamics.loading import models
from dynamics.loading.models import _device_map, load
from dynamics.loading.options import LoadOptions
from dynamics.loading.subjects import Subject

CUDA = torch.device("cuda", 0)
CONFIG = AutoConfig.for_model("gpt2", n_layer=1, n_embd=64, n_head=2, vocab_size=100, n_positions=16)


@pytest.fixture
def two_gpus(monkeypatch):
    """Two devices, of the first of which so many bytes are free."""

    def free(size):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (size, 10 * size))

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    return free


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_device_where_the_weights_leave_it_room(two_gpus, dtype):
    size = AutoModel.from_config(CONFIG, dtype=dtype).get_memory_footprint()
    two_gpus(int(size / models.WEIGHTS_SHARE) + 9)
    assert _device_map(AutoModel, CONFIG, dtype, CUDA) == {"": CUDA}
    two_gpus(int(size / models.WEIGHTS_SHARE) - 9)
    assert _device_map(AutoModel, CONFIG, dtype, CUDA) == "auto"


def test_a_model_whose_size_is_not_known_is_left_to_accelerate(two_gpus, monkeypatch):
    two_gpus(1 << 40)
    monkeypatch.setattr(AutoModel, "from_config", lambda *_, **__: 1 / 0)
    assert _device_map(AutoModel, CONFIG, torch.float32, CUDA) == "auto"


def test_one_gpu_is_left_to_accelerate_too(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert _device_map(AutoModel, CONFIG, torch.float32, CUDA) == "auto"


def test_the_encoder_of_a_model_that_was_placed_stays_where_it_is(monkeypatch):
    """Hooks of accelerate carry its inputs to where its parts lie."""
    config = AutoConfig.for_model("t5", d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    model, moves = AutoModel.from_config(config), []
    model.encoder.to = lambda device: moves.append(device) or model.encoder
    monkeypatch.setattr(models, "_pretrained", lambda *_: model)
    subject, options = Subject("t5", "local", 0, "folder", "t5"), LoadOptions(["t5"], device="cpu")
    load(subject, options)
    assert moves == [torch.device("cpu")]
    model.hf_device_map = {"": 0}
    assert load(subject, options).model is model.encoder
    assert len(moves) == 1
