"""Models that are no transformers models, as `--module` takes them."""

import torch
from torch import nn


class Letters(nn.Module):
    """A transformer over vectors of words that a convolution makes of their letters, as CharacterBERT does."""

    modality = "text"

    def __init__(self) -> None:
        super().__init__()
        self.letters = nn.Embedding(128, 8)
        self.convolution = nn.Conv1d(8, 16, 3, padding=1)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)

    def encode(self, texts: list[str]) -> dict[str, torch.Tensor]:
        """One vector (16,) for each word: `inputs_embeds` (B, T, 16) and `attention_mask` (B, T)."""
        with torch.no_grad():
            words = [
                torch.stack(
                    [
                        self.convolution(self.letters(torch.tensor([ord(c) % 128 for c in word])).T).amax(1)
                        for word in text.split()
                    ]
                )
                for text in texts
            ]
        mask = nn.utils.rnn.pad_sequence([torch.ones(len(x), dtype=torch.long) for x in words], batch_first=True)
        return {
            "inputs_embeds": nn.utils.rnn.pad_sequence(words, batch_first=True),
            "attention_mask": mask,
        }

    def forward(self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.layers(inputs_embeds, src_key_padding_mask=attention_mask == 0)


def plain() -> Letters:
    """The module, which encodes by itself."""
    return Letters()


def pair() -> tuple[nn.Module, object]:
    """A module and the function that encodes."""
    model = Letters()
    return model, model.encode


def number() -> int:
    """No module at all."""
    return 7
