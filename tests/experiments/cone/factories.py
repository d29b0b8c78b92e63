"""Models whose cone is known: vectors of letters with one long direction, passed through blocks that add nothing.

And the files that sentence-transformers keeps beside the weights of a model.
"""

import json

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn

WIDTH, TURN = 32, 0.6
AXIS = torch.zeros(WIDTH).index_fill_(0, torch.tensor([3]), 1.0)


class Letters(nn.Module):
    """Letters in, their vectors out: noise, a common offset, and a long part along one direction."""

    modality = "text"

    def __init__(self) -> None:
        super().__init__()
        noise = torch.Generator().manual_seed(0)
        table = 0.05 * torch.randn(128, WIDTH, generator=noise) + 1.0
        table += 4 * torch.randn(128, 1, generator=noise) * AXIS
        self.letters = nn.Embedding.from_pretrained(table)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 2, 8, batch_first=True, norm_first=True) for _ in range(2)
        )
        for layer in self.layers:
            for part in (layer.self_attn.out_proj, layer.linear2):
                nn.init.zeros_(part.weight)
                nn.init.zeros_(part.bias)

    def encode(self, texts: list[str]) -> dict[str, Tensor]:
        """Ids (B, T) and their mask."""
        ids = [torch.tensor([ord(letter) % 128 for letter in text]) for text in texts]
        mask = [torch.ones(len(x), dtype=torch.long) for x in ids]
        both = (nn.utils.rnn.pad_sequence(x, batch_first=True) for x in (ids, mask))
        return dict(zip(("input_ids", "attention_mask"), both, strict=True))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.letters(input_ids)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=attention_mask == 0)
        return x


def rotation() -> Tensor:
    """A turn by 0.6 rad in the plane of the axis and another direction."""
    turn = torch.eye(WIDTH)
    turn[[3, 3, 8, 8], [3, 8, 3, 8]] = torch.tensor([TURN]).cos().item()
    turn[8, 3], turn[3, 8] = torch.tensor(TURN).sin(), -torch.tensor(TURN).sin()
    return turn


def plain() -> Letters:
    """The model as it is."""
    return Letters()


TANH = "torch.nn.modules.activation.Tanh"


def encoder(folder, pooling=None, modules=("Transformer", "Pooling"), prompts=None, limits=None):
    """The files that sentence-transformers keeps."""
    named = [
        {"idx": i, "path": f"{i}_{kind}" if i else "", "type": f"s.models.{kind}"} for i, kind in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(named))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling or {"pooling_mode_mean_tokens": True}))
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts or {}))
    (folder / "sentence_bert_config.json").write_text(json.dumps(limits or {}))
    return str(folder)


def dense_layer(folder, name, wide, narrow, activation, seed, **more):
    """The folder of a dense layer; gives its weight and bias."""
    noise = np.random.default_rng(seed)
    kept = {"linear.weight": noise.normal(size=(narrow, wide)).astype(np.float32)}
    if more.get("bias", True):
        kept["linear.bias"] = noise.normal(size=narrow).astype(np.float32)
    (folder / name).mkdir()
    save_file(kept, folder / name / "model.safetensors")
    config = {"in_features": wide, "out_features": narrow, "activation_function": activation, **more}
    (folder / name / "config.json").write_text(json.dumps(config))
    return kept["linear.weight"], kept.get("linear.bias", 0.0)
