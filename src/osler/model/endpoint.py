"""A model behind an OpenAI-compatible server (vLLM, SGLang, llama.cpp, a hosted one), written `openai:URL#NAME`.

Nothing but the URL that the user wrote is contacted: proxies that the environment names and redirects are not followed.
Images are opened here, by `osler.images`, and sent as PNG of their pixels alone, with no path, no EXIF and no file name.
The key is read from OPENAI_API_KEY, and stands in no file, log or message.
"""

import asyncio
import atexit
import math
import os
from base64 import b64encode
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from anyio.from_thread import BlockingPortal, start_blocking_portal
from openai import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    DefaultAsyncHttpxClient,
    OpenAIError,
    Timeout,
)
from PIL import Image
from pydantic import HttpUrl, TypeAdapter, ValidationError

from osler.errors import ModelError, RecipeError
from osler.images import open_image
from osler.schema import Completion

ENDPOINT = "openai:"
"""How the spec of an endpoint begins."""

KEY = "OPENAI_API_KEY"
"""The variable of the environment that holds the key; a server that asks for none needs none."""

CONCURRENCY = 8
"""Requests that are under way at the same time."""

LOOK_AHEAD = 4
"""Prompts read ahead for each request under way, so that one slow answer does not leave the others idle."""

RETRIES = 6
"""Further tries after 408, 409, 429, 5xx, a dropped connection or a timeout: about 20 s, or as long as Retry-After says."""

CONNECT_S = 10.0
"""Seconds in which a connection must be made, at most."""

TIMEOUT_S = 300.0
"""Seconds without a byte of the answer until a request counts as lost: a 72B model that is asked much may take minutes."""

EXAMPLE = f"{ENDPOINT}http://localhost:8000/v1#Qwen/Qwen2-VL-72B-Instruct"

_HTTP_URL = TypeAdapter(HttpUrl)


@dataclass(frozen=True)
class Endpoint:
    """The server's `url`, without a slash at its end, and the `name` by which it serves the model."""

    url: str
    name: str

    def __str__(self) -> str:
        return f"{self.name} at {self.url}"


def parse_endpoint(spec: str) -> Endpoint:
    """The endpoint that `openai:URL#NAME` names; NAME is all that follows the first `#`.

    Errors: RecipeError where there is no http(s) URL or no name, or the URL holds a password or a query: a spec is written
    into manifests, and a key must not be.
    """
    url, _, name = spec.removeprefix(ENDPOINT).partition("#")
    url, name = url.strip(), name.strip()
    if "@" in url or "?" in url:
        raise RecipeError(f"the URL of an endpoint holds a user, password or query. Put the key into {KEY}; write {EXAMPLE}.")
    if not (spec.startswith(ENDPOINT) and name and _is_url(url)):
        raise RecipeError(f"{spec!r} names no endpoint. Write {ENDPOINT}URL#NAME, as in {EXAMPLE}.")
    return Endpoint(url.rstrip("/"), name)


def _is_url(text: str) -> bool:
    try:
        _HTTP_URL.validate_python(text)  # it knows what a host is, but forgives blanks and a host that is missing
    except ValidationError:
        return False
    return text.isprintable() and " " not in text and bool(urlsplit(text).hostname)


def answers(
    endpoint: Endpoint,
    prompts: Iterable[tuple[str, Sequence[str]]],
    max_tokens: int,
    concurrency: int = CONCURRENCY,
    timeout_s: float = TIMEOUT_S,
    max_pixels: int | None = None,
) -> Iterator[Completion]:
    """One completion at temperature 0 a prompt, in the order of `prompts`: pairs of text and image references.

    Prompts are read as they are needed, at most `LOOK_AHEAD * concurrency` of them ahead. Images of more than `max_pixels`
    are scaled down to it, as a local model's are; None: sent as large as they are. `tokens` are those that the server counts,
    None where it counts none.
    Errors: DataError where an image cannot be opened; ModelError where the server refuses a request, answers with what is no
    completion, or still fails after `RETRIES` further tries.
    """
    if concurrency < 1:
        raise RecipeError(f"concurrency is {concurrency}. At least one request must be under way.")
    with closing() as stack:
        portal, client = connected(stack, endpoint, timeout_s)
        asker = _Asker(endpoint, client, max_tokens, max_pixels, asyncio.Semaphore(concurrency))
        tasks = (portal.start_task_soon(asker.ask, *prompt) for prompt in prompts)
        waiting: deque[Future[Completion]] = deque()
        stack.callback(_cancel, waiting)
        waiting.extend(islice(tasks, LOOK_AHEAD * concurrency))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(islice(tasks, 1))


@dataclass(frozen=True)
class _Asker:
    """Asks an endpoint; no more requests at a time than `free` lets through."""

    endpoint: Endpoint
    client: AsyncOpenAI
    max_tokens: int
    max_pixels: int | None
    free: asyncio.Semaphore

    async def ask(self, text: str, references: Sequence[str]) -> Completion:
        async with self.free:
            urls = [await asyncio.to_thread(opened_url, one, self.max_pixels) for one in references]
            return await _ask(self.endpoint, self.client, text, urls, self.max_tokens)


def connected(stack: ExitStack, endpoint: Endpoint, timeout_s: float) -> tuple[BlockingPortal, AsyncOpenAI]:
    """An event loop in a thread of its own (a notebook runs one already in its thread), and a client to use in it."""
    client = AsyncOpenAI(
        api_key=api_key() or "none",
        base_url=endpoint.url,
        max_retries=RETRIES,
        timeout=Timeout(timeout_s, connect=min(timeout_s, CONNECT_S)),
        http_client=DefaultAsyncHttpxClient(trust_env=False, follow_redirects=False),
    )
    portal = stack.enter_context(start_blocking_portal())
    return portal, stack.enter_context(portal.wrap_async_context_manager(client))


@contextmanager
def closing() -> Iterator[ExitStack]:
    """A stack that is closed after the block, or else before Python ends.

    Ctrl-C leaves a generator where it is, to be closed when all other threads are gone: it would wait for the loop forever.
    """
    with ExitStack() as stack:
        atexit.register(stack.close)
        stack.callback(atexit.unregister, stack.close)
        yield stack


def _cancel(tasks: Iterable[Future[Completion]]) -> None:
    for task in tasks:
        task.cancel()


def api_key() -> str:
    """The key, or nothing. Errors: ModelError for one that no header can carry; the client's own would quote it."""
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ModelError(f"{KEY} holds characters that no key has (a line break, an accent). Set it again.")
    return key


async def _ask(endpoint: Endpoint, client: AsyncOpenAI, text: str, urls: Sequence[str], max_tokens: int) -> Completion:
    """The completion of `text` behind the images at the data `urls`. Errors: ModelError."""
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    message: Any = {"role": "user", "content": [*images, {"type": "text", "text": text}]}
    try:
        reply = await client.chat.completions.create(
            model=endpoint.name, messages=[message], max_tokens=max_tokens, temperature=0
        )
    except OpenAIError as error:
        raise failure(endpoint, error, client.max_retries, text) from None  # its request holds the key
    except (ValueError, RecursionError) as error:  # no JSON, no Unicode, an endless number, brackets without end
        raise no_completion(endpoint, getattr(error, "doc", type(error).__name__)) from None
    return completion(endpoint, reply)


def completion(endpoint: Endpoint, reply: Any) -> Completion:
    """What `reply` says; the client does not check what it reads. Errors: ModelError where it is no chat completion."""
    try:
        choice = reply.choices[0]
        content = choice.message.content
        truncated = choice.finish_reason == "length"
        tokens = getattr(reply.usage, "completion_tokens", None)
    except (AttributeError, IndexError, KeyError, TypeError):
        raise no_completion(endpoint, reply) from None
    if not isinstance(content, str | None):
        raise no_completion(endpoint, content)
    counted: Any = tokens if isinstance(tokens, int) else None
    return Completion(content or "", counted, truncated)


def opened_url(reference: str, max_pixels: int | None) -> str:
    """The data URL of the image that `reference` names. Errors: DataError."""
    image = open_image(reference)
    scale = math.sqrt(max_pixels / (image.width * image.height)) if max_pixels else 1.0
    if scale < 1:
        size = max(1, math.floor(image.width * scale)), max(1, math.floor(image.height * scale))
        image = image.resize(size, Image.Resampling.BICUBIC)
    return _data_url(image)


def _data_url(image: Image.Image) -> str:
    """`image` as a data URL: a PNG of its pixels, without what else its file said."""
    pixels, file = Image.frombytes(image.mode, image.size, image.tobytes()), BytesIO()
    pixels.save(file, "PNG")
    return "data:image/png;base64," + b64encode(file.getvalue()).decode()


def failure(endpoint: Endpoint, error: OpenAIError, retries: int, text: str | None = None) -> ModelError:
    """`error` in one sentence that names URL and model, and what to do; never the key."""
    at = f", asked {text[:60]!r}" if text else ""
    return ModelError(f"{endpoint}{at}: {_wrong(error, f'after {retries + 1} tries')}")


def _wrong(error: OpenAIError, tries: str) -> str:
    """What is wrong, and what to do about it."""
    if isinstance(error, APITimeoutError):
        return f"no answer came in time, {tries}. See whether the server hangs, or ask for fewer tokens."
    if isinstance(error, APIConnectionError):
        said = _quoted(error.__cause__ or error)
        return f"the server cannot be reached {tries} ({said}). Start it, or correct the URL; proxies are not used."
    if not isinstance(error, APIStatusError):
        return f"the answer cannot be read ({_quoted(error)}). See the server's log."
    status = f"HTTP {error.status_code}"
    if error.status_code in (401, 403):
        return f"{status}, {KEY} {'is refused' if api_key() else 'is not set'}. Set it to a key of this server."
    said = _quoted(error.body.get("message", error.body) if isinstance(error.body, dict) else error.message)
    if error.status_code == 429 or error.status_code >= 500:
        again = "then run the same command again (osler eval: with --resume)"
        return f"{status} {tries} ({said}). Wait, or see the server's log; {again}."
    if error.status_code == 404:
        return f"{status} ({said}). Correct the name, or the URL, which mostly ends with /v1."
    return f"{status} ({said}). The request is of no use to this server as it is; see what it asks for."


def no_completion(endpoint: Endpoint, reply: object) -> ModelError:
    """The error that says what came instead of a completion."""
    do = "Correct the URL, which mostly ends with /v1, or see the server's log."
    return ModelError(f"{endpoint}: the answer is no chat completion ({_quoted(reply)!r}). {do}")


def _quoted(said: object) -> str:
    """The beginning of what was `said`, on one line, without the key."""
    text, key = " ".join(str(said).split()), api_key()
    return (text.replace(key, "...") if key else text)[:200] or type(said).__name__
