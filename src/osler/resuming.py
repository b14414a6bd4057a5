"""What a run that was cut off must have in common with what is asked for now, before it goes on.

cut_off   of a train run: the same recipe on the same rows
resumed   of an eval run: the same model, rows and way of asking
"""

import json
from pathlib import Path
from typing import Any

from osler.config import ASKING, Recipe
from osler.errors import RunError
from osler.runs import Run


def cut_off(path: Path, recipe: Recipe, data: dict[str, Any]) -> Run:
    """The run at `path`, if it trains this very recipe on these rows. Errors: RunError that names what differs."""
    run = Run.open(path, "train")
    was, now = run.manifest["recipe"], recipe.model_dump(mode="json")
    for key in now:
        if key == "judge" and _same_judging(was.get(key), now[key]):
            continue
        if key not in ASKING and was.get(key) != now[key]:
            raise RunError(f"{path} cannot be resumed: its {key} was {was.get(key)!r}, now it is {now[key]!r}.")
    if run.manifest["trained_on"]["row_hash"] != data["row_hash"]:
        raise RunError(f"{path} cannot be resumed: its training rows were others. Restore them, or train into another folder.")
    return run


def _same_judging(was: dict[str, Any] | None, now: dict[str, Any] | None) -> bool:
    """Whether two judges of a recipe give the same scores: the same model, wherever it is served and however long it is waited
    for."""
    from osler.judging.judges import same_judge

    if was is None or now is None or not same_judge(was["model"], now["model"]):
        return was == now
    return all(was.get(name) == now[name] for name in ("see_images", "max_tokens"))


def resumed(path: Path, facts: dict[str, Any]) -> Run:
    """The run at `path`, if it evaluates the same model on the same rows in the same way. Errors: RunError."""
    run = Run.open(path)
    for name in ("model", "data", "trial", "text_model", "floor"):
        if run.manifest.get(name) != json.loads(json.dumps(facts[name])):
            raise RunError(f"{path} cannot be resumed: its {name} was {run.manifest.get(name)}, now it is {facts[name]}.")
    run.save(state="running")
    return run
