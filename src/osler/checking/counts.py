"""How many rows there are, and of what: row by row, so that no row is kept."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from osler.schema import Kind, Sample, fold_text

AXES: dict[str, Callable[[Sample], str]] = {
    "split": lambda sample: sample.split or "none",
    "modality": lambda sample: str(sample.modality),
    "question_type": lambda sample: str(sample.question_type),
    "source": lambda sample: sample.source,
    "kind": lambda sample: str(sample.kind),
    "language": lambda sample: sample.language,
}
"""What rows are counted by, and a row's label."""


class Counts:
    """The numbers of a data set, whose rows are added one by one."""

    def __init__(self) -> None:
        self.n = self.multi_image = self.open_ended = self.without_images = self.options_twice = 0
        self._by: dict[str, Counter[str]] = {name: Counter() for name in AXES}
        self._options: Counter[int] = Counter()
        self._own: Counter[str] = Counter()

    def add(self, sample: Sample) -> None:
        """Count `sample`."""
        self.n += 1
        self.multi_image += len(sample.images) > 1
        self.without_images += not sample.images
        self.open_ended += sample.kind is Kind.OPEN
        self.options_twice += len(set(map(fold_text, sample.options))) < len(sample.options)
        self._options[len(sample.options)] += 1
        for name, label_of in AXES.items():
            self._by[name][label_of(sample)] += 1
        self._own.update(key for key, value in sample.extra.items() if value not in (None, ""))

    def by(self, name: str) -> dict[str, int]:
        """The rows of each label of the axis `name`."""
        return dict(sorted(self._by[name].items()))

    def to_json(self, n: int, n_images: int, problems: list[dict[str, Any]]) -> dict[str, Any]:
        """The numbers of `n` rows, of which those were added that could be read, with `problems` and the further counts."""
        return {
            "n": n,
            **{f"by_{name}": self.by(name) for name in ("split", "modality", "question_type", "source")},
            "n_images": n_images,
            "n_multi_image": self.multi_image,
            "n_open_ended": self.open_ended,
            "option_counts": {str(count): rows for count, rows in sorted(self._options.items())},
            "problems": problems,
            "by_kind": self.by("kind"),
            "by_language": self.by("language"),
            "by_own_column": dict(sorted(self._own.items())),
            "n_without_images": self.without_images,
            "n_options_twice": self.options_twice,
        }
