"""What leaves with exported weights: a recipe that says how they were trained, and neither where anything lies nor a secret."""

import re
from pathlib import Path
from typing import Any

from osler.config import Recipe
from osler.exporting.evaluations import data_label
from osler.model.adapters import split_step
from osler.model.load import TINY

HIDDEN = "..."
_SECRET = re.compile(r"token$|key$|secret|passw|credential|auth", re.IGNORECASE)


def shared(recipe: Recipe) -> dict[str, Any]:
    """`recipe` with names in the place of paths, and without the machine's own settings.

    Of `trl`, which is passed through unread, only numbers and switches are shown; a reward's settings are shown without the
    folders of anything that may be a path, and without texts that are named like a secret.
    """
    shown: dict[str, Any] = recipe.model_dump(mode="json", exclude={"features", "threads"})
    shown["data"] |= {name: data_label(spec) for name in ("train", "val", "test") if (spec := shown["data"][name])}
    shown["model"] = shown_model(recipe.model)
    shown["init"] = recipe.init and f"run:{shown_model(recipe.init)}"
    shown["embedder"] = recipe.embedder and shown_model(recipe.embedder)
    shown["controls"]["perplexity"] = recipe.controls.perplexity and shown_model(recipe.controls.perplexity)
    shown["trl"] = {key: value if isinstance(value, int | float) else HIDDEN for key, value in recipe.trl.items()}
    for reward in shown["rewards"]:
        reward["settings"] = _without_paths(reward["settings"])
    if recipe.judge:
        shown["judge"]["model"] = shown_judge(recipe.judge.model)
    return shown


def shown_judge(spec: str) -> str:
    """The judge `spec` without the path of its folder; a server's with its URL, without what may stand there to log in."""
    kind, colon, model = spec.partition(":")
    if kind == "openai":
        return re.sub(r"\?[^#]*", "", re.sub(r"//[^/#]*@", "//", spec))
    return f"{kind}:{shown_model(model)}" if colon else spec


def shown_model(model: str) -> str:
    """What `model` is called without its path: a run's or a folder's name, a hub name as it is."""
    if model.startswith("run:"):
        folder, step = split_step(model.removeprefix("run:"))
        return f"{folder.name}{f'@{step}' if step else ''}"
    path = Path(model.removeprefix("peft:"))
    lies_here = path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1 or path.is_dir()
    return "tiny" if path == TINY else path.name if lies_here else model


def _without_paths(value: Any) -> Any:
    """`value`, of a reward's settings, with the last part of each text that has a separator of folders."""
    if isinstance(value, dict):
        kept = {_without_paths(key): value[key] for key in value}
        return {key: HIDDEN if _is_secret(key, one) else _without_paths(one) for key, one in kept.items()}
    if isinstance(value, list):
        return [_without_paths(one) for one in value]
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1] if isinstance(value, str) else value


def _is_secret(key: Any, value: Any) -> bool:
    return isinstance(value, str) and bool(_SECRET.search(str(key)))
