"""What answers prompts: a model in memory or behind an endpoint, looked for first and loaded when it is needed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from osler.errors import RecipeError
from osler.trial import Trial

if TYPE_CHECKING:
    from osler.evaluation import Answers, Continues, Losses


def check_model(model: str, with_images: bool) -> None:
    """Errors: any OslerError where `model` cannot be evaluated: its files, its blind twin, or the server that it is behind."""
    from osler.judging.server import check_endpoint
    from osler.lineage import check_twin
    from osler.model.endpoint import ENDPOINT, parse_endpoint
    from osler.model.preflight import check_policy

    if model.startswith(ENDPOINT):
        check_endpoint(parse_endpoint(model), with_images=with_images)
    else:
        check_policy(model)
        check_twin(model)


@dataclass(frozen=True)
class Policy:
    """What answers prompts: greedily, sampled, and greedily from a given beginning on, where these can be had; the hardware,
    and torch's name of the device, both None where they are a server's."""

    greedy: "Answers"
    sampled: "Answers | None"
    continues: "Continues | None"
    hardware: str | None
    device: str | None = None


def load_answers(model: str, trial: Trial) -> Policy:
    """`model`, asked as `trial` says. Errors: RecipeError where a server is to be sampled from, or begun for."""
    from osler.model.endpoint import CONCURRENCY, ENDPOINT, answers, parse_endpoint

    if model.startswith(ENDPOINT):
        endpoint, at_once, pixels = parse_endpoint(model), min(trial.batch_size, CONCURRENCY), trial.images.max_pixels
        if trial.controls.samples:
            raise RecipeError("an endpoint is asked greedily only so far. Leave out --samples.")
        if trial.controls.forced_answer:
            raise RecipeError("an endpoint cannot be told how a completion begins, as the forced-answer test needs. "
                              "Leave out --forced-answer.")  # fmt: skip
        return Policy(
            lambda prompts: answers(endpoint, prompts, trial.max_tokens, at_once, max_pixels=pixels), None, None, None
        )
    from osler.model.family import set_threads
    from osler.model.features import FeatureStore
    from osler.model.generate import generate
    from osler.model.load import load_policy

    set_threads(trial.threads)
    vlm = load_policy(model, trial.images, trial.dtype)
    complete = partial(
        generate, vlm, max_tokens=trial.max_tokens, rows=trial.batch_size, store=FeatureStore(vlm, trial.features)
    )
    sampled = partial(complete, temperature=trial.controls.temperature, seed=trial.seed)
    return Policy(complete, sampled, complete, vlm.hardware, vlm.device.type)


def losses_of(trial: Trial) -> "Callable[[], Losses] | None":
    """What loads the text model that thoughts are scored under; None where there is none. Errors: ModelError."""
    name = trial.controls.perplexity
    if name is None:
        return None
    from osler.model.perplexity import check_text_model, load_text_model

    check_text_model(name)
    return lambda: load_text_model(name, trial.dtype).losses


def text_model_of(trial: Trial) -> dict[str, Any] | None:
    """The text model of `trial` by its weights, as far as these are in a folder: one name may come to stand for others."""
    from osler.lineage import model_hash

    name = trial.controls.perplexity
    return {"spec": name, "sha256": model_hash(name)} if name else None
