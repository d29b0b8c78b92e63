"""The examples of a task, from local files or the hub. No tokens here."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from dynamics.data.rows import Rows, parsed
from dynamics.data.task_table import Task
from dynamics.errors import InputError, in_words

LABEL = "label"
CANONICAL = {  # other names of columns in published files
    **{"text": "sentence", "#1 string": "sentence1", "#2 string": "sentence2"},
    **dict.fromkeys(("quality", "is_duplicate", "score"), LABEL),
}
# The splits and the names of their files.
SPLITS = {"train": ("train",), "validation": ("dev", "validation", "valid"), "test": ("test",)}
ENDINGS = (".tsv", ".jsonl", ".json", ".csv", ".parquet")
FORMATS = f"{', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"
HIGHEST_SCORE = 5.0  # of STS-B; the lowest is 0


class Answer(NamedTuple):
    """A reference answer: its text, and the character of the context at which it starts."""

    text: str
    start: int


class Example(NamedTuple):
    """One example: its texts, and a class, a score or the reference answers; `name` is SQuAD's id."""

    texts: tuple[str, ...]
    label: int | float | tuple[Answer, ...]
    name: str = ""

    @property
    def answers(self) -> tuple[Answer, ...]:
        """The reference answers, of an example that has them."""
        assert isinstance(self.label, tuple)
        return self.label


Splits = dict[str, list[Example]]


def load(task: Task, path: Path | None, unreadable: dict[str, str] | None = None) -> Splits:
    """Return the examples of every split that has labels: of a local folder, or of the hub where `path` is None.

    A folder holds the files as they are published (GLUE, SQuAD, the hub's shards), or what `save_to_disk` of
    `datasets` left. Rows that are broken, as two of QQP are, go to `unreadable`: why, by their place.

    Raises:
        InputError: the data is not found, train or validation is missing or empty, or most rows are not the task's.
    """
    splits, unreadable = Splits(), {} if unreadable is None else unreadable
    for split, rows in _from_hub(task) if path is None else _from_folder(task, path):
        objects = [(place, row if isinstance(row, InputError) else _canonical_columns(row)) for place, row in rows]
        # The test splits of GLUE have no labels.
        labels = (str(row.get(task.columns[-1], -1)) for _, row in objects if not isinstance(row, InputError))
        if split != "test" or next(labels, "-1") != "-1":
            splits[split] = parsed(objects, partial(_example, task), unreadable)
    for name in ("train", "validation"):
        if not splits.get(name):
            where = f"{task.hub[0]} on the hub" if path is None else path
            raise InputError(f"data.task {task.name}: {where} has no examples for {name}.")
    return splits


def _from_folder(task: Task, folder: Path) -> Iterator[tuple[str, Rows]]:
    if not folder.is_dir():
        raise InputError(f"data.path {folder}: there is no such folder; it must hold train and dev ({FORMATS}).")
    if (folder / "dataset_dict.json").is_file():
        import datasets

        yield from _of_data_set(datasets.load_from_disk(folder), str(folder))
        return
    for split, names in SPLITS.items():
        if files := _files(task, folder, names):
            yield split, list(chain.from_iterable(_rows(task, file) for file in files))
        elif split != "test":
            raise InputError(f"data.path {folder} has no file {names[0]} ({FORMATS}).")


def _files(task: Task, folder: Path, names: Sequence[str]) -> list[Path]:
    """Return the file of a split, or its shards: `train.tsv`, `train-v1.1.json`, `sts-train.csv`, or those of the hub.

    They lie in the folder itself, in `data`, or in a folder of the task's name.
    """
    folders = [folder, folder / task.name, folder / task.name.upper(), folder / "data"]
    candidates = [path for place in folders if place.is_dir() for path in sorted(place.iterdir()) if path.is_file()]
    named = [path for name in names for end in ENDINGS for path in candidates if path.name == name + end]
    pattern = re.compile(rf"(?:.*[-_.])?(?:{'|'.join(names)})(?:[-_.].*)?")
    alike = [path for end in ENDINGS for path in candidates if path.suffix == end and pattern.fullmatch(path.stem)]
    first = next(iter(named or alike), None)
    shard = first and re.search(r"-\d{5}-of-(\d{5})$", first.stem)
    if first is None or not shard:
        return [first] if first else []
    shards = [path for path in alike if path.parent == first.parent and path.stem.endswith(f"-of-{shard[1]}")]
    if len(shards) != int(shard[1]):
        raise InputError(f"{first.parent} holds {len(shards)} of the {int(shard[1])} parts of {first.name}: fetch all.")
    return shards


def _rows(task: Task, file: Path) -> Rows:
    if file.suffix == ".parquet":
        try:
            return [(f"row {i} of {file}", row) for i, row in enumerate(pq.read_table(file).to_pylist())]
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{file} is no readable Parquet file ({in_words(error)}): fetch it again.") from error
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 ({error.reason}): convert it (for example by iconv).") from error
    if not text.strip():
        raise InputError(f"{file} is empty: it must have the columns {_listed(task.columns)}.")
    if file.suffix in (".json", ".jsonl"):
        return _objects(task, file, text)
    lines = _lines(text)
    if file.suffix == ".tsv" or "\t" in lines[0]:  # STS-B is published as .csv with tabs
        return _table(task, file, list(enumerate((line.split("\t") for line in lines), start=1)))
    reader = csv.reader(io.StringIO(text, newline=""))
    return _table(task, file, [(reader.line_num, values) for values in reader if values])


def _lines(text: str) -> list[str]:
    # Not `splitlines`: texts may hold what Unicode calls the end of a line.
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def _table(task: Task, file: Path, lines: Sequence[tuple[int, Sequence[str]]]) -> Rows:
    """Yield the rows of numbered lines of values, with or without a header; in lines with tabs, quotes are text."""
    if task.is_span:
        raise InputError(f"{file}: answers do not fit into a table; store {task.name} as .json or .jsonl.")
    first = lines[0][1]
    names, columns = [_canonical(name) for name in first], task.columns
    places: Sequence[int]
    if has_header := set(task.texts) <= set(names):
        columns = columns if set(columns) <= set(names) else tuple(names)
        places = [names.index(column) for column in columns]
    else:
        layouts = {len(columns): range(len(columns)), **task.bare}
        if len(first) not in layouts:
            raise InputError(
                f"{file} must have the columns {_listed(columns)}, named in its first line or just these in "
                f"this order; its first line has {len(first)}: {', '.join(first)[:80]}."
            )
        places = layouts[len(first)]
    for number, values in lines[has_header:]:
        where = f"line {number} of {file}"
        if len(values) > max(places):
            yield where, {column: values[place] for column, place in zip(columns, places, strict=True)}
        else:
            yield where, InputError(f"{where} has {len(values)} columns where the first one has {len(first)}.")


def _objects(task: Task, file: Path, text: str) -> Rows:
    """Return the objects on lines, in a list, or in the format of SQuAD."""
    if file.suffix == ".jsonl":
        return [(f"line {i} of {file}", _object(task, line, f"line {i} of {file}")) for i, line in _numbered(text)]
    try:
        entries = json.loads(text)
        if isinstance(entries, dict) and "data" in entries:
            paragraphs = [paragraph for article in entries["data"] for paragraph in article["paragraphs"]]
            entries = [{**question, "context": part["context"]} for part in paragraphs for question in part["qas"]]
        return [(f"entry {i} of {file}", entry) for i, entry in enumerate(entries, 1)]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is not the JSON of {task.name} ({in_words(error)}).") from error


def _numbered(text: str) -> Iterator[tuple[int, str]]:
    return ((i, line) for i, line in enumerate(_lines(text), 1) if line.strip())


def _object(task: Task, line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        return InputError(f"{where} is not the JSON of {task.name} ({error}).")


def _canonical_columns(row: Any) -> dict[str, Any]:
    return {_canonical(name): value for name, value in row.items()} if isinstance(row, Mapping) else {}


def _canonical(name: str) -> str:
    return CANONICAL.get(name.strip().lower(), name.strip())


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _from_hub(task: Task) -> Iterator[tuple[str, Rows]]:
    import datasets

    try:
        dataset = datasets.load_dataset(*task.hub)
    except Exception as error:  # `datasets` raises whatever its many loaders do
        raise InputError(
            f"data.task {task.name}: {task.hub[0]} cannot be fetched ({in_words(error)}); "
            f"set data.path to a folder with train and dev ({FORMATS})."
        ) from error
    yield from _of_data_set(dataset, task.hub[0])


def _of_data_set(dataset: Any, name: str) -> Iterator[tuple[str, Rows]]:
    for split in SPLITS:
        yield split, [(f"row {i} of {split} of {name}", row) for i, row in enumerate(dataset.get(split, ()))]


def _example(task: Task, where: str, row: Mapping[str, Any]) -> Example:
    if missing := [column for column in task.columns if column not in row]:
        raise InputError(
            f"{where} must have the columns {_listed(task.columns)}: {missing[0]} is missing "
            f"({', '.join(map(str, row))[:80] or 'it has none'})."
        )
    texts = tuple(row[column] for column in task.texts)
    for column, text in zip(task.texts, texts, strict=True):
        if not isinstance(text, str):
            raise InputError(f"{where}: {column} must be text (got {text!r}).")
    if task.is_span:
        return Example(texts, _answers(row["answers"], texts[1], where), str(row.get("id", where)))
    return Example(texts, _class(task, row[LABEL], where) if task.labels else _score(row[LABEL], where))


def _class(task: Task, value: Any, where: str) -> int:
    text = str(value).strip()
    if text in task.labels:
        return task.labels.index(text)
    if text.isdigit() and int(text) < len(task.labels):
        return int(text)
    labels = ", ".join(f"{number} ({name})" for number, name in enumerate(task.labels))
    raise InputError(f"{where}: {text!r} is no label of {task.name}; choose from {labels}.")


def _score(value: Any, where: str) -> float:
    with suppress(TypeError, ValueError):
        if 0 <= (score := float(value)) <= HIGHEST_SCORE:
            return score
    raise InputError(f"{where}: the score must lie between 0 and {HIGHEST_SCORE:g} (got {value!r}).")


def _answers(value: Any, context: str, where: str) -> tuple[Answer, ...]:
    """Return the answers in the hub's format (two lists) or in the published one (a list of pairs)."""
    try:
        if isinstance(value, Mapping):
            pairs = list(zip(value["text"], value["answer_start"], strict=True))
        else:
            pairs = [(answer["text"], answer["answer_start"]) for answer in value]
        answers = tuple(Answer(str(text), int(start)) for text, start in pairs)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: answers must hold text and answer_start ({error!r}).") from error
    if not answers:
        raise InputError(f"{where} has no answer: questions without one (SQuAD 2) are not supported.")
    for answer in answers:
        if answer.start < 0 or context[answer.start : answer.start + len(answer.text)] != answer.text:
            raise InputError(f"{where}: the answer {answer.text[:40]!r} is not at {answer.start} of its context.")
    return answers
