"""Hugging Face data sets: a folder of one, or OWNER/NAME on the hub, with columns of any names.

    {name: hub, path: ./my_set}                                  a folder, which is never looked up elsewhere
    {name: hub, path: OWNER/NAME, config: ..., split: ...}       of the hub, which is asked for it; it keeps its own cache
    {name: hub, path: ..., columns: {image: pictures, question: text, answer: label}}

A folder is what `save_to_disk` writes; or holds parquet, Arrow, JSON or CSV files, or pictures with a `metadata.csv`, from
whose names the splits are told, of one kind; a single parquet or Arrow file will do. A row, of our making, and all it can hold:

    {"image": {"bytes": b"..."}, "question": "Which organ is enlarged?", "options": ["Liver", "Spleen"], "answer": 1}

`osler.datasets.columns` says what a column can be; where none is called question, messages, or problem and solution, are read
as osler.datasets.conversations does. An image inside is written once (osler.datasets.embedded); one that is a path starts from
ROOT of `?images=ROOT`, else from the folder. A class label counts as the name of its class. Splits named as the hub does
(train, validation, test) are known; of others name one with `split`, whose rows then have none. Columns of other bytes are left
out, and told on stderr. A column `split` must agree with its part. Nothing that a data set brings along is run.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from osler.datasets.columns import Labels, columns_of, manifest_row
from osler.datasets.conversations import USED, fields_of, is_conversation
from osler.datasets.embedded import keep_bytes
from osler.datasets.jsonl import manifest_sample
from osler.datasets.load import DataSpec
from osler.datasets.rows import at_place
from osler.datasets.samples import SPLIT_NAMES
from osler.errors import DataError, unknown
from osler.progress import console
from osler.schema import SPLITS, Sample

_SAVED = ("dataset_dict.json", "state.json")
_KINDS = (".arrow", ".csv", ".jsonl", ".parquet", ".tsv")
_READ = ("arrow", "csv", "imagefolder", "json", "parquet")


def read(spec: DataSpec) -> Iterator[Sample]:
    """The samples of every split, or of `spec.split`. Errors: DataError that names the data set, its split and the row."""
    if spec.path is None:
        raise DataError("the data set 'hub' needs a folder or a name of the hub: write hub:FOLDER or hub:OWNER/NAME.")
    with _readable(spec.path):
        parts = _parts(spec, Path(spec.path))
    if spec.split is not None and spec.split not in parts:
        raise DataError(f"{spec.path}: {unknown('split', spec.split, parts)}")
    wanted = [spec.split] if spec.split is not None else list(parts)
    known = {name: _known_split(name) for name in wanted}
    if len(wanted) > 1 and None in known.values():
        odd = next(name for name, split in known.items() if split is None)
        raise DataError(f"{spec.path}: {unknown('split', odd, SPLITS)} Name one of {', '.join(wanted)}: split: {wanted[0]}.")
    for name in wanted:
        yield from _samples(spec, name, known[name], parts[name])


def _known_split(name: str) -> str | None:
    found = SPLIT_NAMES.get(name.lower(), name.lower())
    return found if found in SPLITS else None


def _parts(spec: DataSpec, path: Path) -> dict[str, Any]:
    """The data sets of `spec` by their splits, not read yet. Errors: as `datasets` raises them."""
    import datasets

    if any((path / name).is_file() for name in _SAVED):
        saved = datasets.load_from_disk(str(path))
        return dict(saved) if isinstance(saved, datasets.DatasetDict) else {str(saved.split or "all"): saved}
    if not path.exists():
        return dict(datasets.load_dataset(str(path), spec.config))
    if path.suffix == ".parquet" and path.is_file():
        return {"all": datasets.Dataset.from_parquet(str(path), streaming=True)}
    if path.suffix == ".arrow" and path.is_file():
        return {"all": datasets.Dataset.from_file(str(path))}
    if path.is_file():
        raise DataError(f"{path}: it is neither a folder nor a file of .parquet or .arrow. Name the folder.")
    if not (says_which := _says_which(path)):
        _require_one(path)
    builder = datasets.load_dataset_builder(str(path.absolute()), spec.config)
    if (form := type(builder).__module__.split(".")[-1]) not in _READ:
        raise DataError(f"{path}: its files are of the form {form!r}; read are {', '.join(_READ)}. Save it with save_to_disk.")
    if not says_which and form != "imagefolder":
        _require_one_kind(path, [str(file) for files in (builder.config.data_files or {}).values() for file in files])
    return dict(builder.as_streaming_dataset())


def _require_one(folder: Path) -> None:
    """Errors: DataError where data sets were saved in folders below `folder`: read at once their rows would be mixed."""
    saved = list[str]()
    for at, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if set(files) & set(_SAVED):
            saved.append(os.path.relpath(at, folder))
            folders.clear()
    if saved and not all(_known_split(name) for name in saved):
        shown = ", ".join(saved[:5]) + (f" and {len(saved) - 5:,} more" if len(saved) > 5 else "")
        raise DataError(f"{folder}: it holds saved data sets: {shown}. Name one: hub:{folder / saved[0]}.")


def _require_one_kind(folder: Path, taken: list[str]) -> None:
    """Errors: DataError where beside the files `taken`, which are of one kind, lie files of rows of another."""
    there = {file.suffix.lower() for one in {os.path.dirname(file) for file in taken} for file in Path(one).glob("*.*")}
    read = sorted({os.path.splitext(file)[1].lower() for file in taken})
    if others := sorted((there & set(_KINDS)) - set(read)):
        what = f"it holds files of {', '.join(read)} and of {', '.join(others)}, of which only {', '.join(read)} would be read."
        raise DataError(f"{folder}: {what} Keep one kind in the folder.")


def _says_which(folder: Path) -> bool:
    """Whether the folder's own description says which files are read. Errors: DataError where these lie elsewhere."""
    found = False
    for card in (folder / "README.md", folder / ".huggingface.yaml"):
        if not card.is_file():
            continue
        text = card.read_text(encoding="utf-8", errors="replace")
        head = text.split("\n---", 1)[0].removeprefix("---") if card.suffix == ".md" else text
        try:
            said = yaml.safe_load(head) if text.startswith("---") or card.suffix != ".md" else None
        except yaml.YAMLError as error:
            what = " ".join(str(error).split())
            raise DataError(f"{card}: its head is no YAML ({what}). Put it right, or remove it.") from error
        if isinstance(said, dict) and "://" in str(said.get("configs")):
            raise DataError(f"{card}: it names files that are not in the folder. Download them, or remove it.")
        found |= isinstance(said, dict) and "configs" in said
    return found


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Whatever `datasets` raises inside the block becomes a DataError that begins with `name`."""
    import pyarrow as pa
    from datasets.exceptions import DatasetsError

    try:
        yield
    except DataError:
        raise
    except (OSError, ValueError, TypeError, LookupError, RuntimeError, DatasetsError, pa.ArrowException) as error:
        what = f"it cannot be read as a Hugging Face data set ({' '.join(str(error).split())[:300]})."
        raise DataError(f"{name}: {what} Check the name, config and files.") from error


def _samples(spec: DataSpec, name: str, split: str | None, part: Any) -> Iterator[Sample]:
    """The samples of one split. Errors: DataError that names the row."""
    place, root, labels = f"{spec.path}, split {name}", _root(spec), Labels()
    names, columns, number = _class_names(part), dict[str, str](), 0
    for cells in _rows(part, place):
        number += 1
        if not columns:
            with at_place(place):
                columns = _columns(cells, spec.columns or {})
            _tell_left_out(cells, columns, place)
        with at_place(f"{place}, row {number}"):
            plain = _plain(cells, columns, names)
            if is_conversation(columns):
                said = {column: cell for column, cell in plain.items() if cell is not None}
                fields = {"id": f"{name}/{number}", **fields_of(said)}
            else:
                fields = manifest_row(plain, columns, f"{name}/{number}")
                fields["images"] = _images(fields)
                fields.pop("image", None)
            fields["split"] = _split_of(fields, split)
            sample = manifest_sample(labels.read(fields), root, f"{place}, row {number}")
            yield sample
    if not number:
        raise DataError(f"{place}: it has no rows.")
    labels.tell(place)


def _columns(cells: Mapping[str, Any], named: Mapping[str, str]) -> dict[str, str]:
    """The name of each column that means something; its own, where `cells` are a conversation. Errors: DataError."""
    if not named and is_conversation(cells):
        return {column: column for column in cells if column in USED}
    return columns_of(cells, named)


def _split_of(fields: Mapping[str, Any], split: str | None) -> str | None:
    """The split of a row in the part `split`, by its column where it has one. Errors: DataError where the two differ."""
    if (said := fields.get("split")) is None:
        return split
    found = _known_split(said)
    if found is not None and split not in (None, found):
        what = f"its column split says {said!r}, but the row is in the part {split}."
        raise DataError(f"{what} Correct one, or remove or rename the column.")
    return found or str(said)


def _root(spec: DataSpec) -> str:
    path = Path(spec.path or "")
    return spec.images or str(path.parent if path.is_file() else path)


def _rows(part: Any, place: str) -> Iterator[dict[str, Any]]:
    """The rows as they are stored: images as bytes or paths, not decoded. Errors: DataError."""
    with _readable(place):
        for table in part.with_format("arrow"):  # one row each: JSON gives every row a schema of its own
            yield from table.to_pylist()


def _class_names(part: Any) -> dict[str, list[str]]:
    """The names of the classes of each column of class labels."""
    found = {column: getattr(feature, "names", None) for column, feature in (part.features or {}).items()}
    return {column: names for column, names in found.items() if names}


def _plain(cells: Mapping[str, Any], columns: Mapping[str, str], names: Mapping[str, list[str]]) -> dict[str, Any]:
    """`cells` with classes by name, and what goes to `extra` as JSON has it, without bytes."""
    used, found = set(columns.values()), dict[str, Any]()
    for column, value in cells.items():
        if column in names and isinstance(value, int):
            value = names[column][value] if 0 <= value < len(names[column]) else None
        if column in used:
            found[column] = value
        elif not _has_bytes(value):
            absent = isinstance(value, float) and math.isnan(value)
            found[column] = None if absent else json.loads(json.dumps(value, default=str))
    return found


def _has_bytes(value: Any) -> bool:
    """Whether `value` is or holds bytes, as images and sounds do."""
    if isinstance(value, Mapping):
        return any(map(_has_bytes, value.values()))
    return isinstance(value, bytes) or (isinstance(value, list) and any(map(_has_bytes, value)))


def _tell_left_out(cells: Mapping[str, Any], columns: Mapping[str, str], place: str) -> None:
    used = set(columns.values())
    if bare := [column for column, value in cells.items() if column not in used and _has_bytes(value)]:
        do = "If they are the images, name them: columns: {images: ...}."
        note = f"{place}: the bytes in {', '.join(map(repr, bare))} are left out. {do}"
        console.print(note, markup=False, highlight=False, soft_wrap=True)


def _images(fields: Mapping[str, Any]) -> list[str]:
    """The references to the images of a row, in their order. Errors: DataError."""
    found = fields.get("image", fields.get("images"))
    each = found if isinstance(found, list) else [found]
    return [_image(one, f"its image {n} of {len(each)}" if len(each) > 1 else "its image") for n, one in enumerate(each, 1)]


def _image(value: Any, name: str) -> str:
    """The reference to one image: bytes, a path, or `datasets`' own form of either. Errors: DataError."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return keep_bytes(value, name)
    if value is None or value == "":
        raise DataError(f"{name} is missing.")
    if not isinstance(value, str) or "://" in value:
        raise DataError(f"{name} should be a picture or its path, not {str(value)[:60]!r}.")
    return value
