"""A scripted expert for drawn images, so that recipes of the tiny scale have a judge without a server or a download.

It knows what a phantom shows from the reference of its image, whatever was done to the image since. An answer is correct that
is a gold, by its text or its letter. Reasoning is sound that asserts a finding in the respect that is asked about, and none
that the image does not show (osler.reasoning.unsupported, with its limits). Nothing else is looked at: it is a test of the
machinery, and no doctor.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Self

from osler.drawing.phantoms import phantom_case
from osler.images import is_drawn, underlying
from osler.judging.asking import facts_of, in_order, key_of
from osler.judging.prompts import Item
from osler.judging.replies import Judgement, unscored
from osler.reasoning.unsupported import VOCABULARY, Finding, findings_in
from osler.schema import LETTERS, fold_text

NAME = "phantoms"

VERSION = 1
"""Changed with what the expert says."""

_FIELDS = ("modality", "anatomy", "disease", "grade", "location")


class PhantomExpert:
    """A judge that needs no model. It answers at once, whatever the deadline, and always the same."""

    name = NAME

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        """Nothing is held."""

    def asked(self) -> dict[str, Any]:
        """Its version."""
        return {"version": VERSION}

    def check(self) -> None:
        """Nothing: it is always there."""

    def key(self, item: Item, repeat: int = 0) -> str:
        """64 hexadecimal digits that stand for `item`, its images and `repeat`."""
        item_facts = {**facts_of(item, sees_images=False), "images": list(item.images)}
        return key_of({"judge": [NAME, VERSION], "item": item_facts, "repeat": repeat})

    def kept(self, item: Item, key: str) -> Judgement | None:
        """None: it keeps nothing."""
        return None

    def as_scored(
        self, items: Sequence[Item], max_seconds: float | None = None, repeat: int = 0
    ) -> Iterator[tuple[int, Judgement]]:
        """The place and the judgement of each of `items`. Errors: DataError for a bad reference."""
        return enumerate(map(judged, items))

    def score(self, items: Sequence[Item], max_seconds: float | None = None, repeat: int = 0) -> list[Judgement]:
        """The judgement of each of `items`, in order. Errors: DataError for a bad reference."""
        return in_order(self.as_scored(items))


def judged(item: Item) -> Judgement:
    """What the expert says of `item`. Errors: DataError for a bad reference."""
    if not item.images or not all(map(is_drawn, item.images)):
        return unscored("no_phantom")
    golds = [_without_letter(item, gold) for gold in item.golds]
    asked = {VOCABULARY[fold_text(gold)].field for gold in golds if fold_text(gold) in VOCABULARY}
    if not asked:
        return unscored("no_finding")
    correct = item.answer is not None and fold_text(item.answer) in _rights(item, golds)
    if not item.thought:
        return Judgement(int(correct), None, "no reasoning")
    why = _wrong(findings_in(item.thought), asked, _shown(item.images))
    return Judgement(int(correct), int(why is None), why or "what it asserts is what the image shows")


def _shown(images: Sequence[str]) -> frozenset[Finding]:
    """What at least one of the phantoms `images` shows."""
    cases = [phantom_case(underlying(image)) for image in images]
    return frozenset(Finding(field, str(getattr(case, field))) for case in cases for field in _FIELDS)


def _wrong(found: frozenset[Finding], asked: set[str], shown: frozenset[Finding]) -> str | None:
    """Why reasoning that asserts what was `found` is not sound; None where it is."""
    if unsupported := sorted(f"{one.field} {one.value}" for one in found - shown):
        return f"the image does not show: {', '.join(unsupported)}"
    if not any(one.field in asked for one in found):
        return f"it says nothing of: {', '.join(sorted(asked))}"
    return None


def _rights(item: Item, golds: Sequence[str]) -> set[str]:
    """The answers that are right, folded: a gold with its letter, without it, and the letter alone."""
    letters = [gold[0] for gold, text in zip(item.golds, golds, strict=True) if gold != text]
    return {fold_text(text) for text in (*item.golds, *golds, *letters)}


def _without_letter(item: Item, gold: str) -> str:
    """`gold` without the letter of its option in front (`osler.judging.prompts.item_of`)."""
    lettered = {f"{letter}. {option}": option for letter, option in zip(LETTERS, item.options, strict=False)}
    return lettered.get(gold, gold)
