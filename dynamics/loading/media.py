"""Images and clips: folders of files, or noise, through the processor of the model."""

import logging
import warnings
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.io import wavfile
from scipy.signal import resample_poly

from dynamics.errors import InputError
from dynamics.loading.inputs import Batch, Batches, Counted, InputSource, chunks, digest, encoded
from dynamics.loading.models import Loaded
from dynamics.loading.options import InputOptions
from dynamics.models import hub

log = logging.getLogger(__name__)

NOISE = "noise"  # in the place of a folder
NOISE_SECONDS = 5
RATE = 16_000  # samples a second where the processor does not say
PIECE = 30  # seconds of a clip that are one input; longer clips are cut
SHORTEST = 0.1  # seconds below which a piece is left out: convolutions of speech models need some


def _read_image(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _read_clip(path: Path) -> tuple[np.ndarray, int]:
    if path.suffix.lower() != ".wav":
        try:
            import soundfile
        except ImportError as error:
            raise ValueError("only .wav can be read without the package soundfile") from error
        with soundfile.SoundFile(path) as file:
            wave, rate = file.read(dtype="float32"), file.samplerate
            if len(wave) < file.frames:
                raise EOFError(f"it breaks off after {len(wave)} of {file.frames} samples")
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)
            warnings.filterwarnings("error", "Reached EOF", wavfile.WavFileWarning)  # of a file that breaks off
            rate, wave = wavfile.read(path)
        if wave.dtype == np.uint8:
            wave = (wave.astype(np.float32) - 128) / 128
        elif np.issubdtype(wave.dtype, np.integer):
            wave = wave.astype(np.float32) / (np.iinfo(wave.dtype).max + 1)
    wave = np.asarray(wave, dtype=np.float32)
    wave = wave.mean(1) if wave.ndim == 2 else wave
    if not wave.size or not np.isfinite(wave).all():
        raise ValueError("it holds no samples, or some that are not finite")
    return wave, int(rate)


class Kind(NamedTuple):
    """A kind of media: the suffixes and the reader of its files, and how many inputs of noise replace them."""

    suffixes: tuple[str, ...]
    read: Callable[[Path], Any]
    noise: Callable[[np.random.Generator], Any]
    draws: int


KINDS = {
    "images": Kind(
        (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"),
        _read_image,
        lambda random: random.integers(256, size=(224, 224, 3), dtype=np.uint8),
        64,
    ),
    "audio": Kind(
        (".flac", ".mp3", ".ogg", ".wav"),
        _read_clip,
        lambda random: ((0.1 * random.standard_normal(NOISE_SECONDS * RATE)).astype(np.float32), RATE),
        16,
    ),
}


def open_media(option: str, options: InputOptions) -> InputSource:
    """Return images (H, W, 3) of unsigned bytes, or clips: (samples, rate), samples (n,) float32 in [-1, 1].

    They are those in a folder and below it, sorted, without those that cannot be read; or noise.
    """
    folder, kind = getattr(options, option), KINDS[option]
    if folder in (None, NOISE):
        count = options.inputs or kind.draws
        return InputSource(
            lambda: ((kind.noise(np.random.default_rng((options.seed, i))), (i + 1) / count) for i in range(count)),
            {"source": NOISE, "sha256": None, "synthetic": NOISE},
        )
    if not Path(folder).is_dir():
        raise InputError(f"--{option} {folder}: there is no such folder.")
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in kind.suffixes and path.is_file())
    if not paths:
        raise InputError(f"--{option} {folder}: no file in it ends with {', '.join(kind.suffixes)}.")
    paths = paths[: options.inputs]

    def items() -> Iterator[tuple[Any, float]]:
        for i, path in enumerate(paths):
            try:
                item = kind.read(path)
            except Exception as error:  # PIL, scipy and soundfile raise whatever they do
                source.skip(path.name, error)
                continue
            yield item, (i + 1) / len(paths)

    source = InputSource(items, {"source": folder, "sha256": digest(paths)})
    return source


def resampled(wave: np.ndarray, rate: int, target: int) -> np.ndarray:
    """Return a wave (n,) at another rate, by a polyphase filter.

    >>> resampled(np.zeros(48000, dtype=np.float32), 48000, 16000).shape
    (16000,)
    """
    if rate == target:
        return wave
    shared = np.gcd(rate, target)
    return resample_poly(wave, target // shared, rate // shared).astype(np.float32)


def image_batches(loaded: Loaded, options: InputOptions, source: InputSource) -> Batches:
    """Return batches of `pixel_values` (B, 3, H, W)."""
    processor, name = _image_processor(loaded)

    def encode(images: list[np.ndarray]) -> Batch:
        batch = processor(images=images, return_tensors="pt", input_data_format="channels_last")
        return {"pixel_values": batch["pixel_values"].to(_dtype(loaded))}

    def make() -> Iterator[Counted]:
        return encoded(chunks(source.items(), options.batch_size), loaded.encode or encode)

    return Batches(make, source, {"processor": name})


def audio_batches(loaded: Loaded, options: InputOptions, source: InputSource) -> Batches:
    """Return batches of `input_values` (B, samples) or `input_features` (B, bins, frames), with `attention_mask`."""
    extractor, name = _feature_extractor(loaded)
    rate = getattr(extractor, "sampling_rate", RATE)
    # Models whose first layer normalises over time were trained without a mask: no padding for them.
    masked = loaded.main_input == "input_features" or getattr(extractor, "return_attention_mask", False)

    def encode(waves: list[np.ndarray]) -> Batch:
        settings: dict[str, Any] = {"padding": True}
        if type(extractor).__name__ == "WhisperFeatureExtractor":
            settings = {"padding": "max_length", "max_length": extractor.n_samples, "truncation": True}
        if masked:
            settings["return_attention_mask"] = True
        features = extractor(waves, sampling_rate=rate, return_tensors="pt", **settings)
        batch = {loaded.main_input: features[loaded.main_input].to(_dtype(loaded))}
        return batch | {key: features[key] for key in ("attention_mask",) if masked and key in features}

    def make() -> Iterator[Counted]:
        runs = groupby(_pieces(source, rate), key=lambda piece: None if masked else len(piece[0]))
        groups = (group for _, run in runs for group in chunks(run, options.batch_size))
        return encoded(groups, loaded.encode or encode)

    return Batches(make, source, {"processor": name, "sampling_rate": rate})


def _pieces(source: InputSource, rate: int) -> Iterator[tuple[np.ndarray, float]]:
    """Yield clips at a rate, long ones cut."""
    span = int(PIECE * rate)
    for (wave, wave_rate), share in source.items():
        wave = resampled(wave, wave_rate, rate)
        for at in range(0, len(wave), span):
            if at == 0 or len(wave) - at >= SHORTEST * rate:
                yield wave[at : at + span], share


def _dtype(loaded: Loaded) -> torch.dtype:
    return next(x.dtype for x in loaded.model.parameters() if x.is_floating_point())


def _own_processor(loaded: Loaded, kind: Any, words: str) -> tuple[Any, str] | None:
    """Return the model's own processor (of an Auto class of transformers) and its name; None where it brings none."""
    if loaded.encode is not None:
        return None, "the module's own"
    path = Path(loaded.source)
    if loaded.source and (not path.is_dir() or any(path.glob("*processor_config.json"))):
        name = f"the {words} of {loaded.source}"
        processor = hub.fetch(kind.from_pretrained, loaded.source, name=name, trust_remote_code=loaded.trusted)
        return processor, type(processor).__name__
    return None


def _warn_of_default(processor: str, loaded: Loaded) -> None:
    if loaded.source:
        log.warning("%s brings no processor, so its inputs are made by default: %s", loaded.source, processor)


def _image_processor(loaded: Loaded) -> tuple[Any, str]:
    from transformers import AutoImageProcessor, ViTImageProcessor

    if own := _own_processor(loaded, AutoImageProcessor, "image processor"):
        return own
    size = getattr(loaded.config, "image_size", None) or 224
    height, width = (size, size) if isinstance(size, int) else size
    name = f"{height} x {width}, scaled to -1..1"
    _warn_of_default(name, loaded)
    return ViTImageProcessor(size={"height": height, "width": width}), name


def _feature_extractor(loaded: Loaded) -> tuple[Any, str]:
    from transformers import AutoFeatureExtractor, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

    if own := _own_processor(loaded, AutoFeatureExtractor, "feature extractor"):
        return own
    extractor: Any
    if loaded.main_input == "input_features":
        extractor = WhisperFeatureExtractor(feature_size=getattr(loaded.config, "num_mel_bins", 80))
        # Whisper takes exactly as many frames as it has positions, halved by its convolution.
        extractor.n_samples = 2 * getattr(loaded.config, "max_source_positions", 1500) * extractor.hop_length
    else:
        masked = getattr(loaded.config, "feat_extract_norm", "layer") == "layer"
        extractor = Wav2Vec2FeatureExtractor(return_attention_mask=masked)
    name = type(extractor).__name__
    _warn_of_default(name, loaded)
    return extractor, f"{name} by default"
