"""Images and clips: folders of files, or noise, through the processor of the model."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dynamics.loading.inputs import NOISE, Batches, Source, chunks, digest, files
from dynamics.loading.models import Loaded
from dynamics.loading.options import InputOptions
from dynamics.models import hub

log = logging.getLogger(__name__)

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})
AUDIO = frozenset({".wav", ".flac", ".ogg", ".mp3"})
NOISE_IMAGES, NOISE_CLIPS, NOISE_SECONDS = 64, 16, 5
RATE = 16_000
"""Samples a second where the processor does not say."""
PIECE = 30
"""Seconds of a clip that are one input; longer clips are cut."""
SHORTEST = 0.1
"""Seconds below which a piece is left out: convolutions of speech models need some."""


def images(options: InputOptions) -> Source:
    """Images (H, W, 3) of unsigned bytes."""
    if options.images in (None, NOISE):
        count = options.inputs or NOISE_IMAGES

        def noise() -> Iterator[tuple[np.ndarray, float]]:
            for i in range(count):
                random = np.random.default_rng((options.seed, i))
                yield random.integers(256, size=(224, 224, 3), dtype=np.uint8), (i + 1) / count

        return Source(noise, {"source": "noise", "sha256": None, "synthetic": "noise"})
    paths = files(options.images, IMAGES, "images")[: options.inputs]
    found = Source(lambda: read(), {"source": options.images, "sha256": digest(paths)})

    def read() -> Iterator[tuple[np.ndarray, float]]:
        from PIL import Image

        for i, path in enumerate(paths):
            try:
                with Image.open(path) as image:
                    pixels = np.asarray(image.convert("RGB"))
            except (OSError, ValueError, SyntaxError) as error:  # what PIL raises on damaged files
                found.skip(path, error)
                continue
            yield pixels, (i + 1) / len(paths)

    return found


def audio(options: InputOptions) -> Source:
    """Clips: (samples, rate), samples (n,) float32 in [-1, 1]."""
    if options.audio in (None, NOISE):
        count = options.inputs or NOISE_CLIPS

        def noise() -> Iterator[tuple[tuple[np.ndarray, int], float]]:
            for i in range(count):
                wave = 0.1 * np.random.default_rng((options.seed, i)).standard_normal(NOISE_SECONDS * RATE)
                yield (wave.astype(np.float32), RATE), (i + 1) / count

        return Source(noise, {"source": "noise", "sha256": None, "synthetic": "noise"})
    paths = files(options.audio, AUDIO, "audio")[: options.inputs]
    found = Source(lambda: read(), {"source": options.audio, "sha256": digest(paths)})

    def read() -> Iterator[tuple[tuple[np.ndarray, int], float]]:
        for i, path in enumerate(paths):
            try:
                clip = _clip(path)
            except (OSError, ValueError, EOFError, RuntimeError) as error:  # scipy's, and soundfile's
                found.skip(path, error)
                continue
            yield clip, (i + 1) / len(paths)

    return found


def _clip(path: Path) -> tuple[np.ndarray, int]:
    if path.suffix.lower() != ".wav":
        try:
            import soundfile
        except ImportError as error:
            raise ValueError("only .wav can be read without the package soundfile") from error
        wave, rate = soundfile.read(path, dtype="float32")
    else:
        import warnings

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


def resampled(wave: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """A wave (n,) at another rate, by a polyphase filter.

    >>> resampled(np.zeros(48000, dtype=np.float32), 48000, 16000).shape
    (16000,)
    """
    if rate == wanted:
        return wave
    from scipy.signal import resample_poly

    shared = np.gcd(rate, wanted)
    return resample_poly(wave, wanted // shared, rate // shared).astype(np.float32)


def image_batches(loaded: Loaded, options: InputOptions, given: Source) -> Batches:
    """`pixel_values` (B, 3, H, W)."""
    processor, name = _image_processor(loaded)

    def make() -> Iterator[tuple[dict[str, Tensor], int, float]]:
        for part in chunks(given.items(), options.batch_size):
            pictures = [image for image, _ in part]
            if loaded.encode is not None:
                batch = dict(loaded.encode(pictures))
            else:
                made = processor(images=pictures, return_tensors="pt", input_data_format="channels_last")
                batch = {"pixel_values": made["pixel_values"].to(_dtype(loaded))}
            yield batch, len(part), part[-1][1]

    return Batches(make, {"processor": name}, given)


def audio_batches(loaded: Loaded, options: InputOptions, given: Source) -> Batches:
    """`input_values` (B, samples) or `input_features` (B, bins, frames), with `attention_mask`."""
    extractor, name = _extractor(loaded)
    rate = getattr(extractor, "sampling_rate", RATE)
    # Models whose first layer normalises over time were trained without a mask: no padding for them.
    masked = loaded.main_input == "input_features" or getattr(extractor, "return_attention_mask", False)

    def pieces() -> Iterator[tuple[np.ndarray, float]]:
        span = int(PIECE * rate)
        for (wave, given_rate), share in given.items():
            wave = resampled(wave, given_rate, rate)
            for at in range(0, len(wave), span):
                if at == 0 or len(wave) - at >= SHORTEST * rate:
                    yield wave[at : at + span], share

    def groups() -> Iterator[list[tuple[np.ndarray, float]]]:
        waiting: list[tuple[np.ndarray, float]] = []
        for piece in pieces():
            alike = not waiting or masked or len(piece[0]) == len(waiting[0][0])
            if waiting and (not alike or len(waiting) == options.batch_size):
                yield waiting
                waiting = []
            waiting.append(piece)
        if waiting:
            yield waiting

    def make() -> Iterator[tuple[dict[str, Tensor], int, float]]:
        for part in groups():
            waves = [wave for wave, _ in part]
            if loaded.encode is not None:
                batch = dict(loaded.encode(waves))
            else:
                batch = _extract(extractor, waves, rate, loaded, masked)
            yield batch, len(part), part[-1][1]

    return Batches(make, {"processor": name, "sampling_rate": rate}, given)


def _extract(extractor: Any, waves: list[np.ndarray], rate: int, loaded: Loaded, masked: bool) -> dict[str, Tensor]:
    more: dict[str, Any] = {"return_attention_mask": True} if masked else {}
    if type(extractor).__name__ == "WhisperFeatureExtractor":
        more |= {"padding": "max_length", "max_length": extractor.n_samples, "truncation": True}
    else:
        more |= {"padding": True}
    made = extractor(waves, sampling_rate=rate, return_tensors="pt", **more)
    batch = {loaded.main_input: made[loaded.main_input].to(_dtype(loaded))}
    return batch | ({"attention_mask": made["attention_mask"]} if masked and "attention_mask" in made else {})


def _dtype(loaded: Loaded) -> Any:
    return next(x.dtype for x in loaded.model.parameters() if x.is_floating_point())


def _has_processor(source: str) -> bool:
    path = Path(source)
    return bool(source) and (not path.is_dir() or any(path.glob("*processor_config.json")))


def _fetch(kind: Any, loaded: Loaded, what: str) -> Any:
    name = f"the {what} of {loaded.source}"
    return hub.fetch(kind.from_pretrained, loaded.source, name=name, trust_remote_code=loaded.trusted)


def _warn_of(default: str, loaded: Loaded) -> None:
    if loaded.source:
        log.warning("%s brings no processor, so its inputs are made by default: %s", loaded.source, default)


def _image_processor(loaded: Loaded) -> tuple[Any, str]:
    if loaded.encode is not None:
        return None, "the module's own"
    if _has_processor(loaded.source):
        from transformers import AutoImageProcessor

        processor = _fetch(AutoImageProcessor, loaded, "image processor")
        return processor, type(processor).__name__
    from transformers import ViTImageProcessor

    size = getattr(loaded.config, "image_size", None) or 224
    height, width = (size, size) if isinstance(size, int) else size
    told = f"{height} x {width}, scaled to -1..1"
    _warn_of(told, loaded)
    return ViTImageProcessor(size={"height": height, "width": width}), told


def _extractor(loaded: Loaded) -> tuple[Any, str]:
    if loaded.encode is not None:
        return None, "the module's own"
    if _has_processor(loaded.source):
        from transformers import AutoFeatureExtractor

        extractor = _fetch(AutoFeatureExtractor, loaded, "feature extractor")
        return extractor, type(extractor).__name__
    if loaded.main_input == "input_features":
        from transformers import WhisperFeatureExtractor

        extractor = WhisperFeatureExtractor(feature_size=getattr(loaded.config, "num_mel_bins", 80))
        # Whisper takes exactly as many frames as it has positions, halved by its convolution.
        frames = 2 * getattr(loaded.config, "max_source_positions", 1500)
        extractor.n_samples = frames * extractor.hop_length
    else:
        from transformers import Wav2Vec2FeatureExtractor

        masked = getattr(loaded.config, "feat_extract_norm", "layer") == "layer"
        extractor = Wav2Vec2FeatureExtractor(return_attention_mask=masked)
    _warn_of(type(extractor).__name__, loaded)
    return extractor, f"{type(extractor).__name__} by default"
