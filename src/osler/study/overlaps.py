"""How many test rows of a study show an image that its rows were trained on: what is called unseen must be."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from osler.datasets.samples import Samples
from osler.fingerprints import NEAR
from osler.leaks import found_leaks, read_rows, shared_images
from osler.stats import Estimate
from osler.study.grid import Entry


@dataclass(frozen=True)
class Overlap:
    """Of the `n` test rows called `test` those that show an image of what `rows` of the table were trained on.

    `shared` by name or by pixels, with its interval by image; `near` rows look nearly the same, None where pixels are not
    there.
    """

    rows: tuple[str, ...]
    test: str
    n: int
    shared: Estimate
    near: int | None

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {**asdict(self), "rows": list(self.rows), "shared": self.shared.to_json()}


def overlaps(
    entries: Iterable[Entry], trained: Callable[[Entry], Sequence[Samples]], tests: Callable[[Entry], dict[str, Samples]]
) -> list[Overlap]:
    """One for every different set of training rows and every set of test rows, in the order of the table.

    `trained` gives the training rows of an entry, stage by stage, `tests` its test rows by name.
    """
    kinds: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.stages:
            specs = [stage.recipe.data.model_dump(mode="json", exclude={"test"}) for stage in entry.stages]
            kinds.setdefault(json.dumps(specs, sort_keys=True), []).append(entry)
    return [
        _overlap(tuple(dict.fromkeys(one.name for one in same)), name, [row for part in trained(same[0]) for row in part], test)
        for same in kinds.values()
        for name, test in tests(same[0]).items()
    ]


def _overlap(names: tuple[str, ...], test: str, train: Sequence[Any], rows: Samples) -> Overlap:
    read = read_rows(train, list(rows), images=None)
    numbers, _ = found_leaks(read, shared_images(read), NEAR)
    rate = numbers["shared_image_rate"] or Estimate(None, None, None, 0)
    return Overlap(names, test, len(rows), rate, numbers["near_duplicate_rows"])
