"""Images and clips: folders of files, or noise, through the processor of the model."""

import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynamics.errors import InputError
from dynamics.loading.inputs import Batch, Batches, Counted, InputSource, chunks, digest, encoded
from dynamics.loading.models import Loaded
from dynamics.loading.options import InputOptions
from dynamics.models import hub

log = logging.getLogger(__name__)

NOISE = "noise"
"""Stands for a folder of synthetic images or clips."""
IMAGES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})
AUDIO = frozenset({".wav", ".flac", ".ogg", ".mp3"})
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, RuntimeError)
"""What PIL, scipy and soundfile raise on damaged files."""
NOISE_IMAGES, NOISE_CLIPS, NOISE_SECONDS = 64, 16, 5
RATE = 16_000
"""Samples a second where the processor does not say."""
PIECE = 30
"""Seconds of a clip that are one input; longer clips are cut."""
SHORTEST = 0.1
"""Seconds below which a piece is left out: convolutions of speech models need some."""

Pieces = Iterator[tuple[np.ndarray, float]]


def open_images(options: InputOptions) -> InputSource:
    """Return images (H, W, 3) of unsigned bytes.

    Raises:
        InputError: there is no such folder, or no image in it.
    """
    if options.images in (None, NOISE):

        def noise(random: np.random.Generator) -> np.ndarray:
            return random.integers(256, size=(224, 224, 3), dtype=np.uint8)

        return _generated(noise, options.inputs or NOISE_IMAGES, options.seed)
    return _from_files("images", str(options.images), IMAGES, _read_image, options.inputs)


def open_audio(options: InputOptions) -> InputSource:
    """Return clips: (samples, rate), samples (n,) float32 in [-1, 1].

    Raises:
        InputError: there is no such folder, or no clip in it.
    """
    if options.audio in (None, NOISE):

        def noise(random: np.random.Generator) -> tuple[np.ndarray, int]:
            return (0.1 * random.standard_normal(NOISE_SECONDS * RATE)).astype(np.float32), RATE

        return _generated(noise, options.inputs or NOISE_CLIPS, options.seed)
    return _from_files("audio", str(options.audio), AUDIO, _read_clip, options.inputs)


def _generated(noise: Callable[[np.random.Generator], Any], count: int, seed: int) -> InputSource:
    def items() -> Iterator[tuple[Any, float]]:
        for i in range(count):
            yield noise(np.random.default_rng((seed, i))), (i + 1) / count

    return InputSource(items, {"source": NOISE, "sha256": None, "synthetic": NOISE})


def _from_files(
    option: str, folder: str, suffixes: frozenset[str], read: Callable[[Path], Any], most: int | None
) -> InputSource:
    """Read the files of a kind in a folder and below it, sorted; those that cannot be read are left out."""
    if not Path(folder).is_dir():
        raise InputError(f"--{option} {folder}: there is no such folder.")
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    if not paths:
        raise InputError(f"--{option} {folder}: no file in it ends with {', '.join(sorted(suffixes))}.")
    paths = paths[:most]

    def items() -> Iterator[tuple[Any, float]]:
        for i, path in enumerate(paths):
            try:
                item = read(path)
            except UNREADABLE as error:
                source.skip(path, error)
                continue
            yield item, (i + 1) / len(paths)

    source = InputSource(items, {"source": folder, "sha256": digest(paths)})
    return source


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
        wave, rate = soundfile.read(path, dtype="float32")
    else:
        from scipy.io import wavfile

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)
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


def resampled(wave: np.ndarray, rate: int, target: int) -> np.ndarray:
    """Return a wave (n,) at another rate, by a polyphase filter.

    >>> resampled(np.zeros(48000, dtype=np.float32), 48000, 16000).shape
    (16000,)
    """
    if rate == target:
        return wave
    from scipy.signal import resample_poly

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
        return batch | (
            {"attention_mask": features["attention_mask"]} if masked and "attention_mask" in features else {}
        )

    def make() -> Iterator[Counted]:
        groups = _groups(_pieces(source, rate), options.batch_size, masked)
        return encoded(groups, loaded.encode or encode)

    return Batches(make, source, {"processor": name, "sampling_rate": rate})


def _pieces(source: InputSource, rate: int) -> Pieces:
    """Yield clips at a rate, long ones cut."""
    span = int(PIECE * rate)
    for (wave, wave_rate), share in source.items():
        wave = resampled(wave, wave_rate, rate)
        for at in range(0, len(wave), span):
            if at == 0 or len(wave) - at >= SHORTEST * rate:
                yield wave[at : at + span], share


def _groups(pieces: Pieces, size: int, masked: bool) -> Iterator[list[tuple[np.ndarray, float]]]:
    """Yield the pieces of each batch, of one length unless padding is masked."""
    group: list[tuple[np.ndarray, float]] = []
    for piece in pieces:
        fits = not group or masked or len(piece[0]) == len(group[0][0])
        if group and (not fits or len(group) == size):
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def _dtype(loaded: Loaded) -> torch.dtype:
    return next(x.dtype for x in loaded.model.parameters() if x.is_floating_point())


def _own_processor(loaded: Loaded, kind: Any, words: str) -> tuple[Any, str] | None:
    """Return the model's own processor (of an Auto class of transformers) and its name; None where it brings none."""
    if loaded.encode is not None:
        return None, "the module's own"
    path = Path(loaded.source)
    if not loaded.source or (path.is_dir() and not any(path.glob("*processor_config.json"))):
        return None
    name = f"the {words} of {loaded.source}"
    processor = hub.fetch(kind.from_pretrained, loaded.source, name=name, trust_remote_code=loaded.trusted)
    return processor, type(processor).__name__


def _warn_of_default(processor: str, loaded: Loaded) -> None:
    if loaded.source:
        log.warning("%s brings no processor, so its inputs are made by default: %s", loaded.source, processor)


def _image_processor(loaded: Loaded) -> tuple[Any, str]:
    from transformers import AutoImageProcessor, ViTImageProcessor

    if processor := _own_processor(loaded, AutoImageProcessor, "image processor"):
        return processor
    size = getattr(loaded.config, "image_size", None) or 224
    height, width = (size, size) if isinstance(size, int) else size
    name = f"{height} x {width}, scaled to -1..1"
    _warn_of_default(name, loaded)
    return ViTImageProcessor(size={"height": height, "width": width}), name


def _feature_extractor(loaded: Loaded) -> tuple[Any, str]:
    from transformers import AutoFeatureExtractor, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

    if processor := _own_processor(loaded, AutoFeatureExtractor, "feature extractor"):
        return processor
    extractor: Any
    if loaded.main_input == "input_features":
        extractor = WhisperFeatureExtractor(feature_size=getattr(loaded.config, "num_mel_bins", 80))
        # Whisper takes exactly as many frames as it has positions, halved by its convolution.
        frames = 2 * getattr(loaded.config, "max_source_positions", 1500)
        extractor.n_samples = frames * extractor.hop_length
    else:
        masked = getattr(loaded.config, "feat_extract_norm", "layer") == "layer"
        extractor = Wav2Vec2FeatureExtractor(return_attention_mask=masked)
    name = type(extractor).__name__
    _warn_of_default(name, loaded)
    return extractor, f"{name} by default"
