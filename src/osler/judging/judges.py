"""Judges of every kind behind one seam: what a judge is to whoever asks, and how one is named.

    openai:URL#NAME     a model behind an OpenAI-compatible server (osler.judging.client); its key in OPENAI_API_KEY
    chat:MODEL          a model with a chat template on this machine, a folder or a hub name (osler.judging.chat)
    causal:MODEL        one without, asked for yes or no (osler.judging.causal)
    phantoms            a scripted expert for drawn images (osler.judging.phantom_expert)

Only a Qwen2-VL and a server see images; the scripted expert knows them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

from osler.errors import RecipeError, unknown
from osler.judging.names import same_name
from osler.judging.prompts import Item
from osler.judging.replies import Judgement

if TYPE_CHECKING:
    from osler.judging.cache import ScoreCache
    from osler.judging.client import Settings

KINDS = ("openai", "chat", "causal", "phantoms")
"""The kinds of judges."""

SPECS = "openai:URL#NAME, chat:MODEL, causal:MODEL or phantoms"
"""How they are named."""


class Judging(Protocol):
    """A judge, to be used in a `with` block. `name` is its spec."""

    @property
    def name(self) -> str:
        """The spec that names it, in its canonical form."""

    def __enter__(self) -> Self:
        """Ready to be asked."""

    def __exit__(self, *error: Any) -> None:
        """Lets go of what it holds."""

    def asked(self) -> dict[str, Any]:
        """How it is asked, as plain JSON values."""

    def check(self) -> None:
        """Nothing, where it is fit for use: a server answers, a model is loaded. Errors: ModelError."""

    def key(self, item: Item, repeat: int = 0) -> str:
        """What stands for all that the scores of `item` depend on. Errors: DataError for its images."""

    def kept(self, item: Item, key: str) -> Judgement | None:
        """The judgement of `item` under its `key` that costs nothing, None where there is none."""

    def as_scored(
        self, items: Sequence[Item], max_seconds: float | None = None, repeat: int = 0
    ) -> Iterator[tuple[int, Judgement]]:
        """The place and the judgement of each of `items`, as they come; after `max_seconds` the rest comes unscored.

        `repeat` numbers askings of the same items that share no cache. Errors: ModelError; DataError.
        """

    def score(self, items: Sequence[Item], max_seconds: float | None = None, repeat: int = 0) -> list[Judgement]:
        """The judgement of each of `items`, in order. Errors: as `as_scored`."""


@dataclass(frozen=True)
class Spec:
    """A judge by name: its `kind`, its `model` (the name that a server gives it, a folder, a hub name), a server's `url`."""

    kind: str
    model: str = ""
    url: str | None = None

    def __str__(self) -> str:
        if self.kind == "openai":
            return f"openai:{self.url}#{self.model}"
        return f"{self.kind}:{self.model}" if self.model else self.kind


def parse_judge(spec: str) -> Spec:
    """The judge that `spec` names. Errors: RecipeError where it names none."""
    kind, _, model = spec.strip().partition(":")
    if kind not in KINDS:
        raise RecipeError(f"{unknown('kind of judge', kind, KINDS)} Write {SPECS}.")
    if kind == "openai":
        from osler.model.endpoint import parse_endpoint

        endpoint = parse_endpoint(spec.strip())
        return Spec(kind, endpoint.name, endpoint.url)
    model = model.strip()
    if bool(model) is (kind == "phantoms"):
        raise RecipeError(f"{spec!r} names no judge. Write {'phantoms, and nothing behind it' if model else f'{kind}:MODEL'}.")
    return Spec(kind, model)


def judge_of(spec: str, settings: "Settings | None" = None, cache: "ScoreCache | None" = None) -> Judging:
    """The judge that `spec` names, asked as `settings` say; its scores are kept in `cache`, by default the user's.

    No weights are loaded yet. Errors: RecipeError where `spec` names none, or one that cannot be asked so (images and a text
    model); ModelError where a model's folder, configuration, tokenizer or chat template is of no use.
    """
    parsed = parse_judge(spec)
    if parsed.kind == "openai":
        from osler.judging.client import Judge
        from osler.model.endpoint import Endpoint

        return Judge(Endpoint(parsed.url or "", parsed.model), settings, cache)
    if parsed.kind == "chat":
        from osler.judging.chat import ChatJudge

        return ChatJudge(parsed.model, settings, cache)
    if parsed.kind == "causal":
        from osler.judging.causal import CausalJudge

        return CausalJudge(parsed.model, settings, cache)
    from osler.judging.phantom_expert import PhantomExpert

    return PhantomExpert()


def same_judge(one: str, other: str) -> bool:
    """Whether two specs name the same judge: the same spec, or models of one name, whatever their server or kind.

    Names are compared in one case. `lab/seer` is `seer` and `/models/seer`, but not `clinic/seer`: an owner counts where both
    name one. Errors: RecipeError where a spec names no judge.
    """
    first, second = parse_judge(one), parse_judge(other)
    if first == second or not (first.model and second.model):
        return first == second
    return same_name(first.model, second.model)
