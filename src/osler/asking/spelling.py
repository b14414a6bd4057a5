"""One spelling for each label of a column, and columns that say yes or no."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from osler.asking.labels import Labelled
from osler.asking.rounds import NO, YES
from osler.asking.templates import Wordings
from osler.debiasing import same_labels
from osler.schema import fold_text

_SAYS = {**dict.fromkeys(("yes", "true", "1", "1.0", "present", "positive"), YES)}
_SAYS |= dict.fromkeys(("no", "false", "0", "0.0", "absent", "negative"), NO)
"""How a column may be written that says of each image whether it shows one thing."""


_NUMBER = re.compile(r"[-+]?\d+(?:[.,]\d+)?")


def translated(image: Labelled, wordings: Mapping[str, Wordings]) -> dict[str, tuple[str, ...]]:
    """The labels of `image` as the templates ask them; an empty text leaves a label out."""
    found = {}
    for column, labels in image.labels.items():
        texts = (wordings[column].labels.get(label, label).strip() for label in labels)
        found[column] = tuple(dict.fromkeys(text for text in texts if text))
    return found


def spelt_alike(images: Sequence[Labelled], columns: Iterable[str], notes: list[str]) -> list[Labelled]:
    """`images` with one spelling for each label of a column, its most frequent; what was changed is told in `notes`."""
    spelling: dict[str, dict[str, str]] = {}
    for column in columns:
        times = Counter(label for image in images for label in image.labels[column])
        folded = _most_frequent(times, {label: fold_text(label) for label in times})
        merged = Counter[str]()
        for label, n in times.items():
            merged[folded[label]] += n
        alike = _most_frequent(merged, same_labels(sorted(merged)))
        spelling[column] = {label: alike[folded[label]] for label in times}
        for label, other in sorted(spelling[column].items()):
            if label != other:
                notes.append(f"the {column} {label!r} ({times[label]:,} times) is asked as {other!r}, which is the same label")
    return [
        replace(image, labels={c: tuple(dict.fromkeys(spelling[c][label] for label in of)) for c, of in image.labels.items()})
        for image in images
    ]


def says_yes(images: Sequence[Labelled], column: str) -> dict[str, bool] | None:
    """By name what a column says of each image that it speaks of, where it says yes or no; None where it names labels."""
    said = {image.name: image.labels[column] for image in images if image.labels[column]}
    if any(len(labels) > 1 or fold_text(labels[0]) not in _SAYS for labels in said.values()):
        return None
    return {name: _SAYS[fold_text(labels[0])] == YES for name, labels in said.items()}


def doubtful(images: Sequence[Labelled], column: str) -> Iterator[str]:
    """Sentences about labels of `column` that are asked as they are, and may mean something else."""
    times = Counter(label for image in images for label in image.labels[column])
    for label, n in sorted(times.items()):
        if fold_text(label) == "none":
            do = f'Where it means that nothing is known, leave it out: labels: {{{label}: ""}} in --templates'
            yield f"the {column} {label!r} ({n:,} times) is asked as any other label. {do}"
    if times and all(_NUMBER.fullmatch(label) for label in times):
        some = ", ".join(sorted(times)[:5]) + (", ..." if len(times) > 5 else "")
        do = "Where they stand for something, say for what: labels in --templates"
        yield f"the labels of {column!r} are all numbers ({some}), and are asked as numbers. {do}"


def _most_frequent(times: Mapping[str, int], key_of: Mapping[str, str]) -> dict[str, str]:
    """For each label the most frequent one of those with its key."""
    best: dict[str, str] = {}
    for label in sorted(times, key=lambda label: (-times[label], label)):
        best.setdefault(key_of[label], label)
    return {label: best[key_of[label]] for label in times}
