"""A data spec and what it stands for: `load_data("jsonl:manifest.jsonl?images=pictures")` gives Samples.

    NAME | NAME:PATH | NAME:PATH?images=ROOT     PATH is one file or a folder
    phantoms | phantoms:SEED                     drawn, not read
    {name: jsonl, path: ..., images: ...}        the same in a recipe; as a text, what begins with { is YAML
    {name: phantoms, seed: 0, train: 400, val: 60, test: 240}    how many images of each split
    {name: phantoms, mark: {train: with, test: against}, mark_share: 0.9}    what their marks say (osler.drawing.marks)
    {name: phantoms, grain: 60}                  images that are 60 % noise
    {name: csv, path: ..., columns: {image: filename, answer: label}}    what columns are, by name (osler.datasets.columns)
    {name: hub, path: OWNER/NAME, config: ..., split: ..., columns: {...}}    a data set of the Hugging Face hub, or a folder

A mapping may also say which of the rows are kept, first by `where`, then by `limit`:

    where: {modality: CT, question_type: [disease, anatomy]}    rows that agree with every key; of a list any value will do
    limit: 500 | {train: 10000, test: 7000}    at most so many rows of each split, or of those named, drawn by `seed`

How many rows were kept is told on stderr. Any other text is taken literally, nothing is unquoted; the last `?images=`
separates, and a path that itself holds one is given as a mapping. A relative path is looked for from the working directory,
then below the folder that OSLER_DATA names.

A new data set is one file and one line in `DATASETS`. One that lives elsewhere needs no line: NAME may be
`package.module:function`, where the function takes the `DataSpec`, its paths found, and yields `Sample`s.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError
from pydantic.dataclasses import dataclass

from osler.datasets import keeping, phantoms
from osler.datasets.places import no_file, require_text
from osler.datasets.rows import in_words
from osler.datasets.samples import Samples
from osler.errors import DataError, unknown
from osler.progress import console
from osler.schema import Sample

_ROW_KEYS = ("where", "limit", "seed")
_FILE_KEYS = ("name", "path", "images", *_ROW_KEYS)
_PHANTOM_KEYS = ("name", *phantoms.IMAGES, "mark", "mark_share", "grain", *_ROW_KEYS)
_KEYS_OF = {
    "phantoms": _PHANTOM_KEYS,
    "csv": (*_FILE_KEYS, "columns"),
    "hub": (*_FILE_KEYS, "columns", "config", "split"),
}
"""The keys of a mapping, by the name of its data set; `_FILE_KEYS` for all others."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FUNCTION = re.compile(r"(?P<name>[^\W\d][\w.]*:[^\W\d]\w*)(?:(?P<colon>:)(?P<path>.*))?", re.DOTALL)


@dataclass(frozen=True, config=ConfigDict(strict=True))
class DataSpec:
    """Which data set, and where: `path` and the `images` root for files; images of each split and marks for phantoms.

    `where` and `limit` say which rows are kept; `seed` is that of the limit, and of the drawing. `columns` names the columns of
    a table, `config` and `split` a part of a Hugging Face data set.
    """

    name: str
    path: str | None = None
    images: str | None = None
    seed: NonNegativeInt = 0
    train: NonNegativeInt | None = None
    val: NonNegativeInt | None = None
    test: NonNegativeInt | None = None
    mark: str | dict[str, str] = "none"
    mark_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    grain: Annotated[int, Field(ge=0, le=99)] = 0
    where: dict[str, str | list[str]] | None = None
    limit: PositiveInt | dict[str, PositiveInt] | None = None
    columns: dict[str, str] | None = None
    config: str | None = None
    split: str | None = None

    def files(self, suffix: str) -> list[Path]:
        """The file at `path`, or every file below it that ends in `suffix`, sorted. Errors: DataError where there is none."""
        if self.path is None:
            raise DataError(f"the data set {self.name!r} needs a file or a folder: write {self.name}:PATH.")
        path = Path(self.path)
        require_text(path)
        found = [path] if path.is_file() else sorted(file for file in path.rglob(f"*{suffix}") if file.is_file())
        if not found:
            raise no_file(path, suffix)
        return found


def draw(spec: DataSpec) -> Iterable[Sample]:
    """The drawn samples of `spec.seed`, as many images of each split as it says. Errors: DataError for marks that cannot be."""
    named = {split: getattr(spec, split) for split in phantoms.IMAGES}
    images = {split: phantoms.IMAGES[split] if n is None else n for split, n in named.items()}
    plantings = phantoms.plantings_of(spec.mark)
    if spec.mark_share < 1:
        phantoms.require_shared(images, plantings)
    return phantoms.samples(spec.seed, images, plantings, spec.mark_share, spec.grain)


Adapter = Callable[[DataSpec], Iterable[Sample]]

DATASETS: dict[str, str | Adapter] = {
    "conversations": "osler.datasets.conversations:read",
    "csv": "osler.datasets.csv_folder:read",
    "hub": "osler.datasets.hub:read",
    "jsonl": "osler.datasets.jsonl:read",
    "medr1": "osler.datasets.medr1:read",
    "medxpertqa": "osler.datasets.medxpertqa:read",
    "omnimedvqa": "osler.datasets.omnimedvqa:read",
    "pathvqa": "osler.datasets.pathvqa:read",
    "phantoms": draw,
    "pmc_vqa": "osler.datasets.pmc_vqa:read",
    "pmc_vqa_usable": "osler.datasets.pmc_vqa:read_usable",
    "silvar_med": "osler.datasets.silvar_med:read",
    "slake": "osler.datasets.slake:read",
    "tsv": "osler.datasets.tsv:read",
    "vqa_med_2019": "osler.datasets.vqa_med_2019:read",
    "vqa_med_2019_rad": "osler.datasets.vqa_rad:read_vqa_med",
    "vqa_rad": "osler.datasets.vqa_rad:read",
}


def load_data(spec: str | Mapping[str, Any] | DataSpec) -> Samples:
    """The samples that `spec` stands for, every row checked, also those that `where` and `limit` then leave out.

    Where one of these is given, stderr says how many rows are left.
    Errors: DataError, with file and row where it is about a row; where no row is left it says what there was.
    """
    known = spec if isinstance(spec, DataSpec) else parse_spec(spec)
    samples, wanted = Samples.of(read_rows(known)), keeping.wanted_values(known.where or {})
    return _kept(known, samples, wanted) if wanted or known.limit is not None else samples


def read_rows(spec: DataSpec) -> Iterable[Sample]:
    """The samples of `spec` as its adapter reads them, one after another, whatever `where` and `limit` say.

    Errors: DataError; about a row once it is read.
    """
    read = find_adapter(spec.name)
    with _named(spec):
        _require_words(spec)
        keeping.wanted_values(spec.where or {})
    path = spec.path if _is_on_hub(spec) else _located(spec.path)
    return read(replace(spec, path=path, images=_located(spec.images)))


def _kept(spec: DataSpec, samples: Samples, wanted: Mapping[str, set[str]]) -> Samples:
    """The rows that `spec` keeps, and a line on stderr about how many. Errors: DataError that names the spec."""
    notes, n, matched, limited = list[str](), len(samples), None, None
    with _named(spec):
        if wanted:
            samples, notes = keeping.matching(samples, wanted)
            matched = len(samples)
        if spec.limit is not None:
            samples = keeping.limited(samples, spec.limit, spec.seed)
            limited = len(samples)
    said = f"{_title(spec)}: {keeping.sentence(n, matched, limited, notes)}"
    console.print(said, markup=False, highlight=False, soft_wrap=True)
    return samples


def parse_spec(spec: str | Mapping[str, Any]) -> DataSpec:
    """The parts of `spec`; nothing is looked up yet. Errors: DataError where it is not of the form above."""
    if not isinstance(spec, str):
        return _checked(dict(spec))
    if spec.startswith("{"):
        return _checked(_mapping(spec))
    head, mark, images = spec.rpartition("?images=") if "?images=" in spec else (spec, "", "")
    name, colon, path = head.partition(":")
    if name not in DATASETS and (own := _FUNCTION.fullmatch(head)):
        name, colon, path = own["name"], own["colon"] or "", own["path"] or ""
    if (colon and not path) or (mark and not images):
        raise DataError(f"the data spec {spec!r} has an empty part. Write NAME:PATH or NAME:PATH?images=ROOT.")
    parts: dict[str, Any] = {"name": name}
    if colon:
        parts |= {"seed": _seed(spec, path)} if name == "phantoms" else {"path": path}
    return _checked(parts | ({"images": images} if mark else {}))


def find_adapter(name: str) -> Adapter:
    """The function that reads the data set `name`. Errors: DataError where there is none, with the nearest name."""
    found = DATASETS.get(name, name)
    if not isinstance(found, str):
        return found
    module, _, function = found.partition(":")
    if os.path.exists(name):
        raise DataError(f"{name} is a path. Say what it holds, NAME:{name}, NAME being one of {', '.join(sorted(DATASETS))}.")
    problem = f"{unknown('data set', module, DATASETS)} A function of your own is named package.module:function."
    if not ((own := _FUNCTION.fullmatch(found)) and own["name"] == found):
        raise DataError(problem)
    try:
        adapter: Adapter | None = getattr(import_module(module), function, None)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there; what is missing is something that it imports
        raise DataError(problem) from error
    if adapter is None:
        raise DataError(f"the module {module!r} has no function {function!r}. {problem}")
    return adapter


@contextmanager
def _named(spec: DataSpec) -> Iterator[None]:
    """Whatever is found wrong with `spec` inside the block is a DataError that begins with its name and path."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{_title(spec)}, {error}") from error


def _title(spec: DataSpec) -> str:
    return spec.name if spec.path is None else f"{spec.name}:{spec.path}"


def _require_words(spec: DataSpec) -> None:
    """Errors: DataError for a mapping in `spec` that says nothing."""
    for key in ("where", "limit", "mark", "columns"):
        if getattr(spec, key) == {}:
            raise DataError(f"{key}: it is empty. Say something there, or leave {key} out.")


def _mapping(text: str) -> dict[str, Any]:
    """The mapping that `text` is in YAML. Errors: DataError where it is none."""
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # the latter for a date that there is not
        what = " ".join(str(error).split())
        raise DataError(
            f"the data spec {text!r} begins with {{ and is no YAML mapping ({what}). Write {{name: NAME, path: PATH}}."
        ) from error
    return dict(found)


def _checked(parts: dict[str, Any]) -> DataSpec:
    """The DataSpec of `parts`, whose keys and types are checked."""
    keys = _KEYS_OF.get(str(parts.get("name")), _FILE_KEYS)
    for key in parts:
        if key not in keys:
            raise DataError(f"the data spec {parts}: {unknown('key', key, keys)}")
    if "name" not in parts:
        raise DataError(f"the data spec {parts} names no data set. Add name: one of {', '.join(sorted(DATASETS))}.")
    try:
        return DataSpec(**parts)
    except ValidationError as error:
        raise DataError(f"the data spec {parts}: {in_words(error)}") from error


def _seed(spec: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise DataError(f"the data spec {spec!r} is not understood. Write phantoms:SEED with a whole number, as phantoms:7.")
    return int(text)


def _is_on_hub(spec: DataSpec) -> bool:
    """Whether `spec` names a data set of the hub, OWNER/NAME: nothing here has that path, and no folder the owner's name."""
    if spec.name != "hub" or not _HUB_NAME.fullmatch(spec.path or ""):
        return False
    owner, _, _ = str(spec.path).partition("/")
    roots = filter(None, (".", os.environ.get("OSLER_DATA")))
    return not any(os.path.exists(os.path.join(root, owner)) for root in roots)


def _located(path: str | None) -> str | None:
    """`path` where it exists, or below OSLER_DATA. Errors: DataError that names the places that were tried."""
    if path is None:
        return None
    tried = [path]
    if root := os.environ.get("OSLER_DATA"):
        tried.append(os.path.join(root, path))
    for place in tried:
        if os.path.exists(place):
            return place
    raise DataError(f"there is no {' and no '.join(dict.fromkeys(tried))}. Check the path, or set OSLER_DATA to its root.")
