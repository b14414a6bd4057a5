"""Samples: the rows of a data set as an immutable sequence that costs little until a row is looked at.

The rows live in one Arrow table, a column for each field of `Sample`; a `Sample` is built when it is asked for. `extra` is
kept as JSON text, because its keys differ from source to source.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from operator import index as whole
from typing import Any, overload

import pyarrow as pa
import pyarrow.compute as pc

from osler.errors import DataError, unknown
from osler.schema import SPLITS, Kind, Sample, fold_text
from osler.taxonomy import Modality, QuestionType, modality_of, question_type_of

_TEXTS = pa.list_(pa.string())
COLUMNS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("images", _TEXTS, nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("golds", _TEXTS, nullable=False),
        pa.field("options", _TEXTS, nullable=False),
        pa.field("gold_index", pa.int32()),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("rationale", pa.string()),
        pa.field("modality", pa.string(), nullable=False),
        pa.field("question_type", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("split", pa.string()),
        pa.field("group", pa.string()),
        pa.field("group_is_patient", pa.bool_(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("extra", pa.string(), nullable=False),
        pa.field("origin", pa.string()),
    ]
)
BATCH = 4096
"""Rows that are held as Python objects at one time while a table is built or walked through."""


SPLIT_NAMES = {"validation": "val", "valid": "val", "dev": "val", "training": "train", "testing": "test"}
"""What other names of a split stand for, where a form documents them; in a manifest they are suggested, never assumed."""


class Samples(Sequence[Sample]):
    """An immutable, lazy sequence of samples; a slice, `where` and `take` give Samples again."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table.combine_chunks()  # one chunk, so that indexing stays cheap after a filter

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> "Samples":
        """The given samples, read once and in order. Errors: DataError where two have the same id."""
        rows, batches = (_row(sample) for sample in samples), []
        while batch := list(islice(rows, BATCH)):
            batches.append(pa.RecordBatch.from_pylist(batch, schema=COLUMNS))
        table = pa.Table.from_batches(batches, schema=COLUMNS)
        if pc.count_distinct(table["id"]).as_py() < len(table):
            raise _clash(table)
        return cls(table)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, at: int) -> Sample: ...
    @overload
    def __getitem__(self, at: slice) -> "Samples": ...
    def __getitem__(self, at: int | slice) -> "Sample | Samples":
        if isinstance(at, slice):
            return self.take(range(*at.indices(len(self))))
        return _sample(self._table.slice(self._position(at), 1).to_pylist()[0])

    def __iter__(self) -> Iterator[Sample]:
        for batch in self._table.to_batches(max_chunksize=BATCH):
            yield from map(_sample, batch.to_pylist())

    def __eq__(self, other: object) -> bool:
        return self._table.equals(other._table) if isinstance(other, Samples) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} samples>"

    def take(self, indices: Iterable[int]) -> "Samples":
        """The samples at `indices`, in that order; one may come twice. Errors: IndexError beyond the ends."""
        positions = [self._position(at) for at in indices]
        return Samples(self._table.take(pa.array(positions, pa.int64())))

    def where(self, split: str | None = None, modality: str | None = None, question_type: str | None = None) -> "Samples":
        """The samples that agree with everything that is given, possibly none; None asks for nothing.

        A modality or question type may be spelt in any way that the taxonomy knows. Errors: DataError where it is unknown.
        """
        wanted: dict[str, str] = {} if split is None else {"split": split}
        if modality is not None:
            wanted["modality"] = known_modality(modality)
        if question_type is not None:
            wanted["question_type"] = known_question_type(question_type)
        table = self._table
        for name, value in wanted.items():
            table = table.filter(pc.equal(table[name], str(value)))
        return Samples(table)

    def counts(self) -> dict[str, Any]:
        """How many rows (n), different images and groups there are, and how the rows divide; no split counts as "none"."""
        options = Counter(pc.list_value_length(self._table["options"]).to_pylist())
        return {
            "n": len(self),
            "images": pc.count_distinct(pc.list_flatten(self._table["images"])).as_py(),
            **{f"by_{name}": self._by(name) for name in ("split", "modality", "question_type", "source", "kind")},
            "options": dict(sorted(options.items())),
            "groups": pc.count_distinct(self._table["group"]).as_py(),
        }

    def _by(self, name: str) -> dict[str, int]:
        found = Counter("none" if value is None else value for value in self._table[name].to_pylist())
        return dict(sorted(found.items()))

    def _position(self, at: int) -> int:
        """`at`, counted from the front."""
        position = whole(at) + (len(self) if at < 0 else 0)
        if not 0 <= position < len(self):
            raise IndexError(f"there is no sample {at} among {len(self)}")
        return position


def _row(sample: Sample) -> dict[str, Any]:
    return {**vars(sample), "extra": json.dumps(sample.extra)}


def _sample(row: dict[str, Any]) -> Sample:
    return Sample(**{**row, "extra": json.loads(row["extra"])})


def _clash(table: pa.Table) -> DataError:
    """What to say about the first id that comes twice in `table`: evaluations are resumed and compared by it."""
    seen: dict[str, int] = {}
    names, origins = table["id"].to_pylist(), table["origin"].to_pylist()
    again = next(at for at, name in enumerate(names) if seen.setdefault(name, at) != at)
    here, there = (origins[at] or f"sample {at + 1}" for at in (again, seen[names[again]]))
    return DataError(f"{here}: the id {names[again]!r} is taken by {there}. Ids must differ.")


def kinds_of(options: Sequence[str], golds: Iterable[str]) -> tuple[Kind, ...]:
    """The kinds that a question with these options and golds may have, the one that it has unless it is told first."""
    yesno = set(map(fold_text, options or golds)) <= {"yes", "no"}
    if options:
        return (Kind.YESNO, Kind.CHOICE) if yesno and len(options) == 2 else (Kind.CHOICE,)
    return (Kind.YESNO, Kind.OPEN) if yesno else (Kind.OPEN,)


def known_modality(label: str | None) -> Modality:
    """The modality that `label` names, `UNKNOWN` where it says so or is absent. Errors: DataError with the nearest."""
    if (found := modality_of(label)) is None:
        raise DataError(unknown("modality", label, map(str, Modality)))
    return found


def known_question_type(label: str | None) -> QuestionType:
    """The question type that `label` names, `UNKNOWN` where it says so or is absent. Errors: DataError with the nearest."""
    if (found := question_type_of(label)) is None:
        raise DataError(unknown("question type", label, map(str, QuestionType)))
    return found


def known_split(name: str | None) -> str | None:
    """`name`, if it is a split: rows of another would never be used. Errors: DataError with what was probably meant."""
    if name is None or name in SPLITS:
        return name
    meant = SPLIT_NAMES.get(name.strip().lower())
    raise DataError(unknown("split", name, SPLITS) + (f" Write {meant!r}." if meant else ""))
