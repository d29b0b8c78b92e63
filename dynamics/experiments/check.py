"""`dynamics check`: the verdict on what is captured of each model, as a table."""

import inspect
import math
from dataclasses import asdict

import torch
from rich.console import Console
from rich.table import Table

from dynamics.capture.check import REFUSED, Comparison, Verdict
from dynamics.capture.check import check as check_capture
from dynamics.errors import Failure, InputError, in_words
from dynamics.experiments.guards import out_of_memory, quiet
from dynamics.experiments.in_turn import as_one, as_ours
from dynamics.loading import media
from dynamics.loading.inputs import Batch
from dynamics.loading.models import Loaded, load
from dynamics.loading.options import InputOptions, LoadOptions
from dynamics.loading.subjects import Subject, expand
from dynamics.measure.measurement import exact

INPUTS, TOKENS = 3, 24
SENTENCES = ("A cat sat on the mat.", "Nobody knows exactly why it did so, yet it did.", "Yes.")


def check(options: LoadOptions) -> None:
    """Print a table for every model.

    Raises:
        InputError: none of the models can be loaded.
        Failure: one cannot be loaded, what is captured of it disagrees with what it computes, or it cannot be captured.
    """
    quiet()
    reading = InputOptions(**asdict(options), inputs=INPUTS, batch_size=INPUTS)
    console, refused, errors = Console(), list[str](), dict[str, Exception]()
    subjects = expand(reading)
    for subject in subjects:
        try:
            verdict = _verdict(subject, reading)
        except Exception as error:  # of a foreign model or tokenizer: anything
            errors[subject.name] = as_ours(subject, error)
            if len(subjects) > 1:
                console.print(f"{subject.name}: not loaded ({in_words(error)})\n", highlight=False)
            continue
        console.print(_table(subject.name, verdict))
        console.print(f"{subject.name}: {verdict}\n", highlight=False)
        refused += [subject.name] * (verdict.word == REFUSED)
    if len(errors) == len(subjects):
        raise as_one(list(errors.values()))
    if refused or errors:
        parts = [
            f"{word}: {', '.join(names)}." for word, names in (("refused", refused), ("not loaded", errors)) if names
        ]
        raise Failure(" ".join(parts))


def _verdict(subject: Subject, options: InputOptions) -> Verdict:
    loaded = load(subject, options)
    try:
        with out_of_memory(subject.name, INPUTS), exact(loaded.model, None) as model:
            batch = {name: x.to(loaded.device) for name, x in inputs(loaded, options).items()}
            return check_capture(model, batch)
    except InputError as error:
        why = str(error).rstrip(".")
    except Exception as error:  # every architecture raises its own
        why = f"it does not run on random inputs ({' '.join(str(error).split())[:200] or type(error).__name__})"
    return Verdict((Comparison("capture", "", math.nan, REFUSED, why),))


def inputs(loaded: Loaded, options: InputOptions) -> Batch:
    """Return a batch of random ids with padding at the end, of noise, or of texts that the model encodes itself."""
    if loaded.modality != "text":
        make = media.image_batches if loaded.modality == "images" else media.audio_batches
        return next(iter(make(loaded, options, media.open_media(loaded.modality, options))))
    if loaded.encode is not None:
        return loaded.encode(list(SENTENCES))
    vocabulary = getattr(loaded.model.get_input_embeddings(), "num_embeddings", None)  # type: ignore[operator]
    generator = torch.Generator().manual_seed(options.seed)
    ids = torch.randint(vocabulary or 256, (INPUTS, TOKENS), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, TOKENS - TOKENS // 4 :], mask[2, TOKENS // 3 :] = 0, 0
    parameters = inspect.signature(loaded.model.forward).parameters
    return {"input_ids": ids, "attention_mask": mask} if "attention_mask" in parameters else {"input_ids": ids}


def _table(title: str, verdict: Verdict) -> Table:
    table = Table("what", "compared with", "greatest difference", "verdict", title=title, title_justify="left")
    for row in verdict.comparisons:
        difference = "-" if math.isnan(row.difference) else f"{row.difference:.1e}"
        table.add_row(row.what, row.against, difference, row.verdict)
    return table
