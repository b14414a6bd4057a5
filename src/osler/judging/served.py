"""Who answers behind an endpoint: replies read, whatever they are, and whether they are those of the model that was asked for.

A server's list of models need not name the one it serves: `transformers serve` lists what lies in the hub's cache, and loads a
folder when it is asked for one. Nor is it proof that a reply repeats the name: many servers repeat any. So a model that is not
in a server's list counts as served only where the reply names it with the revision that was loaded.

A model that is in the list, or whose server keeps none, may answer under a name of its own. What is asked for is often an alias
(a deployment at Azure, a route of LiteLLM or OpenRouter, the name of a preview), and the model behind it can be named nowhere
else: so another name in a reply is told, and kept with the scores, and is no reason to refuse. It is the name of that server
from then on, by which a model that is put in its place later is noticed (osler.judging.server).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from openai import APIStatusError, APITimeoutError, AsyncOpenAI, OpenAIError

from osler.errors import ModelError, unknown
from osler.images import PHANTOM, blank_of
from osler.judging.names import answers_for, resolved
from osler.model.endpoint import Endpoint, api_key, completion, failure, no_completion, opened_url
from osler.schema import Completion

OF_THE_REQUEST = (400, 413, 422)
"""The statuses by which a server refuses one request, and others not."""

_NO_LIST = (404, 405, 500, 501)
_GREY = blank_of(f"{PHANTOM}test/0/0")
_LONGEST_NAME = 200
_AZURE = (".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com")
"""Whose list is of what could be deployed; what is asked for is a deployment, and a name that is none gets HTTP 404."""

_MOST_TOKENS = 10**9


@dataclass(frozen=True)
class Said:
    """A reply: the completion, the tokens that the server read, None where it counts none, and the name it gives itself.

    `thought_only`: the model thought, by a field of its own, and said nothing.
    """

    completion: Completion
    tokens_in: int | None
    model: str | None
    thought_only: bool = False


@dataclass(frozen=True)
class Failed:
    """No reply, for a `reason` (osler.judging.replies); `detail` is the failure in our words: a server's may hold the key."""

    reason: str
    detail: str | None = None


def read_said(endpoint: Endpoint, reply: Any) -> Said:
    """What `reply`, as the client read it, says. Errors: ModelError where it is no chat completion."""
    try:
        said = completion(endpoint, reply)
        message = reply.choices[0].message
    except (KeyError, AttributeError) as error:
        raise no_completion(endpoint, reply) from error
    model = getattr(reply, "model", None)
    thought = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    return Said(
        replace(said, tokens=_count(said.tokens)),
        _count(getattr(reply.usage, "prompt_tokens", None)),
        model if isinstance(model, str) and model else None,
        bool(thought) and not said.text,
    )


async def asked(endpoint: Endpoint, client: AsyncOpenAI, request: Mapping[str, Any]) -> Said:
    """The reply to `request`. Errors: OpenAIError; ModelError where what came is no chat completion."""
    try:
        reply = await client.chat.completions.create(**request)
    except (ValueError, RecursionError) as error:  # no JSON, no Unicode, an endless number, brackets without end
        raise no_completion(endpoint, getattr(error, "doc", type(error).__name__)) from None
    return read_said(endpoint, reply)


def failed(error: OpenAIError) -> Failed:
    """Why there is no reply."""
    if isinstance(error, APIStatusError):
        return Failed("refused" if error.status_code in OF_THE_REQUEST else "failed", f"HTTP {error.status_code}")
    return Failed("failed", "timeout" if isinstance(error, APITimeoutError) else "connection")


@dataclass(frozen=True)
class Served:
    """By which `name` a server answers for the model, None where it gives none; `known` to be that model's, or an alias."""

    name: str | None
    known: bool


async def name_served(endpoint: Endpoint, client: AsyncOpenAI, with_images: bool) -> Served:
    """The name by which the server answers for the model, to an image where `with_images`.

    Errors: ModelError where it does not serve the model, or does not answer.
    """
    listed = await _listed(endpoint, client)
    unlisted = bool(listed) and not {endpoint.name, f"{endpoint.name}:latest"} & listed.keys()  # the latter as Ollama
    try:
        said = await asked(endpoint, client, _probe(endpoint, with_images))
    except OpenAIError as error:
        told = failure(endpoint, error, client.max_retries)
        raise (_unknown(endpoint, listed, error) if unlisted and _of_the_name(error) else told) from None  # it holds the key
    if unlisted and not resolved(endpoint.name, said.model or ""):
        raise _unknown(endpoint, listed)
    return Served(said.model, said.model is None or _is(endpoint, said.model, listed))


def to_show(name: str) -> str:
    """The name of a model that a server gave, in one line of bounded length, without the key."""
    return without_key(" ".join(name.split()))[:_LONGEST_NAME]


def without_key(text: str) -> str:
    """`text`, in which the key does not stand: a server may say whatever it was sent."""
    key = api_key()
    return text.replace(key, "...") if key else text


def _is(endpoint: Endpoint, said: str, listed: Mapping[str, str | None]) -> bool:
    """Whether `said` names the model of `endpoint`: so called, or in the list as a further name of the same files."""
    root = listed.get(endpoint.name)
    return answers_for(endpoint.name, said) or (root is not None and listed.get(said) == root)


def _of_the_name(error: OpenAIError) -> bool:
    """Whether `error` may come of the name: neither of the key nor of the way to the server."""
    return isinstance(error, APIStatusError) and error.status_code not in (401, 403, 429)


def _unknown(endpoint: Endpoint, listed: Mapping[str, str | None], error: OpenAIError | None = None) -> ModelError:
    status = f" Asked for it all the same, it gave HTTP {error.status_code}." if isinstance(error, APIStatusError) else ""
    return ModelError(f"{endpoint.url}: {unknown('model', endpoint.name, map(to_show, listed))}{status} "
                      "Name one that is listed.")  # fmt: skip


async def _listed(endpoint: Endpoint, client: AsyncOpenAI) -> dict[str, str | None]:
    """The models that the server lists, each with the files it is of where they are told; none where it keeps no list."""
    if (urlsplit(endpoint.url).hostname or "").endswith(_AZURE):
        return {}
    try:
        listed: Any = await client.models.list()
        return {str(model.id): _text(getattr(model, "root", None)) for model in listed.data}
    except APIStatusError as error:
        if error.status_code in _NO_LIST:
            return {}
        raise failure(endpoint, error, client.max_retries) from None
    except OpenAIError as error:
        raise failure(endpoint, error, client.max_retries) from None
    except (ValueError, RecursionError, AttributeError, TypeError):
        return {}


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _probe(endpoint: Endpoint, with_images: bool) -> dict[str, Any]:
    """A short question, and one grey image."""
    images = [{"type": "image_url", "image_url": {"url": opened_url(_GREY, None)}}] if with_images else []
    message = {"role": "user", "content": [*images, {"type": "text", "text": "Say yes."}]}
    return {"model": endpoint.name, "messages": [message], "max_tokens": 1, "temperature": 0}
