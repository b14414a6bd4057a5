"""Which rows of a data set are kept: those that `where` describes, and of these at most as many as `limit` says."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256

from osler.datasets.samples import Samples, known_modality, known_question_type
from osler.errors import DataError, unknown
from osler.schema import Kind
from osler.taxonomy import Modality


def _known_kind(label: str) -> Kind:
    if label not in set(Kind):
        raise DataError(unknown("kind", label, Kind))
    return Kind(label)


_VALUE_OF: dict[str, Callable[[str], str]] = {
    "modality": known_modality,
    "question_type": known_question_type,
    "kind": _known_kind,
    "source": str,  # the rows say which there are of these two
    "language": str,
}
"""The keys of `where`, and the value that a spelling stands for, which a row has in the field of that name."""


def wanted_values(where: Mapping[str, str | list[str]]) -> dict[str, set[str]]:
    """By key of `where` the values that will do. Errors: DataError for a key or value that is unknown, or a key without any."""
    if odd := next((key for key in where if key not in _VALUE_OF), None):
        raise DataError(f"where: {unknown('key', odd, _VALUE_OF)}")
    listed = {key: [given] if isinstance(given, str) else given for key, given in where.items()}
    if empty := next((key for key, labels in listed.items() if not labels), None):
        raise DataError(f"where: the list of {empty} is empty. Name what is kept, or leave {empty} out.")
    return {key: {str(_VALUE_OF[key](label)) for label in labels} for key, labels in listed.items()}


def matching(samples: Samples, wanted: Mapping[str, set[str]]) -> tuple[Samples, list[str]]:
    """The rows that agree with every key, at least one, and what there is to tell about those that do not.

    That is which values are asked for and no row has, and how many rows do not say what is asked.
    Errors: DataError where no row is left, which says what there was; for a source or language that no row has.
    """
    values = [{key: str(getattr(row, key)) for key in wanted} for row in samples]
    there = {key: Counter(row[key] for row in values) for key in wanted}
    for key in {"source", "language"} & wanted.keys():
        if absent := min(wanted[key] - there[key].keys(), default=None):
            raise DataError(f"where: {unknown(key, absent, there[key])}")
    kept = [at for at, row in enumerate(values) if all(row[key] in wanted[key] for key in wanted)]
    if not kept:
        asked = " and ".join(f"{key} {' or '.join(sorted(wanted[key]))}" for key in wanted)
        counts = "; ".join(f"by {key} {dict(sorted(there[key].items()))}" for key in wanted)
        raise DataError(f"where: none of the {len(samples)} rows has {asked}. There are {counts}.")
    return samples.take(kept), [note for key in wanted for note in _notes(key, wanted[key], there[key])]


def _notes(key: str, wanted: set[str], there: Mapping[str, int]) -> list[str]:
    """What of `key` is asked for in vain, and how many rows are left out because they do not say it."""
    name, unsaid = key.replace("_", " "), str(Modality.UNKNOWN)
    absent = sorted(wanted - there.keys())
    notes = [f"no row has {name} {' or '.join(absent)}"] if absent else []
    silent = 0 if unsaid in wanted else there.get(unsaid, 0)
    return notes + ([f"{silent:,} of unknown {name} left out"] if silent else [])


def limited(samples: Samples, limit: int | Mapping[str, int], seed: int) -> Samples:
    """At most `limit` rows of each split, in their order. Errors: DataError for a split that no row has.

    Every row has a number by `seed` and its id, and the lowest are kept: rows are drawn evenly, whatever their order and
    whatever other rows there are, and a larger limit keeps what a smaller one did.
    """
    numbered: defaultdict[str, list[tuple[bytes, int]]] = defaultdict(list)
    for at, row in enumerate(samples):
        numbered[row.split or "none"].append((sha256(f"{seed} {row.id}".encode()).digest(), at))
    most = dict.fromkeys(numbered, limit) if isinstance(limit, int) else dict(limit)
    if absent := next((split for split in most if split not in numbered), None):
        raise DataError(f"limit: {unknown('split', absent, numbered)} Where rows have none, give one number.")
    return samples.take(sorted(at for split, rows in numbered.items() for _, at in sorted(rows)[: most.get(split)]))


def sentence(n: int, matched: int | None, kept: int | None, notes: Sequence[str]) -> str:
    """How many of `n` rows `where` and then `limit` kept, None where it was not given, and what else is to be told of them."""
    said = f"where keeps {matched:,} of {n:,} rows" if matched is not None else ""
    if kept is not None:
        said = f"{said}, limit {kept:,} of these" if said else f"limit keeps {kept:,} of {n:,} rows"
    return f"{said} ({'; '.join(notes)})." if notes else f"{said}."
