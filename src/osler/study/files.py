"""A study file: a grid of recipes x seeds, as YAML. `recipes/studies/` has one for each claim of the papers.

    name: zhu-bias
    seeds: [0, 1, 2, 3, 4]
    reference: GRPO                 every other row is compared with it
    rows:
      - {name: GRPO, recipe: zhu/grpo}
      - {name: Dr. GRPO, recipe: zhu/grpo, set: {objective.std_norm: none, objective.length_norm: constant}}

A recipe is looked for beside the study file, then below `recipes/tiny` (`scale: tiny`, phantoms and the embedded model, the
default) or `recipes` (`scale: paper`, the real data and model): a study is the same table at either scale.
"""

import json
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from osler.config import Settings, Spec
from osler.errors import RecipeError, unknown
from osler.recipe_files import find_recipe, read_yaml, set_key, split_override, validate

Scale = Literal["tiny", "paper"]


BY_SCALE = ("tests", "judge", "embedder", "bertscore")
"""Settings of a study that may be given for each scale."""


class AskSettings(Settings):
    """How a row is asked, where not as it was trained."""

    strategy: str | None = None
    wording: Literal["same", "medr1"] | None = None
    infer_prompt: Literal["plain", "reasoning", "dynamic"] | None = None
    answer_form: Literal["letter", "text"] | None = None
    max_tokens: int | None = Field(None, gt=0)
    scorer: str | None = None


class RowSettings(Settings):
    """A row of the table: a recipe with settings changed, or a model that is only evaluated.

    With `each` it stands for one row for each combination of those values. A text of `recipe`, `model` or `set` that is `{key}`
    becomes the value; `{key}` inside a longer text of `recipe` or `model` is replaced.
    """

    name: str
    recipe: str = Field(description="What is trained, or for a `model` how it is asked.")
    stage: str | None = Field(None, description="Of a chain: the stage that is reported; null: the last.")
    model: str | None = Field(
        None, description="A model to evaluate instead; base: the recipe's; start: where the stage starts."
    )
    set: dict[str, Any] = Field(default_factory=dict, description="Dotted keys, as overrides of osler train.")
    ask: AskSettings = AskSettings()
    each: dict[str, tuple[Any, ...]] = Field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the rows that it stands for."""
        return tuple(row.name for row, _ in self.expanded())

    def expanded(self) -> list[tuple["RowSettings", dict[str, Any]]]:
        """A row without `each` for each combination of values, and that combination."""
        combinations = [dict(zip(self.each, values, strict=True)) for values in product(*self.each.values())]
        return [(self._with(one), one) for one in combinations]

    def _with(self, values: Mapping[str, Any]) -> "RowSettings":
        filled = {name: _inside(text, values) for name, text in (("recipe", self.recipe), ("model", self.model))}
        name = " · ".join([self.name, *map(str, values.values())])
        return self.model_copy(update={**filled, "name": name, "set": _filled(self.set, values), "each": {}})

    @model_validator(mode="after")
    def _heeded(self) -> "RowSettings":
        for key in self.each:
            if f"{{{key}}}" not in json.dumps([self.recipe, self.model, self.set]):
                raise ValueError(f"row {self.name!r}: each.{key} is named nowhere. Write {{{key}}} where its values belong")
        return self


class StudySettings(Settings):
    """A study. `osler.study` runs it."""

    name: str = Field(pattern=r"^[\w.-]+$")
    title: str = ""
    claims: tuple[str, ...] = Field((), description="The claims of the papers that it is about (docs/papers.md).")
    notes: tuple[str, ...] = Field((), description="What a reader of the table must know.")
    scale: Scale = "tiny"
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    scales: dict[Scale, dict[str, Any]] = Field(default_factory=dict, description="Settings of every row at that scale.")
    set: dict[str, Any] = Field(default_factory=dict, description="Settings of every row, over those of the scale.")
    tests: dict[str, Spec] = Field(
        default_factory=dict,
        description="Test rows by name, or by scale and name; empty: those of the recipes. The first is the main one.",
    )
    reference: str | None = None
    metrics: tuple[str, ...] = ("accuracy",)
    matrix: tuple[str, ...] = Field((), description="Axes: a source x target table of every row, with a line for each value.")
    minus: tuple[tuple[str, str], ...] = Field((), description="Pairs of rows whose matrices are subtracted, cell by cell.")
    tune: int = Field(0, ge=0, le=9, description="Learning rates tried for each row on validation rows, on the first seed.")
    judge: str | None = Field(None, description="Who judges the records of every evaluation (osler judge --judge).")
    see_images: bool = Field(False, description="Show the judge the images.")
    judge_rows: int | None = Field(None, gt=0, description="Records of each evaluation that are judged; null: all.")
    embedder: str | None = Field(None, description="The embedding model of similarities (osler judge --embedder).")
    bertscore: str | None = Field(None, description="The model of BERTScore (osler judge --bertscore).")
    overlap: bool = Field(False, description="Print how many test rows show an image of the training rows.")
    rows: tuple[RowSettings, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _of_scale(cls, given: Any) -> Any:
        """What is given for each scale, `{tiny: ..., paper: ...}`, is that of the scale; null where it has none."""
        if not isinstance(given, dict) or not isinstance(given.get("scale", "tiny"), str):
            return given
        scale, scales = given.get("scale", "tiny"), set(get_args(Scale))
        by_scale = {
            name: given[name] for name in BY_SCALE if isinstance(given.get(name), dict) and given[name].keys() <= scales
        }
        return {**given, **{name: one.get(scale) or cls.model_fields[name].get_default(call_default_factory=True)
                            for name, one in by_scale.items()}}  # fmt: skip

    @field_validator("seeds")
    @classmethod
    def _different(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError("seeds must be different whole numbers from 0 on")
        return seeds

    @model_validator(mode="after")
    def _named(self) -> "StudySettings":
        names = [name for row in self.rows for name in row.names]
        if len(set(names)) < len(names):
            raise ValueError("two rows have the same name")
        groups = [row.name for row in self.rows]
        for name in [self.reference, *(side for pair in self.minus for side in pair)]:
            if name is not None and name not in groups:
                raise ValueError(unknown("row", name, groups))
        return self


def load_study(file: str | Path, overrides: Iterable[str] = ()) -> tuple[StudySettings, Path]:
    """The study in `file`, a path or the name of a shipped one, with `key=value` overrides, and where it was found.

    Errors: RecipeError that names the file and the key.
    """
    path = find_recipe(file, ("", "studies"))
    raw = read_yaml(path)
    if "rows" not in raw:
        raise RecipeError(f"{path} is no study: it has no rows. A single recipe or a chain is run by osler train.")
    raw.setdefault("name", path.stem)
    for key, value in map(split_override, overrides):
        head, _, rest = key.partition(".")
        set_key(raw, [head, rest] if head == "set" and rest else key.split("."), value)
    return validate(StudySettings, raw, str(path)), path


def recipe_file(row: RowSettings, study: StudySettings, beside: Path) -> Path:
    """The file of the row's recipe. Errors: RecipeError where there is none."""
    own = [path for path in (beside.parent / row.recipe, beside.parent / f"{row.recipe}.yaml") if path.is_file()]
    return own[0] if own else find_recipe(row.recipe, ("tiny",) if study.scale == "tiny" else ("",))


def as_overrides(settings: Mapping[str, Any]) -> list[str]:
    """`settings` as the overrides `key=value` that say the same; JSON is YAML."""
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


def _inside(text: str | None, values: Mapping[str, Any]) -> str | None:
    for key, value in values.items() if text else ():
        text = str(text).replace(f"{{{key}}}", str(value))
    return text


def _filled(settings: Any, values: Mapping[str, Any]) -> Any:
    """`settings` with each text `{key}` replaced by its value, at any depth."""
    if isinstance(settings, dict):
        return {key: _filled(value, values) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [_filled(value, values) for value in settings]
    known = {f"{{{key}}}": value for key, value in values.items()}
    return known.get(settings, settings) if isinstance(settings, str) else settings
