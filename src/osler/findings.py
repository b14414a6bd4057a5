"""What can be wrong with the rows of a data set, told from the rows alone: pure functions of one sample, or of all of them.

Texts are compared folded, and "stands in" means as whole words, whatever punctuation is around them.
"""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from osler.attackers import Choice, choice_of, folded
from osler.images import is_drawn
from osler.schema import Sample
from osler.taxonomy import fold

SHOWN = 5
"""How many rows a finding names."""

_FORMS = re.compile(r"\{(.*?)\|(.*?)\}")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: what, in how many rows (or pairs), the `first` of them, and what to do about it.

    `invalidates`: a test score cannot be taken at its word until this is put right.
    """

    what: str
    n: int
    first: tuple[str, ...]
    fix: str
    invalidates: bool

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {**asdict(self), "first": list(self.first)}


Part = tuple[dict[str, Any], list[Finding]]
"""Some of the numbers of an audit, and what of them is wrong; a finding about no row is dropped at the end."""


def where(sample: Sample) -> str:
    """How to find the row of `sample`: its file and row, else its id."""
    return sample.origin or f"sample {sample.id!r}"


def finding(what: str, n: int, first: Sequence[str], fix: str, invalidates: bool = False) -> Finding:
    """The finding that `what` is so `n` times; `what` says {row|rows} where its words depend on n."""
    worded = _FORMS.sub(lambda forms: forms[1 if n == 1 else 2], what)
    return Finding(worded, n, tuple(first[:SHOWN]), fix, invalidates)


def found_in(what: str, samples: Sequence[Sample], fix: str, invalidates: bool = False) -> Finding:
    """The finding that `what` is so in `samples`, possibly none."""
    return finding(what, len(samples), list(map(where, samples[:SHOWN])), fix, invalidates)


# --- of one row ---


def gold_missing(sample: Sample) -> bool:
    """Whether `sample` has no gold, or its gold is not the option that it is said to be."""
    golds, options = set(map(folded, sample.golds)), list(map(folded, sample.options))
    if not options or sample.gold_index is None:
        return not any(golds) or bool(options and not golds & set(options))
    return not (0 <= sample.gold_index < len(options) and options[sample.gold_index] in golds)


def same_option(sample: Sample) -> bool:
    """Whether `sample` offers an option twice but for case, blanks and a final full stop."""
    return len(set(map(folded, sample.options))) < len(sample.options)


def yes_or_no(choice: Choice) -> bool:
    """Whether yes and no are all that is offered."""
    return set(choice.options) <= {"yes", "no"}


def answer_in_stem(sample: Sample) -> bool:
    """Whether the text of the gold option, and of no other, stands in the question; never so of yes and no."""
    choice = choice_of(sample)
    if choice is None or yes_or_no(choice):
        return False
    return [place for place, option in enumerate(choice.options) if stands_in(option, choice.stem)] == [choice.place]


def label_in_path(sample: Sample, path: str) -> bool:
    """Whether a gold of `sample` stands in `path`; a mere number only counts as a folder, since files are numbered."""
    folders = os.path.dirname(path)
    return any(stands_in(gold, path if any(map(str.isalpha, gold)) else folders) for gold in sample.golds)


def stands_in(part: str, text: str) -> bool:
    """Whether the words of `part`, one or more, stand one after the other in `text`."""
    words = fold(part)
    return bool(words) and f" {words} " in f" {fold(text)} "


def lone(marked: Sequence[bool]) -> int | None:
    """The place of the only one that is marked; None where none or several are."""
    return marked.index(True) if sum(marked) == 1 else None


def lone_lowercase(options: Sequence[str]) -> int | None:
    """The place of the only option that starts in lower case where all others start in upper case, else None."""
    place = lone([option[:1].islower() for option in options])
    others = [option for at, option in enumerate(options) if at != place]
    return place if others and all(option[:1].isupper() for option in others) else None


def _lone_length(pick: Callable[[Sequence[int]], int]) -> Callable[[Sequence[str]], int | None]:
    def place(options: Sequence[str]) -> int | None:
        lengths = list(map(len, options))
        return lone([length == pick(lengths) for length in lengths])

    return place


TELLS: dict[str, Callable[[Sequence[str]], int | None]] = {
    "lone_lowercase": lone_lowercase,
    "lone_full_stop": lambda options: lone([option.rstrip().endswith(".") for option in options]),
    "lone_bracket": lambda options: lone(["(" in option for option in options]),
    "lone_comma": lambda options: lone(["," in option for option in options]),
    "longest": _lone_length(max),
    "shortest": _lone_length(min),
}
"""Looks of an option, whatever it says, that may give it away: which option of a row has it, or None."""


# --- of all rows ---


def image_names(samples: Iterable[Sample], published: bool) -> list[tuple[str, ...]]:
    """What each row calls its images, () where it says nothing: paths made absolute, `phantom:...` as it is.

    With `published`, or where a row was read without images, the path in `extra["path"]` as the data set ships it, if any.
    """
    return [_image_names(sample, published) for sample in samples]


def _image_names(sample: Sample, published: bool) -> tuple[str, ...]:
    shipped = sample.extra.get("path")
    if isinstance(shipped, str) and (published or not sample.images):
        return (shipped,)
    return tuple(image if is_drawn(image) else os.path.abspath(image) for image in sample.images)


def paths_below_all(samples: Sequence[Sample]) -> list[tuple[str, ...]]:
    """The image paths of each row below the folder that all rows' images share, which is the user's and not the data set's.

    A path as shipped (`extra["path"]`) is taken as it is. A drawn image has no path.
    """
    paths = [_files(sample) for sample in samples]
    folders = {os.path.dirname(path) for row in paths for path in row if os.path.isabs(path)}
    root = os.path.commonpath(folders) if folders else ""
    return [tuple(path.removeprefix(root).lstrip(os.sep) for path in row) for row in paths]


def _files(sample: Sample) -> tuple[str, ...]:
    shipped = sample.extra.get("path")
    if isinstance(shipped, str) and all(image.endswith(shipped) for image in sample.images):
        return (shipped,)
    return tuple(os.path.abspath(image) for image in sample.images if not is_drawn(image))


def repeated(samples: Sequence[Sample], images: Sequence[tuple[str, ...]]) -> list[int]:
    """The rows that ask what an earlier row asked: the same images (as `images` names them), question, options and golds."""
    seen: set[tuple[Any, ...]] = set()
    found = []
    for at, (sample, shown) in enumerate(zip(samples, images, strict=True)):
        texts = [tuple(sorted(map(folded, part))) for part in (sample.options, sample.golds)]
        key = (shown, folded(sample.question), *texts)
        if shown and key in seen:
            found.append(at)
        seen.add(key)
    return found


def contradictory(samples: Sequence[Sample], images: Sequence[tuple[str, ...]]) -> list[int]:
    """The rows whose gold another row about the same images and question calls wrong, or the other way round.

    An option is wrong where it is offered and not gold. A row without options calls every gold wrong that another row without
    options gives and it does not.
    """
    asked: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
    for at, (sample, shown) in enumerate(zip(samples, images, strict=True)):
        if shown:
            asked[shown, folded(sample.question)].append(at)
    groups = (rows for rows in asked.values() if len(rows) > 1)
    return sorted(rows[at] for rows in groups for at in _at_odds([samples[row] for row in rows]))


def _at_odds(rows: Sequence[Sample]) -> list[int]:
    golds = [set(map(folded, row.golds)) for row in rows]
    free = set().union(*(gold for gold, row in zip(golds, rows, strict=True) if not row.options))
    wrong = [(set(map(folded, row.options)) if row.options else free) - gold for gold, row in zip(golds, rows, strict=True)]
    all_golds, all_wrong = set().union(*golds), set().union(*wrong)
    return [at for at in range(len(rows)) if golds[at] & all_wrong or wrong[at] & all_golds]


def stems_with_one_gold(samples: Iterable[Sample], within: Callable[[Sample], str]) -> set[tuple[str, str]]:
    """(label, folded stem) of the stems that have one folded gold in all of `samples` that `within` gives the same label."""
    golds: Mapping[tuple[str, str], set[str]] = defaultdict(set)
    for sample in samples:
        golds[within(sample), folded(sample.question)].update(map(folded, sample.golds[:1]))
    return {stem for stem, texts in golds.items() if len(texts) == 1}
