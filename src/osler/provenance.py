"""osler.json beside exported weights: where they come from, for whoever evaluates them or trains on from them.

A run that leaves its folder as a plain checkpoint (osler.exporting) loses its manifest. What an honest evaluation needs of it
goes along: how it was asked in training, what rows it saw, whose scores it was trained on, and in floor.json its blind
attackers. Data and models are named without the folders that they lie in.
"""

from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from osler.errors import RunError
from osler.floor import Floors
from osler.runs import read_json

FILE = "osler.json"
FLOOR = "floor.json"


@dataclass(frozen=True)
class Provenance:
    """Where exported weights come from.

    `kind` is model or adapter, `step` the checkpoint that was taken, `dtype` that of the weights, `weights` the hash of what
    the run itself trained. `start` is what training went back to, the checkpoint first, each with its hash; `judges` are those
    on whose scores any of it was trained. `recipe` names data and models without their paths, and of `trl` only
    numbers (osler.exporting.sharing). `evaluations` are those of the run at this checkpoint, each with the type that it was
    evaluated in. `trainings` are the hashes by which the rows of each training are known again (osler.lineage); an export of
    an earlier version has none.
    """

    osler: str
    kind: str
    run: str
    state: str
    step: str
    dtype: str
    weights: str | None
    device: str | None
    versions: dict[str, str | None]
    recipe: dict[str, Any]
    start: list[dict[str, Any]]
    trained_on: dict[str, Any]
    judges: list[str]
    evaluations: list[dict[str, Any]]
    trainings: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The inverse of `to_json`; fields of a later version are left out. Errors: KeyError where one is missing."""
        needed = [one.name for one in fields(cls) if one.name in value or one.default_factory is MISSING]
        return cls(**{name: value[name] for name in needed})


def provenance_of(model: str) -> Provenance | None:
    """What the export `model` (a folder, or peft:FOLDER) says of itself; None for anything else.

    Errors: RunError where its osler.json is damaged.
    """
    file = _folder_of(model) / FILE
    if not file.is_file():
        return None
    try:
        return Provenance.from_json(read_json(file))
    except KeyError as error:
        raise RunError(f"{file} has no {error}: another version of osler wrote it. Export the run again.") from error


def floor_beside(model: str) -> Floors | None:
    """The blind attackers of the rows that the export `model` was trained on; None where there are none beside it."""
    file = _folder_of(model) / FLOOR
    return Floors.from_json(read_json(file)) if file.is_file() and provenance_of(model) else None


def _folder_of(model: str) -> Path:
    return Path(model.removeprefix("peft:"))
