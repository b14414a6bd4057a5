"""Whether a judge that judges an evaluation is one on whose scores the evaluated model was trained."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from osler.errors import RunError
from osler.judging.judges import same_judge
from osler.lineage import judges_of
from osler.runs import Run


@dataclass(frozen=True)
class TrainedWith:
    """`judge`, on whose scores a model was trained, and whether it judges here too, under which names (`same_as`).

    Of several judges it is the one that judges here, else the last. `same` is None where the training cannot be looked up,
    and `why` says why not.
    """

    judge: str | None
    same: bool | None
    same_as: tuple[str, ...] = ()
    why: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {**asdict(self), "same_as": list(self.same_as)}


def trained_with(run: Run, judges: Sequence[str]) -> TrainedWith | None:
    """What the model of the evaluation `run` was trained with, held against the `judges` here; None where no judge was.

    The evaluation says so itself; for one of an earlier version the model is looked up, wherever that lies from here.
    """
    spec = str((run.manifest.get("model") or {}).get("spec") or "")
    try:
        trained = run.manifest["judges"] if "judges" in run.manifest else judges_of(spec)
    except RunError as error:
        return TrainedWith(None, None, why=str(error))
    if not trained:
        return None
    same_as = tuple(judge for judge in judges if any(same_judge(judge, one) for one in trained))
    met = [one for one in trained if any(same_judge(judge, one) for judge in judges)]
    return TrainedWith((met or trained)[-1], bool(same_as), same_as)
