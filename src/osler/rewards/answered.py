"""What a reward is a function of: one completion of one sample, as it was read and judged.

A reward is a pure function `reward(answered, **settings) -> float | None`; None where it could not be computed, never 0. Its
keyword-only parameters are its settings in a recipe, checked by their annotations (osler.rewards.terms).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from osler.schema import Completion, Parsed, Sample, Verdict


@dataclass(frozen=True)
class Answered:
    """A completion of `sample`, what the strategy read in it, and how the grader judged that.

    `scores` holds what a judge, an embedder or the engine wrote beforehand, by name; None where it could not be told.
    """

    sample: Sample
    completion: Completion
    parsed: Parsed
    verdict: Verdict
    scores: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """The sample for a message: its id, and the file and row that it was read from."""
        return f"sample {self.sample.id!r}" + (f" ({self.sample.origin})" if self.sample.origin else "")

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain JSON values."""
        return {**asdict(self), "scores": dict(self.scores)}


Reward = Callable[..., float | None]
"""`reward(answered, **settings)`."""
