"""Recipes as YAML files: found, read, changed by dotted `key=value` overrides, checked. An unknown key is an error.

A chain is a file with `stages`, each a recipe over the file's common keys.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from osler.config import Chain, Recipe, Settings
from osler.errors import RecipeError, unknown

S = TypeVar("S", bound=Settings)


def load_recipe(file: str | Path, overrides: Iterable[str] = ()) -> Recipe | Chain:
    """The recipe or chain in `file` with `key=value` overrides (dotted keys, YAML values).

    In a chain an override goes to every stage, or to one as `STAGE.key=value`. Errors: RecipeError that names the file and
    the key.
    """
    path = find_recipe(file)
    raw = read_yaml(path)
    if "rows" in raw:
        raise RecipeError(f"{path} is a study, a grid of recipes: run it by osler study {file}.")
    changes = [split_override(override) for override in overrides]
    if "stages" not in raw:
        for key, value in changes:
            set_key(raw, key.split("."), value)
        return validate(Recipe, raw, str(path))
    return _load_chain(raw, changes, path)


def find_recipe(file: str | Path, below: Sequence[str] = ("",)) -> Path:
    """`file` itself, or the recipe of that name that is shipped with osler, in one of the folders `below`.

    Errors: RecipeError with the nearest name.
    """
    shipped = next((p for p in (Path(__file__).parent / "recipes", Path(__file__).parents[2] / "recipes") if p.is_dir()), None)
    candidates = [Path(file)]
    if shipped:
        candidates += [shipped / folder / name for folder in below for name in (str(file), f"{file}.yaml")]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        folders = [shipped / folder for folder in below] if shipped else []
        known = [str(p.relative_to(folder).with_suffix("")) for folder in folders for p in folder.rglob("*.yaml")]
        raise RecipeError(f"no recipe at {file}. " + unknown("recipe", file, known))
    return found


def _load_chain(raw: dict[str, Any], changes: list[tuple[str, Any]], path: Path) -> Chain:
    stages = raw["stages"]
    if not (stages and isinstance(stages, dict) and all(isinstance(stage, dict | None) for stage in stages.values())):
        raise RecipeError(f"{path}: stages must be a mapping of a name to that stage's settings, one stage or more.")
    common = {key: value for key, value in raw.items() if key not in ("stages", "name")}
    merged: dict[str, Any] = {}
    for name, stage in stages.items():
        recipe = _merge(common, stage or {})
        for key, value in changes:
            head, _, tail = key.partition(".")
            if head in stages and tail.partition(".")[0] not in Recipe.model_fields:
                group = f" For the settings called {head}, write {head}.{key}." if head in Recipe.model_fields else ""
                raise RecipeError(f"{key}: {head} is a stage here, and {tail or 'nothing'} is no setting of a stage.{group}")
            if head not in stages:
                set_key(recipe, key.split("."), value)
            elif head == name:
                set_key(recipe, tail.split("."), value)
        merged[name] = recipe
    checked = {name: validate(Recipe, recipe, f"{path}, stage {name}") for name, recipe in merged.items()}
    return validate(Chain, {"name": raw.get("name", path.stem), "stages": checked}, str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in `path`. Errors: RecipeError where it holds none."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is no YAML: {error}") from error
    if not isinstance(raw, dict):
        raise RecipeError(f"{path} is no recipe: it must be a mapping of settings, as in recipes/quickstart.yaml.")
    try:
        json.dumps(raw)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{path} holds what is no JSON ({error}). Put dates and the like in quotes.") from error
    return raw


def split_override(text: str) -> tuple[str, Any]:
    """The key and the value of `key=value`. Errors: RecipeError where it is none."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise RecipeError(f"override {text!r} is not of the form key=value, as in lr=1e-5 or lora.r=8.")
    try:
        loaded = yaml.safe_load(value)
    except yaml.YAMLError:
        return key, value
    if not isinstance(loaded, str | int | float | bool | dict | list | None):
        return key, value  # YAML took it for a date
    if isinstance(loaded, str | dict | list) and not value.lstrip().startswith(("{", "[", '"', "'")):
        return key, value  # a data spec may hold any character, and ` #` starts no comment in it
    return key, loaded


def set_key(raw: dict[str, Any], keys: list[str], value: Any) -> None:
    """Set the key below `keys` in `raw`; mappings on the way are copied, or made."""
    for key in keys[:-1]:
        inner = raw.get(key)
        raw[key] = dict(inner) if isinstance(inner, dict) else {}
        raw = raw[key]
    raw[keys[-1]] = value


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `under`, settings groups key by key. Data specs are taken whole: half of one makes no sense."""
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = {**merged[key], **value} if both else value
    return merged


def validate(kind: type[S], raw: Any, where: str) -> S:
    """`raw` as settings of `kind`. Errors: RecipeError with a line for each fault, each beginning with `where`."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise RecipeError("\n".join(f"{where}: {_explain(kind, e)}" for e in error.errors())) from error


def _explain(kind: type[BaseModel], error: Any) -> str:
    keys = [str(key) for key in error["loc"]]
    if error["type"] != "extra_forbidden":
        return f"{'.'.join(keys) or 'recipe'}: {error['msg']} (got {error['input']!r})."
    return unknown("key", ".".join(keys), (".".join([*keys[:-1], name]) for name in _fields(kind, keys[:-1])))


def _fields(kind: type[BaseModel], keys: list[str]) -> list[str]:
    """The names of the settings below `keys`, for a suggestion."""
    for key in keys:
        if key.isdecimal():
            continue  # a place in a list, whose settings are known already
        annotation = kind.model_fields[key].annotation if key in kind.model_fields else None
        annotation = next(iter(get_args(annotation)), annotation)
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        kind = annotation
    return list(kind.model_fields)
