"""Completions of training rows by the start of a training, before it begins: for pass rates, and for pairs."""

from collections.abc import Iterator, Sequence

import torch

from osler.config import Recipe
from osler.model.family import VLM
from osler.model.features import FeatureStore
from osler.model.generate import Generator, Request, Sampled
from osler.model.prompts import encode
from osler.model.sampling import Sampling, seed_of
from osler.schema import Sample
from osler.strategies import Strategy


def attempts(
    recipe: Recipe, vlm: VLM, samples: Sequence[Sample], strategy: Strategy, count: int, purpose: str
) -> Iterator[tuple[int, list[Sampled]]]:
    """(row, its `count` completions) of every row of `samples`, as each row is done; sampled as rollouts of `recipe` are.

    A completion draws by a seed of the recipe's seed, `purpose`, the row's id and its number: a row gets the same completions
    whatever rows are sampled beside it.
    """
    rollout = recipe.rollout
    vlm.model.eval()
    store = FeatureStore(vlm, recipe.features)
    store.build(dict.fromkeys(image for sample in samples for image in sample.images))
    sampling = Sampling(rollout.temperature, rollout.top_p, rollout.top_k, rollout.min_p, tuple(vlm.banned_ids))
    generator = Generator(vlm, sampling, rollout.max_tokens, rollout.rows or 64)

    def requests() -> Iterator[Request]:
        for sample in samples:
            prompt = encode(vlm, store, (strategy.question(sample, recipe.answer_form), sample.images))
            yield Request(prompt, tuple(seed_of(recipe.seed, purpose, sample.id, number) for number in range(count)))

    waiting: dict[int, dict[int, Sampled]] = {}
    for row, number, sampled in generator.run(requests()):
        waiting.setdefault(row, {})[number] = sampled
        if len(waiting[row]) == count:
            done = waiting.pop(row)
            yield row, [done[number] for number in range(count)]
    if vlm.device.type == "cuda":
        del generator  # its memory is training's
        torch.cuda.empty_cache()
