"""The rewards that a recipe may name, and its list of them made ready: resolved, settings checked, combinations refused.

A new reward is a pure function of `osler.rewards.answered.Answered` in one of the *_rewards modules, and a line in REWARDS. Its
keyword-only parameters are its settings; one without a default is taken from the recipe where it is not set:

    max_tokens    rollout.max_tokens        form    strategy        answer_form    answer_form

A reward that could not be computed is None, never 0.
"""

import inspect
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic import ConfigDict, ValidationError, create_model

from osler.config import Recipe, RewardSettings
from osler.errors import RecipeError, unknown
from osler.judging.judges import parse_judge
from osler.rewards import answers, judged, lengths, medr1, users
from osler.rewards.answered import Answered, Reward
from osler.schema import Outcome
from osler.strategies import STRATEGIES, strategy_of

REWARDS: dict[str, Reward] = {
    "accuracy": answers.accuracy,
    "letter": answers.letter,
    "exact": answers.exact,
    "yes_no": answers.yes_no,
    "token_f1": answers.token_f1,
    "rouge_l": answers.rouge_l,
    "format": answers.format_reward,
    "medr1_accuracy": medr1.medr1_accuracy,
    "medr1_format": medr1.medr1_format,
    "ecr": lengths.ecr,
    "cwr": lengths.cwr,
    "length_linear": lengths.length_linear,
    "length_cosine": lengths.length_cosine,
    "repetition": lengths.repetition,
    "consistency": answers.consistency,
    "visual_reliance": answers.visual_reliance,
    "semantic_alignment": judged.semantic_alignment,
    "reasoning_quality": judged.reasoning_quality,
    "open_accuracy": judged.open_accuracy,
}


@dataclass(frozen=True)
class Term:
    """One reward of a recipe, ready to be paid: `name` in logs, `function` with its checked `settings`, weight and gate.

    `own` tells a pure function of one completion from a user's, which is called once a batch; `score` is what it needs of a
    judge or an embedding model (osler.rewards.judged), None where it needs nothing.
    """

    name: str
    function: Callable[..., Any]
    settings: Mapping[str, Any]
    weight: float
    gate: str
    own: bool
    score: str | None = None

    def passes(self, answered: Answered) -> bool | None:
        """Whether the gate lets the reward pass; None where that is unknown."""
        outcome = answered.verdict.outcome
        if self.gate == "correct":
            return None if outcome is Outcome.UNJUDGED else outcome is Outcome.CORRECT
        return self.gate == "none" or answered.parsed.well_formed

    def gated(self, value: float | None, answered: Answered) -> float | None:
        """`value` where the gate lets it pass, else 0, known or not; None where it is unknown whether it does."""
        passes = self.passes(answered)
        return None if passes is None else value if passes else 0.0


def terms_of(recipe: Recipe) -> tuple[Term, ...]:
    """The rewards of `recipe`; one that is listed again with other settings or another gate is logged as NAME-2.

    Errors: RecipeError for a name, a setting or a function that cannot be used, and for one that is listed twice alike.
    """
    given = {"max_tokens": recipe.rollout.max_tokens, "form": recipe.strategy, "answer_form": recipe.answer_form}
    terms: list[Term] = []
    for listed, count in zip(recipe.rewards, _counts(recipe.rewards), strict=True):
        name, function = listed.name, reward_of(listed.name)
        own = name in REWARDS
        settings = settings_of(name, function, listed.settings, given) if own else dict(listed.settings)
        if not own:
            users.check_arguments(name, function, settings)
        score = judged.score_needed(name, settings)
        terms.append(
            Term(name if count == 1 else f"{name}-{count}", function, settings, listed.weight, listed.gate, own, score)
        )
    _check_repeated(recipe.rewards, terms)
    return tuple(terms)


def reward_of(name: str) -> Callable[..., Any]:
    """The reward called `name`, or the user's own `package.module:function`. Errors: RecipeError with the nearest name."""
    if name in REWARDS:
        return REWARDS[name]
    module, _, function = name.partition(":")
    if not function or not all(part.isidentifier() for part in module.split(".")):
        raise RecipeError(unknown("reward", name, REWARDS) + " Or package.module:function.")
    return users.find_function(name)


def settings_of(name: str, function: Reward, settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings that `function` takes: `settings`, else from `given` what has no default.

    Errors: RecipeError for one that it does not take (with the nearest name), or whose type or value is wrong.
    """
    known = {key: one for key, one in inspect.signature(function).parameters.items() if one.kind is one.KEYWORD_ONLY}
    if strange := sorted(set(settings) - set(known)):
        told = unknown("setting", strange[0], known) if known else f"it takes no settings (got {strange[0]!r})."
        raise RecipeError(f"reward {name!r}: {told}")
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {key: (hints[key], ... if p.default is p.empty else p.default) for key, p in known.items()}
    handed = {key: given[key] for key, one in known.items() if one.default is one.empty and key in given}
    try:
        model = create_model("Settings", __config__=ConfigDict(extra="forbid"), **fields)
        return dict(model(**{**handed, **settings}))
    except ValidationError as error:
        first = error.errors()[0]
        raise RecipeError(f"reward {name!r}: settings.{first['loc'][0]}: {first['msg']} (got {first['input']!r}).") from error


def check_rewards(recipe: Recipe) -> None:
    """Errors: RecipeError for rewards of `recipe` that cannot be paid. Loads nothing heavy, the user's own modules aside."""
    if recipe.method == "grpo":
        _check_strategy(recipe)
        _check_experts(recipe)
    terms, names = terms_of(recipe), {listed.name for listed in recipe.rewards}
    if math.isclose(math.fsum(term.weight for term in terms), 0.0, abs_tol=1e-12):
        weights = ", ".join(f"{term.name} {term.weight:g}" for term in terms)
        raise RecipeError(f"the weights of the rewards sum to 0 ({weights}). Give one of them another weight.")
    if recipe.objective.aggregation == "gdpo" and recipe.objective.std_norm != "group":
        raise RecipeError(f"objective.aggregation=gdpo divides by the deviation of each group, and std_norm="
                          f"{recipe.objective.std_norm} does not. Set std_norm=group, or aggregation=sum.")  # fmt: skip
    if "visual_reliance" in names and recipe.method == "grpo" and recipe.engine != "packed":
        raise RecipeError(f"the reward visual_reliance is measured by method=grpo on engine=packed, and this recipe is "
                          f"method={recipe.method} on engine={recipe.engine}. Leave it out.")  # fmt: skip
    lettered = sorted(names & {"letter", "medr1_accuracy"})
    if lettered and recipe.answer_form != "letter":
        raise RecipeError(f"the reward {lettered[0]} pays for letters, and answer_form=text shows none. Use exact or accuracy.")


def total(parts: Sequence[float | None], weights: Sequence[float]) -> float | None:
    """The weighted sum of `parts`, or None where a part of non-zero weight is None.

    A sum that counted a missing part as 0 would train the policy on the judge's outages.
    """
    if any(part is None and weight for part, weight in zip(parts, weights, strict=True)):
        return None
    return sum(part * weight for part, weight in zip(parts, weights, strict=True) if part is not None)


def _check_strategy(recipe: Recipe) -> None:
    """Errors: RecipeError for a reward that pays for what the recipe's strategy does not ask for."""
    strategy, paid = strategy_of(recipe.strategy), {listed.name for listed in recipe.rewards if listed.weight}
    gated = any(listed.gate == "format" and listed.weight for listed in recipe.rewards)
    if not strategy.tagged and (paid & {"format", "medr1_format"} or gated):
        tagged = ", ".join(name for name, one in STRATEGIES.items() if one.tagged)
        raise RecipeError(f"strategy {recipe.strategy!r} has no tags, so a format reward has nothing to pay for. "
                          f"Drop it, or use a tagged strategy: {tagged}.")  # fmt: skip
    of_thoughts = sorted(paid & {"consistency", "semantic_alignment", "reasoning_quality"})
    if not strategy.thinks and of_thoughts:
        thinking = ", ".join(name for name, one in STRATEGIES.items() if one.thinks)
        raise RecipeError(f"strategy {recipe.strategy!r} asks for no thought, so the reward {of_thoughts[0]} has nothing to "
                          f"read. Drop it, or use a strategy that thinks: {thinking}.")  # fmt: skip


def _check_experts(recipe: Recipe) -> None:
    """Errors: RecipeError where a reward needs a judge or an embedding model that is not named, or one is named in vain."""
    if recipe.judge:
        parse_judge(recipe.judge.model)
    needed = {term.score: term.name for term in terms_of(recipe) if term.score}
    for key, scores, example in (
        ("judge", judged.OF_JUDGE, "judge={model: openai:http://127.0.0.1:8000/v1#NAME}"),
        ("embedder", judged.OF_EMBEDDER, "embedder=FOLDER_OR_HUB_NAME"),
    ):
        reward = next((name for score, name in needed.items() if score in scores), None)
        if reward and not getattr(recipe, key):
            raise RecipeError(f"the reward {reward} is given by the recipe's {key}, and it names none. Add {example}.")
        if getattr(recipe, key) and not reward:
            raise RecipeError(f"{key} does nothing, as no reward asks for it. Leave it out, or add a reward that does "
                              "(osler.rewards.judged).")  # fmt: skip


def _counts(listed: Sequence[RewardSettings]) -> list[int]:
    """For each reward how often its name has come so far, itself included."""
    seen: Counter[str] = Counter()
    counts = []
    for one in listed:
        seen[one.name] += 1
        counts.append(seen[one.name])
    return counts


def _check_repeated(listed: Sequence[RewardSettings], terms: Sequence[Term]) -> None:
    told = [(one.name, term.settings, term.gate) for one, term in zip(listed, terms, strict=True)]
    for place, one in enumerate(told):
        if one in told[:place]:
            raise RecipeError(f"reward {one[0]!r} is listed twice with the same settings and gate. Add up the two weights.")
