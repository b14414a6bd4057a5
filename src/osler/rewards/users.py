"""A user's own reward, `package.module:function`: a function with TRL's signature, called once a batch in both engines.

    def reward(prompts, completions, completion_ids, **columns) -> list[float | None]

    prompts, completions   conversations: [{"role": "user", "content": text}], [{"role": "assistant", "content": text}]
    completion_ids         the tokens of each completion, the end included
    columns                COLUMNS, a value a completion, and three that TRL hands over too: `trainer_state` (global_step,
                           max_steps), `log_metric(name, value)` (metrics.jsonl), `log_extra(column, values)` (rollouts.jsonl)

The settings of the recipe come as further keyword arguments. None stands for a completion that cannot be scored.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

from osler.errors import RecipeError, RunError
from osler.rewards.answered import Answered

COLUMNS: dict[str, Callable[[Answered], Any]] = {
    "sample_id": lambda one: one.sample.id,
    "question": lambda one: one.sample.question,
    "options": lambda one: list(one.sample.options),
    "golds": lambda one: list(one.sample.golds),
    "solution": lambda one: one.verdict.gold,
    "kind": lambda one: str(one.sample.kind),
    "modality": lambda one: str(one.sample.modality),
    "question_type": lambda one: str(one.sample.question_type),
    "source": lambda one: one.sample.source,
    "images": lambda one: list(one.sample.images),
}
"""What a function is told of each completion's sample; `solution` is the gold as the policy should write it, `images` are the
references."""

HANDED = ("prompts", "completions", "completion_ids", *COLUMNS, "trainer_state", "log_metric", "log_extra")
"""All keyword arguments that a function is called with, its settings aside."""

Function = Callable[..., Any]


def find_function(name: str) -> Function:
    """The function called `package.module:function`. Errors: RecipeError where there is none, or it is async."""
    module, _, attribute = name.partition(":")
    try:
        found: Function = getattr(import_module(module), attribute)
    except Exception as error:  # the user's module is run here
        raise RecipeError(f"reward {name!r} cannot be imported: {type(error).__name__}: {error}.") from error
    if not callable(found):
        raise RecipeError(f"reward {name!r} is no function, but {found!r}.")
    if inspect.iscoroutinefunction(found) or inspect.iscoroutinefunction(getattr(found, "__call__", None)):  # noqa: B004
        raise RecipeError(f"reward {name!r} is async, and rewards are not awaited. Make it a plain function.")
    return found


def check_arguments(name: str, function: Function, settings: Mapping[str, Any]) -> None:
    """Errors: RecipeError where `function` cannot be called with what it will be, or a setting has the name of a column."""
    if taken := sorted(set(settings) & set(HANDED)):
        raise RecipeError(f"reward {name!r}: the setting {taken[0]!r} has the name of what every reward is handed. Rename it.")
    try:
        inspect.signature(function).bind(**dict.fromkeys((*HANDED, *settings)))
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"reward {name!r} cannot be called: {error}. TRL's signature is (prompts, completions, completion_ids, **columns); "
            f"settings come by name. Columns: {', '.join(HANDED[3:])}."
        ) from error


def columns_of(answered: Sequence[Answered], prompts: Sequence[str], ids: Sequence[Sequence[int]]) -> dict[str, list[Any]]:
    """What a function is called with that has a value a completion; made anew for each call, as a function may change it."""
    return {
        "prompts": [[{"role": "user", "content": prompt}] for prompt in prompts],
        "completions": [[{"role": "assistant", "content": one.completion.text}] for one in answered],
        "completion_ids": [list(row) for row in ids],
        **{name: [column(one) for one in answered] for name, column in COLUMNS.items()},
    }


def called(
    name: str, function: Function, answered: Sequence[Answered], columns: Mapping[str, list[Any]], rest: Mapping[str, Any]
) -> Any:
    """What `function` returns for all completions at once.

    Errors: RunError that names the row, for which each completion is asked about alone once the batch has raised.
    """
    try:
        found = function(**columns, **rest)
        return list(found) if inspect.isgenerator(found) else found
    except Exception as error:
        _find_row(name, function, answered, columns, rest)
        whole = f"{len(answered)} completions, the first of {answered[0].where}, but on none of them alone"
        raise RunError(_raised(name, error, whole)) from error


def _find_row(
    name: str, function: Function, answered: Sequence[Answered], columns: Mapping[str, list[Any]], rest: Mapping[str, Any]
) -> None:
    """Errors: RunError at the first completion on which `function` raises when it is asked about it alone."""
    for place, one in enumerate(answered):
        try:
            found = function(**{key: values[place : place + 1] for key, values in columns.items()}, **rest)
            if inspect.isgenerator(found):
                list(found)
        except Exception as error:
            raise RunError(_raised(name, error, one.where)) from error


def _raised(name: str, error: Exception, where: str) -> str:
    return f"reward {name!r} raised {type(error).__name__}: {error} on {where}. Return None for what cannot be scored."


def numbers(name: str, values: Any, answered: Sequence[Answered]) -> list[float | None]:
    """`values` as one number a completion, or None. Errors: RunError that names the reward and the row, or both lengths."""
    if inspect.iscoroutine(values):
        values.close()
    if not isinstance(values, Iterable) or isinstance(values, str | bytes | Mapping):
        raise RunError(f"reward {name!r} returned a {type(values).__name__}, not a list of {len(answered)} numbers or None.")
    try:
        found = list(values)
    except TypeError as error:  # a tensor without an axis says that it is iterable, and is not
        raise RunError(f"reward {name!r} returned {values!r}, not a list of {len(answered)} numbers or None.") from error
    if len(found) != len(answered):
        raise RunError(f"reward {name!r} returned {len(found)} values for {len(answered)} completions, the first of "
                       f"{answered[0].where}. Return one a completion, None where it cannot be scored.")  # fmt: skip
    return [_number(name, value, one) for value, one in zip(found, answered, strict=True)]


def _number(name: str, value: Any, answered: Answered) -> float | None:
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise RunError(f"reward {name!r} returned {value!r} for {answered.where}. "
                       "Return a finite number, or None where it cannot be scored.")  # fmt: skip
    return number
