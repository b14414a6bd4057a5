"""A judge that converses: a text model with a chat template, or a Qwen2-VL with its images. It decodes greedily.

It is given the rules and the request that a server is given (`osler.judging.prompts`), and its reply is read as strictly. Rules
stand in a system's turn, or in front of the request where the chat template has no such turn.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from jinja2 import TemplateError
from transformers import GenerationConfig

from osler.config import FeatureSettings, ImageSettings
from osler.errors import ModelError, RecipeError
from osler.judging import prompts
from osler.judging.cache import ScoreCache
from osler.judging.client import Settings
from osler.judging.local import PURPOSE, LocalJudge, Ready, Said
from osler.judging.prompts import Item
from osler.judging.replies import Judgement, judgement_of, read_reply, scored
from osler.model.adapters import reason
from osler.model.family import FAMILIES
from osler.model.features import FeatureStore
from osler.model.generate import generate
from osler.model.load import load_policy, load_processor
from osler.model.perplexity import check_text_model, config_of, load_text_model
from osler.schema import Completion

READS = 8192
"""Tokens of a request, at most, whatever the model could read."""

TURNS = 64
"""Tokens around a request that a vision model's chat template adds, at most."""

Request = tuple[str, tuple[str, ...]]
"""What a model is asked: the message, and references to the images that it is shown."""


class ChatJudge(LocalJudge):
    """A model with a chat template that is asked for a reply.

    Errors: RecipeError where it is to see images and cannot; ModelError where it is no chat model.
    """

    kind = "chat"

    def __init__(self, model: str, settings: Settings | None = None, cache: ScoreCache | None = None) -> None:
        super().__init__(model, settings, cache)
        self.rules = prompts.rules(self.settings.see_images)
        if config_of(self.path, PURPOSE).model_type in FAMILIES:
            self.voice: _Voice = _Seeing(self.path, self.rules)
        elif self.settings.see_images:
            raise RecipeError(f"{self.name}: a text model sees no image. Leave see_images out, or name a judge that can see.")
        else:
            self.voice = _Texting(self.path, self.rules)

    def facts(self) -> dict[str, Any]:
        """The rules, how much the model reads, and how much it may say."""
        return {"rules": self.rules, "reads": READS, "max_tokens": self.settings.max_tokens}

    def load(self) -> Any:
        """The model. Errors: ModelError."""
        return self.voice.load()

    def read(self, item: Item, key: str) -> Judgement | None:
        """The judgement of `item` by the reply in the cache."""
        reply = self.cache.find(key)
        return scored(item, reply) if reply else None

    def request(self, item: Item, key: str, longest: int) -> tuple[Request, int]:
        """The message, with the images where the judge sees."""
        text = prompts.request_text(item, key, longest)
        return (text, item.images if self.settings.see_images else ()), self.voice.length(text)

    def room(self, item: Item) -> int:
        """What it reads, less what it may say."""
        images = len(item.images) if self.settings.see_images else 0
        return min(READS, self.voice.reads(images) - self.settings.max_tokens)

    def judged(self, batch: Sequence[Ready]) -> list[Said]:
        """By the replies."""
        completions = self.voice.replies(self.loaded, [one.request for one in batch], self.settings.max_tokens)
        return [self._said(one, said) for one, said in zip(batch, completions, strict=True)]

    def _said(self, one: Ready, said: Completion) -> Said:
        reply = read_reply(said.text)
        judgement = judgement_of(one.item, said, reply)
        return replace(judgement, tokens_in=one.tokens, tokens_out=said.tokens), reply


class _Voice(Protocol):
    """A model that replies."""

    def length(self, text: str) -> int:
        """The tokens of the prompt that asks `text`, but for its images."""

    def reads(self, images: int) -> int:
        """The tokens that prompt and reply may have beside so many images."""

    def load(self) -> Any:
        """The model in memory."""

    def replies(self, loaded: Any, requests: Sequence[Request], max_tokens: int) -> list[Completion]:
        """What it says to each of `requests`."""


class _Texting:
    """A text model. Errors: ModelError where it is none, or has no chat template that takes the rules and the request."""

    def __init__(self, model: str, rules: str) -> None:
        self.model, self.rules = model, rules
        self.tokenizer = check_text_model(model, PURPOSE)
        if not self.tokenizer.chat_template:
            raise ModelError(f"{PURPOSE.format(name=model)}: it has no chat template. Write causal:{model}.")
        self._apart = self._takes_rules()

    def length(self, text: str) -> int:
        return len(self._ids(text))

    def reads(self, images: int) -> int:
        return getattr(config_of(self.model, PURPOSE), "max_position_embeddings", None) or READS

    def load(self) -> Any:
        model = load_text_model(self.model, purpose=PURPOSE).model
        model.generation_config = _greedy(model.generation_config, self.tokenizer)
        return model

    @torch.inference_mode()
    def replies(self, loaded: Any, requests: Sequence[Request], max_tokens: int) -> list[Completion]:
        """Rows are padded at their beginning."""
        rows = [self._ids(text) for text, _ in requests]
        longest, pad = max(map(len, rows)), loaded.generation_config.pad_token_id
        ids_BS = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=loaded.device)
        mask_BS = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=loaded.device)
        said_BT = loaded.generate(input_ids=ids_BS, attention_mask=mask_BS, max_new_tokens=max_tokens)[:, longest:]
        return [self._completion(ids, loaded.generation_config.eos_token_id) for ids in said_BT.tolist()]

    def _completion(self, ids: list[int], ends: list[int]) -> Completion:
        end = next((place for place, token in enumerate(ids) if token in ends), None)
        text = self.tokenizer.decode(ids[:end], skip_special_tokens=True)
        return Completion(text, len(ids) if end is None else end + 1, end is None)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(self._prompt(text, self._apart), add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def _prompt(self, text: str, apart: bool) -> str:
        """`enable_thinking` is for templates that know it (Qwen3's): a reply behind a thought is not read."""
        turns = [{"role": "user", "content": text if apart else f"{self.rules}\n\n{text}"}]
        if apart:
            turns.insert(0, {"role": "system", "content": self.rules})
        prompt: str = self.tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=False, enable_thinking=False
        )
        return prompt

    def _takes_rules(self) -> bool:
        """Whether the chat template takes a system's turn. Errors: ModelError where it takes no user's turn either."""
        probe, why = "What is shown?", "it leaves out what it is given"
        for apart in (True, False):
            try:
                prompt = self._prompt(probe, apart)
            except TemplateError as error:
                why = reason(error)
            else:
                if probe in prompt and self.rules in prompt:
                    return apart
        raise ModelError(f"{PURPOSE.format(name=self.model)}: its chat template cannot be used ({why}). Name another model.")


class _Seeing:
    """A Qwen2-VL, with images or without. Its prompts have one turn, so that the rules stand in front of the request."""

    def __init__(self, model: str, rules: str) -> None:
        self.model, self.rules, self._images = model, rules, ImageSettings()
        self._processor = load_processor(model, self._images)

    def length(self, text: str) -> int:
        return TURNS + len(self._processor.tokenizer(self._asked(text), verbose=False)["input_ids"])

    def reads(self, images: int) -> int:
        config, processor = config_of(self.model, PURPOSE), self._processor.image_processor
        longest: int = getattr(config, "text_config", config).max_position_embeddings
        of_an_image: int = processor.size["longest_edge"] // (processor.patch_size * processor.merge_size) ** 2
        return longest - images * of_an_image

    def load(self) -> Any:
        vlm = load_policy(self.model, self._images)
        return vlm, FeatureStore(vlm, FeatureSettings(disk_gb=0))

    def replies(self, loaded: Any, requests: Sequence[Request], max_tokens: int) -> list[Completion]:
        vlm, store = loaded
        asked = [(self._asked(text), images) for text, images in requests]
        return list(generate(vlm, asked, max_tokens, rows=len(asked), store=store))

    def _asked(self, text: str) -> str:
        return f"{self.rules}\n\n{text}"


def _greedy(own: GenerationConfig, tokenizer: Any) -> GenerationConfig:
    """A configuration with the ends of a reply alone: a checkpoint's own may sample, or punish repetition."""
    ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    ends = sorted({end for end in (*ends, tokenizer.eos_token_id) if end is not None})
    pad = tokenizer.pad_token_id
    return GenerationConfig(eos_token_id=ends, pad_token_id=next(iter(ends), 0) if pad is None else pad)
