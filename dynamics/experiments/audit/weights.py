"""The weights of a checkpoint: its files and their hashes, and its tensors, left on the disk until they are read."""

import hashlib
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import RevisionNotFoundError
from safetensors import safe_open
from torch import Tensor
from typing_extensions import TypedDict

from dynamics.errors import InputError
from dynamics.files import sha256
from dynamics.loading.subjects import Subject
from dynamics.models import hub
from dynamics.readers import read_json, refuse_damaged_in

WHOLE = ("model.safetensors", "pytorch_model.bin")  # the first that a checkpoint has, whole or in shards, is read

Tensors = Mapping[str, Tensor]


class _Index(TypedDict):
    """The file that says in which shard a tensor lies."""

    weight_map: dict[str, str]


@dataclass(frozen=True)
class Files:
    """The weight files of a checkpoint, by name: the SHA-256 that is known without reading them, else empty."""

    subject: Subject
    hashes: dict[str, str]
    path: Callable[[str], Path]  # where a file lies; one of the hub is downloaded for it

    def digest(self) -> str:
        """Return one hash of all files; those whose hash is not known are read."""
        parts = [known or sha256(self.path(name)) for name, known in sorted(self.hashes.items())]
        return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()

    def tensors(self) -> Tensors:
        """Return all tensors, mapped into memory, so that only what is used of them is read."""
        tensors: dict[str, Tensor] = {}
        for name in self.hashes:
            path = self.path(name)
            try:
                tensors |= _read(path)
            except Exception as error:  # each format raises its own
                reason = " ".join(str(error).split())[:200].rstrip(".")
                raise InputError(
                    f"the weights of {self.subject.name} cannot be read ({path.name}: {reason}): fetch them again, or "
                    "save them as safetensors."
                ) from error
        if not tensors:
            raise InputError(f"the weights of {self.subject.name} hold no tensors: there is nothing to audit.")
        return tensors


def find(subject: Subject) -> Files:
    """Return the weight files of a checkpoint.

    Raises:
        InputError: it has no weights, or is neither here nor on the hub.
    """
    if subject.kind not in ("run", "folder", "hub"):
        raise InputError(f"{subject.name} has no checkpoint to audit: name a run of ours, a folder, or a hub name.")
    listed, path = _on_hub(subject) if subject.kind == "hub" else _in_folder(Path(subject.source))
    for whole in WHOLE:
        if whole in listed:
            return Files(subject, {whole: listed[whole]}, path)
        if f"{whole}.index.json" in listed:
            index = read_json(path(f"{whole}.index.json"), _Index, f"fetch the files of {subject.name} again")
            shards = sorted(set(index["weight_map"].values()))
            if missing := [name for name in shards if name not in listed]:
                raise InputError(f"{subject.name} lacks {missing[0]}, which its {whole}.index.json names.")
            return Files(subject, {name: listed[name] for name in shards}, path)
    raise InputError(f"{subject.name} holds no weights: neither {WHOLE[0]} nor {WHOLE[1]}, whole or in shards.")


def _in_folder(folder: Path) -> tuple[dict[str, str], Callable[[str], Path]]:
    refuse_damaged_in(folder, "restore it from a copy")
    # In the cache of the hub, a large file is a link to a blob that bears its SHA-256.
    blobs = {path.name: path.resolve().name for path in folder.iterdir()}
    return {name: blob if len(blob) == 64 else "" for name, blob in blobs.items()}, folder.joinpath


def _on_hub(subject: Subject) -> tuple[dict[str, str], Callable[[str], Path]]:
    """Return the files that the hub lists at a revision; where there is no network, those in its cache."""
    fetch = partial(hub.fetch, source=subject.source, name=subject.model, revision=subject.hub_revision)
    try:
        entries = list(HfApi().list_repo_tree(subject.source, revision=subject.hub_revision))
    except RevisionNotFoundError as error:
        raise InputError(f"{subject.model} has no revision {subject.hub_revision}: see its branches.") from error
    except Exception:  # of a network; the library's clients for it each raise their own
        return _in_folder(Path(fetch(snapshot_download, local_files_only=True)))
    large = {entry.path: getattr(entry, "lfs", None) for entry in entries}
    hashes = {path: lfs.sha256 if lfs else "" for path, lfs in large.items()}
    return hashes, lambda name: Path(fetch(hf_hub_download, filename=name))


def _read(path: Path) -> Tensors:
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it cannot be iterated)
    # The format of torch before 1.6, which is no archive, cannot be mapped.
    content = torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}
