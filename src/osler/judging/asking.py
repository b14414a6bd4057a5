"""What all judges that are asked have in common: keys, equal items asked once, scores that are kept taken first."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from typing import Any

from osler.judging.prompts import Item
from osler.judging.replies import Judgement
from osler.model.endpoint import opened_url

Waiting = dict[str, Item]
"""Items to be asked about, by their keys."""


def key_of(facts: Mapping[str, Any]) -> str:
    """64 hexadecimal digits that stand for `facts`, plain JSON values."""
    return sha256(json.dumps(facts).encode()).hexdigest()


def facts_of(item: Item, sees_images: bool) -> dict[str, Any]:
    """`item` as a part of a key: its images by what they show where the judge sees them, else none. Errors: DataError."""
    return {**item.to_json(), "images": [_digest(one) for one in item.images] if sees_images else []}


def once_each(
    items: Sequence[Item],
    keys: Sequence[str],
    kept: Callable[[Item, str], Judgement | None],
    ask: Callable[[Waiting], Iterator[tuple[str, Judgement]]],
) -> Iterator[tuple[int, Judgement]]:
    """The place and the judgement of each of `items`: first those that are `kept`, then the others as `ask` gives them by key.

    Items of one key are asked about once.
    """
    places: dict[str, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    waiting: Waiting = {}
    for key, same in places.items():
        if found := kept(items[same[0]], key):
            yield from ((place, found) for place in same)
        else:
            waiting[key] = items[same[0]]
    for key, judgement in ask(waiting) if waiting else ():
        yield places[key][0], judgement
        yield from ((place, _again(judgement)) for place in places[key][1:])


def in_order(found: Iterator[tuple[int, Judgement]]) -> list[Judgement]:
    """The judgements of `found` by their places."""
    return [judgement for _, judgement in sorted(found, key=lambda one: one[0])]


def _again(judgement: Judgement) -> Judgement:
    """`judgement` for an equal item: nothing more was spent on it."""
    return replace(judgement, cached=judgement.unscored is None, seconds=None, tokens_in=None, tokens_out=None)


@lru_cache(maxsize=65536)
def _digest(reference: str) -> str:
    """A hash of the image as a server is sent it. Errors: DataError."""
    return sha256(opened_url(reference, None).encode()).hexdigest()
