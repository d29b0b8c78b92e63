"""The alphabet of a model: the most frequent characters of a text, or the 256 bytes. No torch here.

Ids of text come first, `<mask>` and `<pad>` after them: a model of text alone needs the first `size` rows. The
`tokenizer.json` that `save` writes has the same ids in `transformers`, except that a `<mask>` spelled out in a text is
the special token there (not with `split_special_tokens=True`).
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from typing_extensions import TypedDict

from dynamics.errors import InputError
from dynamics.files import write_text
from dynamics.readers import read_json

KINDS = ("characters", "bytes")
UNKNOWN, MASK, PAD = "<unk>", "<mask>", "<pad>"


class _Model(TypedDict):
    vocab: dict[str, int]
    unk_token: str | None
    merges: list[object]


class _File(TypedDict):
    """What is read of `tokenizer.json`."""

    model: _Model


def _byte_letters() -> list[str]:
    """Return the printable letter that `tokenizers` writes for each byte (the byte alphabet of GPT-2)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id without the specials, spelled as in `tokenizer.json`.

    >>> vocabulary = Vocabulary.characters({ord("a"): 9, ord("b"): 9, ord("c"): 1}, size=3)
    >>> vocabulary.tokens, vocabulary.mask_id, vocabulary.encode("bac").tolist()
    (('a', 'b', '<unk>'), 3, [1, 0, 2])
    """

    kind: str  # characters (the last token is `<unk>`) or bytes (every id is the byte itself)
    tokens: tuple[str, ...]

    @classmethod
    def characters(cls, counts: dict[int, int], size: int) -> "Vocabulary":
        """Take the `size` - 1 most frequent code points, or as many as occur, and `<unk>`; of equals the smaller."""
        ranked = sorted(counts, key=lambda point: (-counts[point], point))[: size - 1]
        return cls("characters", (*map(chr, ranked), UNKNOWN))

    @classmethod
    def bytes(cls) -> "Vocabulary":
        """Take the 256 bytes of UTF-8."""
        return cls("bytes", tuple(_byte_letters()))

    @property
    def size(self) -> int:
        """The number of ids of text; the ids of the specials follow."""
        return len(self.tokens)

    @property
    def mask_id(self) -> int:
        """Id of `<mask>`."""
        return self.size

    @property
    def pad_id(self) -> int:
        """Id of `<pad>`."""
        return self.size + 1

    @property
    def unk_id(self) -> int | None:
        """Id of `<unk>`, within the ids of text; no byte is unknown."""
        return self.size - 1 if self.kind == "characters" else None

    @property
    def dtype(self) -> np.dtype:
        """The smallest unsigned type that holds every id of text."""
        return np.min_scalar_type(self.size - 1)

    @cached_property
    def _ids(self) -> np.ndarray:  # of each code point
        ids = np.full(0x110000, self.size - 1, dtype=self.dtype)
        ids[[ord(token) for token in self.tokens[:-1]]] = np.arange(self.size - 1)
        return ids

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of a text: (characters,) or (bytes,), in `dtype`."""
        if self.kind == "bytes":
            return np.frombuffer(text.encode(), dtype=np.uint8)
        return self._ids[np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)]

    def decode(self, ids: np.ndarray) -> str:
        """Return the text of ids; unknown characters and specials are spelled out."""
        spelling = [bytes([i]) if self.kind == "bytes" else token.encode() for i, token in enumerate(self.tokens)]
        spelling += [MASK.encode(), PAD.encode()]
        return b"".join([spelling[i] for i in np.asarray(ids).tolist()]).decode(errors="replace")

    def save(self, folder: Path) -> Path:
        """Write `tokenizer.json`, whose path is returned, and the config that `AutoTokenizer.from_pretrained` needs."""
        by_token = {token: i for i, token in enumerate((*self.tokens, MASK, PAD))}
        unknown = None if self.unk_id is None else UNKNOWN
        tokenizer = Tokenizer(models.BPE(by_token, [], unk_token=unknown))
        if self.kind == "bytes":
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            tokenizer.decoder = decoders.ByteLevel()
        else:
            tokenizer.decoder = decoders.Fuse()
        specials = {"mask_token": MASK, "pad_token": PAD} | ({"unk_token": unknown} if unknown else {})
        tokenizer.add_special_tokens(list(specials.values()))
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **specials}
        path = Path(folder) / "tokenizer.json"
        write_text(path, tokenizer.to_str(pretty=True))
        write_text(path.with_name("tokenizer_config.json"), json.dumps(config, indent=2))
        return path

    @classmethod
    def load(cls, folder: Path) -> "Vocabulary":
        """Read what `save` wrote into `folder`."""
        path = Path(folder) / "tokenizer.json"
        model = read_json(path, _File, "it must be a vocabulary of characters or bytes")["model"]
        tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
        vocabulary = cls("characters" if model["unk_token"] else "bytes", tuple(tokens[:-2]))
        expected = tokens[-3:-2] == [UNKNOWN] if model["unk_token"] else vocabulary == cls.bytes()
        if tokens[-2:] != [MASK, PAD] or not expected or model["merges"]:
            raise InputError(f"{path} is not a vocabulary of characters or bytes but another tokenizer.")
        return vocabulary
