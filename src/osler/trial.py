"""How a model is asked: everything of an evaluation but the model and the rows."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from osler.config import ControlSettings, FeatureSettings, ImageSettings, Recipe
from osler.controls import controls_of
from osler.errors import RecipeError
from osler.floor import Floor, Floors
from osler.paraphrases import VARIANTS, rephrased
from osler.reading import reading_of
from osler.reasoning.forcing import check_forcing
from osler.strategies import AnswerForm, Strategy, answer_form_of
from osler.wordings import asked_by, infer_prompt_of

if TYPE_CHECKING:
    from osler.evaluation import Asking


@dataclass(frozen=True)
class Trial:
    """How a model is asked, and how its completions are read."""

    strategy: str = "think"
    wording: str = "same"
    infer_prompt: str | None = None
    answer_form: AnswerForm = "letter"
    max_tokens: int = 256
    images: ImageSettings = field(default_factory=ImageSettings)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    dtype: str = "auto"
    threads: int = 1
    batch_size: int = 64
    controls: ControlSettings = field(default_factory=ControlSettings)
    scorer: str = "osler"
    seed: int = 0

    @classmethod
    def of(cls, recipe: Recipe) -> "Trial":
        """How a model that `recipe` trained was asked in training."""
        longest = recipe.eval_max_tokens or recipe.rollout.max_tokens
        return cls(
            strategy=recipe.strategy,
            wording=recipe.wording,
            infer_prompt=recipe.infer_prompt,
            answer_form=recipe.answer_form,
            max_tokens=longest,
            images=recipe.images,
            features=recipe.features,
            dtype=recipe.dtype,
            threads=recipe.threads,
            batch_size=recipe.eval_batch_size,
            controls=recipe.controls,
            seed=recipe.seed,
        )

    @classmethod
    def of_model(cls, model: str) -> "Trial":
        """How `model` was asked in training; the defaults for a model that osler did not train."""
        from osler.lineage import recipe_of

        recipe = recipe_of(model)
        return cls.of(recipe) if recipe else cls()

    def to_json(self) -> dict[str, Any]:
        """What decides the completions, for the manifest."""
        prompt = infer_prompt_of(self.strategy, self.infer_prompt)
        names = ("strategy", "wording", "answer_form", "max_tokens", "dtype", "scorer", "seed")
        groups = {"images": self.images.model_dump(mode="json"), "controls": self.controls.model_dump(mode="json")}
        return {**{name: getattr(self, name) for name in names}, **groups, **({"infer_prompt": prompt} if prompt else {})}

    @property
    def envelope(self) -> Strategy:
        """The strategy that rows are asked and read by, in the words of an evaluation.

        Errors: RecipeError for a strategy, wording or infer_prompt that is none, or that do not go together.
        """
        return asked_by(self.strategy, self.wording, self.infer_prompt)

    def asking(self, floor: Floor | Floors | None) -> "Asking":
        """How an evaluation asks and reads, with `floor` as its blind attackers."""
        from osler.evaluation import Asking

        return Asking(self.envelope, self.answer_form, self.scorer, floor, self.controls, self.seed)

    def with_changes(self, **changes: Any) -> "Trial":
        """This trial with what is given (not None) changed. Errors: RecipeError for an answer form that is none.

        A strategy that is given alone is asked in its own words: the infer_prompt of training then does nothing.
        """
        answer_form_of(changes.get("answer_form"))
        given = {name: value for name, value in changes.items() if value is not None}
        own = {"infer_prompt": None} if "strategy" in given else {}
        return replace(self, **{**own, **given})

    def with_controls(self, names: str | None, **given: Any) -> "Trial":
        """This trial with other controls (default, all, none, or names with commas), and what is `given` (not None) of them."""
        changes = {name: value for name, value in given.items() if value is not None}
        if names is not None:
            changes["names"] = names if names in ("default", "all", "none") else tuple(names.split(","))
        try:
            return replace(self, controls=ControlSettings.model_validate({**self.controls.model_dump(), **changes}))
        except ValidationError as error:
            first = error.errors()[0]
            raise RecipeError(f"controls.{first['loc'][0]}: {first['msg']} (got {first['input']!r}).") from error

    def check(self) -> None:
        """Errors: RecipeError for a strategy, scorer or control that there is none of, or that do not go together."""
        reading_of(self.scorer, self.envelope, self.answer_form)
        if self.controls.forced_answer:
            check_forcing(self.envelope)
        chosen = [control.name for control in controls_of(self.controls.names)]
        if "prompts" in chosen:
            for strategy in self.envelope.each:
                rephrased(strategy, VARIANTS[0])
        if self.scorer == "medr1" and "no-options" in chosen:
            raise RecipeError(
                "the control no-options leaves no letters, and the scorer medr1 reads nothing else. Leave out one."
            )
