"""A judge without a chat template (BioGPT, BioMistral): how much likelier it finds yes than no behind two plain questions.

    p_correct   Does the model's answer mean the same as a reference answer?
    p_sound     Is the model's reasoning right, and does it lead to the answer?

Each is p(yes) of p(yes) + p(no), with p(yes) the sum of the probabilities of ` yes` and ` Yes`, and each of these the product
of those of its tokens; no likewise. The questions are our default; no paper prints one. The texts that are judged stand in
front of the question, quoted (`osler.judging.prompts.quoted`), and are tokenised apart from it: whatever they say, the same
tokens are scored behind the same question.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from osler.errors import ModelError, RecipeError
from osler.judging.cache import ScoreCache
from osler.judging.client import Settings
from osler.judging.local import PURPOSE, LocalJudge, Ready, Said
from osler.judging.prompts import Item, fields
from osler.judging.replies import Judgement, Odds, unscored, weighed
from osler.model.packing import log_softmax
from osler.model.perplexity import LONGEST, TextModel, check_text_model, config_of, load_text_model

HEAD = "A model answered a medical question. Each line below holds one text, as a JSON string.\n\n{data}\n"
ANSWER = "\nDoes the model's answer mean the same as a reference answer? Answer with yes or no:"
REASONING = "\nIs the model's reasoning right, and does it lead to the model's answer? Answer with yes or no:"

YES, NO = (" yes", " Yes"), (" no", " No")
"""The ways to say it."""

ROWS = 16
"""Rows in a forward."""

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Ending:
    """The tokens of a question, which end a prompt, and behind it those of each way to say `yes` and to say `no`."""

    ids: Ids
    yes: tuple[Ids, ...]
    no: tuple[Ids, ...]

    @property
    def length(self) -> int:
        """Tokens behind the data, at most."""
        return len(self.ids) + max(map(len, self.yes + self.no))


class CausalJudge(LocalJudge):
    """A causal text model that is asked for yes or no. Errors: RecipeError where it is to see images; ModelError."""

    kind = "causal"

    def __init__(self, model: str, settings: Settings | None = None, cache: ScoreCache | None = None) -> None:
        super().__init__(model, settings, cache)
        if self.settings.see_images:
            raise RecipeError(f"{self.name}: a text model sees no image. Leave see_images out, or name a judge that can see.")
        self.tokenizer = check_text_model(self.path, PURPOSE)
        self.answer, self.reasoning = (ending_of(self.path, self.tokenizer, question) for question in (ANSWER, REASONING))
        self._begin = _begin(self.tokenizer)
        self._reads = min(LONGEST, getattr(config_of(self.path, PURPOSE), "max_position_embeddings", None) or LONGEST)

    def facts(self) -> dict[str, Any]:
        """The words of the prompt, and how much the model reads."""
        return {"words": [HEAD, ANSWER, REASONING, *YES, *NO], "reads": self._reads}

    def load(self) -> TextModel:
        """The text model. Errors: ModelError."""
        return load_text_model(self.path, purpose=PURPOSE)

    def read(self, item: Item, key: str) -> Judgement | None:
        """The judgement of `item` by the probabilities in the cache."""
        odds = self.cache.find_odds(key)
        return weighed(item, odds) if odds else None

    def request(self, item: Item, key: str, longest: int) -> tuple[dict[Ending, Ids], int]:
        """The prompt behind which each question ends that is asked: of an answer that is there, of a thought that is there."""
        asked = {
            self.answer: replace(item, thought=None, rationale=None) if item.answer else None,
            self.reasoning: item if item.thought else None,
        }
        heads = {ending: self._head(one, longest) for ending, one in asked.items() if one}
        return heads, max((len(head) + ending.length for ending, head in heads.items()), default=0)

    def room(self, item: Item) -> int:
        """What it reads."""
        return self._reads

    def judged(self, batch: Sequence[Ready]) -> list[Said]:
        """By the probabilities. An item without an answer is not correct, and nothing is asked about that."""
        tails = {
            (head + ending.ids, tail)
            for one in batch
            for ending, head in one.request.items()
            for tail in ending.yes + ending.no
        }
        logps = tail_logps(self.loaded.model, sorted(tails, key=lambda pair: (len(pair[0]), pair)))
        return [self._said(one, logps) for one in batch]

    def _said(self, one: Ready, logps: Mapping[tuple[Ids, Ids], float]) -> Said:
        found = {ending: _probability(head + ending.ids, ending, logps) for ending, head in one.request.items()}
        if any(math.isnan(p) for p in found.values()):
            return unscored("no_number"), None
        odds = Odds(p_correct=found.get(self.answer, 0.0), p_sound=found.get(self.reasoning))
        tokens = sum(len(head) + len(ending.ids) for ending, head in one.request.items())
        return replace(weighed(one.item, odds), tokens_in=tokens, tokens_out=0), odds

    def _head(self, item: Item, longest: int) -> Ids:
        lines = [line for line in fields(item, longest) if not line.endswith("reasoning: none")]
        ids = self.tokenizer(HEAD.format(data="\n".join(lines)), add_special_tokens=False, verbose=False)["input_ids"]
        return (*self._begin, *ids)


def ending_of(name: str, tokenizer: Any, question: str) -> Ending:
    """The tokens of `question` and of what may follow, of which the first are those that all have in common.

    Question and word are tokenised together, as a tokenizer may join the end of one with the beginning of the other.
    Errors: ModelError where the model's tokenizer makes the same of a yes and a no.
    """
    yes, no = ([tuple(tokenizer(question + word, add_special_tokens=False)["input_ids"]) for word in way] for way in (YES, NO))
    same = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*yes, *no, strict=False)))
    tails = [tuple(dict.fromkeys(ids[same:] for ids in way)) for way in (yes, no)]
    if not all(tails[0] + tails[1]) or set(tails[0]) & set(tails[1]):
        raise ModelError(f"{PURPOSE.format(name=name)}: its tokenizer does not tell yes from no. Name another model.")
    return Ending(yes[0][:same], *tails)


@torch.inference_mode()
def tail_logps(model: Any, tails: Sequence[tuple[Ids, Ids]]) -> dict[tuple[Ids, Ids], float]:
    """The log-prob of each tail behind its prompt, in nats: of `tails`, pairs of (prompt, tail), summed over the tail's tokens.

    Rows are padded at their end, where a causal model does not look. Pairs that stand together share a forward, so that they
    should be about equally long.
    """
    found: dict[tuple[Ids, Ids], float] = {}
    for at in range(0, len(tails), ROWS):
        chunk = tails[at : at + ROWS]
        rows = list(dict.fromkeys(prompt + tail[:-1] for prompt, tail in chunk))
        first = min(len(prompt) for prompt, _ in chunk) - 1
        logits_RSV = _logits(model, rows, first)
        for prompt, tail in chunk:
            start = len(prompt) - 1 - first
            row_SV = logits_RSV[rows.index(prompt + tail[:-1]), start : start + len(tail)]
            chosen_S = log_softmax(row_SV, 1.0).gather(-1, torch.tensor(tail, device=row_SV.device)[:, None])
            found[prompt, tail] = float(chosen_S.double().sum())
    return found


def _logits(model: Any, rows: Sequence[Ids], first: int) -> Tensor:
    """The logits of `rows` from the place `first` on, `[R, S, V]`."""
    ids_RS = pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(model.device)
    lengths_R1 = torch.tensor([[len(row)] for row in rows], device=model.device)
    places_S = torch.arange(ids_RS.shape[1], device=model.device)
    asked = {"input_ids": ids_RS, "attention_mask": (places_S < lengths_R1).long(), "use_cache": False}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        kept: Tensor = model(**asked, logits_to_keep=places_S[first:]).logits
        return kept
    every: Tensor = model(**asked).logits
    return every[:, first:]


def _probability(prompt: Ids, ending: Ending, logps: Mapping[tuple[Ids, Ids], float]) -> float:
    """p(yes) of p(yes) + p(no); NaN where neither has a probability."""
    yes, no = (torch.tensor([logps[prompt, tail] for tail in way]).double().logsumexp(0) for way in (ending.yes, ending.no))
    return float(torch.sigmoid(yes - no))


def _begin(tokenizer: Any) -> Ids:
    """What the tokenizer puts in front of a text of its own accord."""
    bare, whole = (tokenizer("a", add_special_tokens=own)["input_ids"] for own in (False, True))
    starts = range(len(whole) - len(bare) + 1)
    return tuple(whole[: next((at for at in starts if whole[at : at + len(bare)] == bare), 0)])
