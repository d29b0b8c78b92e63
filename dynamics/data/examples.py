"""The examples of a task, from local files or the hub. No tokens here."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from dynamics.data.task_table import Task
from dynamics.errors import InputError, in_words

LABEL = "label"
CANONICAL = {  # other names of columns in published files
    **{"text": "sentence", "#1 string": "sentence1", "#2 string": "sentence2"},
    **dict.fromkeys(("quality", "is_duplicate", "score"), LABEL),
}
# The splits and the names of their files.
SPLITS = {"train": ("train",), "validation": ("dev", "validation", "valid"), "test": ("test",)}
ENDINGS = (".tsv", ".jsonl", ".json")
FORMATS = ".tsv, .jsonl or .json"
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
Rows = Iterable[tuple[str, Any]]  # the place of each row, for refusals, and its columns


def load(task: Task, path: Path | None) -> Splits:
    """Return the examples of every split that has labels: of a local folder, or of the hub where `path` is None.

    Raises:
        InputError: the data is not found, train or validation is missing or empty, or a line is not the task's.
    """
    splits: Splits = {}
    for split, objects in _from_hub(task) if path is None else _from_folder(task, path):
        rows = [(where, _canonical_columns(row)) for where, row in objects]
        # The test splits of GLUE have no labels.
        if split != "test" or (rows and str(rows[0][1].get(task.columns[-1], -1)) != "-1"):
            splits[split] = [_example(task, where, row) for where, row in rows]
    for name in ("train", "validation"):
        if not splits.get(name):
            where = f"{task.hub[0]} on the hub" if path is None else path
            raise InputError(f"data.task {task.name}: {where} has no examples for {name}.")
    return splits


def _from_folder(task: Task, folder: Path) -> Iterator[tuple[str, Rows]]:
    if not folder.is_dir():
        raise InputError(f"data.path {folder}: there is no such folder; it must hold train and dev ({FORMATS}).")
    for split, names in SPLITS.items():
        paths = (folder / f"{name}{ending}" for name in names for ending in ENDINGS)
        if file := next((path for path in paths if path.is_file()), None):
            yield split, _rows(task, file)
        elif split != "test":
            raise InputError(f"data.path {folder} has no file {names[0]} ({FORMATS}).")


def _rows(task: Task, file: Path) -> Rows:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 ({error.reason}): convert it (for example by iconv).") from error
    if not text.strip():
        raise InputError(f"{file} is empty: it must have the columns {_listed(task.columns)}.")
    return _table(task, file, _lines(text)) if file.suffix == ".tsv" else _objects(task, file, text)


def _lines(text: str) -> list[str]:
    # Not `splitlines`: texts may hold what Unicode calls the end of a line.
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def _table(task: Task, file: Path, lines: Sequence[str]) -> Rows:
    """Yield the rows of lines with tabs between values, with or without a header; quotes are text."""
    if task.is_span:
        raise InputError(f"{file}: answers do not fit into a table; store {task.name} as .json or .jsonl.")
    first = lines[0].split("\t")
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
    for number, line in enumerate(lines[has_header:], 1 + has_header):
        values, where = line.split("\t"), f"line {number} of {file}"
        if len(values) <= max(places):
            raise InputError(f"{where} has {len(values)} columns where the first one has {len(first)}.")
        yield where, {column: values[place] for column, place in zip(columns, places, strict=True)}


def _objects(task: Task, file: Path, text: str) -> Rows:
    """Return the objects on lines, in a list, or in the format of SQuAD."""
    try:
        if file.suffix == ".jsonl":
            lines = ((i, line) for i, line in enumerate(_lines(text), 1) if line.strip())
            objects = [(f"line {i} of {file}", json.loads(line)) for i, line in lines]
        else:
            entries = json.loads(text)
            if isinstance(entries, dict) and "data" in entries:
                paragraphs = [paragraph for article in entries["data"] for paragraph in article["paragraphs"]]
                entries = [{**question, "context": part["context"]} for part in paragraphs for question in part["qas"]]
            objects = [(f"entry {i} of {file}", entry) for i, entry in enumerate(entries, 1)]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is not the JSON of {task.name} ({type(error).__name__}: {error}).") from error
    return objects


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
    for split in SPLITS:
        rows = enumerate(dataset.get(split, ()))
        yield split, [(f"row {i} of {split} of {task.hub[0]}", row) for i, row in rows]


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
