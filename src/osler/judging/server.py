"""A server that is asked many things at a time, in a `with` block: connected, checked, left alone while it fails.

Connection, key and further tries are those of `osler.model.endpoint`. Whatever the server does, no wait is without an end.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future, as_completed
from contextlib import ExitStack
from typing import Any, Self, TypeVar

from anyio.from_thread import BlockingPortal
from openai import AsyncOpenAI, OpenAIError

from osler.errors import ModelError
from osler.judging.breaker import Breaker
from osler.judging.names import answers_for
from osler.judging.served import Failed, Said, asked, failed, name_served, to_show
from osler.model.endpoint import RETRIES, TIMEOUT_S, Endpoint, closing, connected, failure
from osler.progress import console

T = TypeVar("T")
Request = Mapping[str, Any]

_TRIES_OF_A_CHECK = 2

_SECONDS_OF_A_CHECK = 60.0
"""How long one try of a check may take: a server may have to load its model first."""

_BETWEEN_TRIES_S = 10.0
"""The longest pause between two tries of a request, as the client makes them."""


class Server:
    """The server of `endpoint`: `concurrency` requests at a time, each with `retries` further tries of `timeout_s` each.

    What the `breaker` counts, and whether it is open, lasts as long as this.
    """

    def __init__(self, endpoint: Endpoint, timeout_s: float, retries: int, concurrency: int, breaker: Breaker) -> None:
        self.endpoint, self.timeout_s, self.retries, self.breaker = endpoint, timeout_s, retries, breaker
        self._free = asyncio.Semaphore(concurrency)
        self._answers_as: str | None = None
        self._stack = ExitStack()
        self._portal: BlockingPortal
        self._client: AsyncOpenAI

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            self._portal, client = connected(opening.enter_context(closing()), self.endpoint, self.timeout_s)
            self._client = client.with_options(max_retries=self.retries)
            self._stack = opening.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def check(self, with_images: bool, *probes: Request) -> int:
        """The place of the first of `probes` that the server takes, 0 where none is given; it serves the model to this key.

        Errors: ModelError where it does not serve the model (osler.judging.served), or takes none of the probes.
        """
        return self._portal.call(self._check_in_time, with_images, probes)

    def each(
        self, works: Mapping[str, Callable[[], Awaitable[T]]], is_failure: Callable[[T], bool], ends: float | None
    ) -> Iterator[tuple[str, T | Failed]]:
        """The key and the result of each of `works`, as they come; Failed where the server is down, or at the time `ends`.

        A work that raises ends all.
        """
        self.breaker.rearm()
        tasks = {self._portal.start_task_soon(self._in_turn, work, is_failure): key for key, work in works.items()}
        try:
            for task in _until(tasks, ends):
                yield tasks.pop(task), task.result()
            late = {task: key for task, key in tasks.items() if task.cancel()}
            yield from ((key, Failed("deadline") if task in late else task.result()) for task, key in tasks.items())
        finally:
            for task in tasks:
                task.cancel()

    @property
    def answers_as(self) -> str | None:
        """The name that the server gave itself when it was checked; None before, and where it gave none."""
        return to_show(self._answers_as) if self._answers_as else None

    async def ask(self, request: Request) -> Said | Failed:
        """The reply to `request`, or why there is none: `another` where it is neither by the name asked for nor as checked."""
        try:
            async with asyncio.timeout(self.longest_s):  # the client bounds each part of an answer, and not the whole
                said = await asked(self.endpoint, self._client, request)
        except TimeoutError:
            return Failed("failed", "timeout")
        except OpenAIError as error:
            return failed(error)
        except ModelError:
            return Failed("garbage")
        return said if self._is_its(said.model) else Failed("another")

    @property
    def longest_s(self) -> float:
        """The seconds after which a request, with all its further tries, is given up."""
        return (self.retries + 1) * self.timeout_s + self.retries * _BETWEEN_TRIES_S

    def _is_its(self, said: str | None) -> bool:
        return said in (None, self._answers_as) or answers_for(self.endpoint.name, str(said))

    async def _in_turn(self, work: Callable[[], Awaitable[T]], is_failure: Callable[[T], bool]) -> T | Failed:
        async with self._free:
            found = await self.breaker.run(work, is_failure)
        return Failed("down") if found is None else found

    async def _check_in_time(self, with_images: bool, probes: tuple[Request, ...]) -> int:
        quick = min(_SECONDS_OF_A_CHECK, self.timeout_s)
        longest = (2 + len(probes)) * ((_TRIES_OF_A_CHECK + 1) * quick + _TRIES_OF_A_CHECK * _BETWEEN_TRIES_S)
        patient = self._client.with_options(max_retries=_TRIES_OF_A_CHECK, timeout=quick)
        try:
            async with asyncio.timeout(longest):
                return await self._check(patient, with_images, probes)
        except TimeoutError:
            what = f"short questions were not answered in {longest:g} seconds"
            raise ModelError(f"{self.endpoint}: {what}. See whether the server hangs.") from None

    async def _check(self, patient: AsyncOpenAI, with_images: bool, probes: tuple[Request, ...]) -> int:
        served = await name_served(self.endpoint, patient, with_images)
        self._answers_as = served.name
        if not served.known:
            what = f"{self.endpoint.name} was asked for, and the server answers as {self.answers_as!r}"
            tell(self.endpoint, f"{what}: taken as its name. See whether that model is meant.")
        for place, probe in enumerate(probes):
            try:
                await asked(self.endpoint, patient, probe)
            except OpenAIError as error:
                if failed(error).reason != "refused" or place == len(probes) - 1:
                    raise failure(self.endpoint, error, patient.max_retries) from None  # its request holds the key
            else:
                return place
        return 0


def check_endpoint(endpoint: Endpoint, with_images: bool = True) -> None:
    """Nothing, where the server serves the model and answers one token, to an image where `with_images`.

    Errors: ModelError that names URL and model, and the models that are listed where this one is not served.
    """
    with Server(endpoint, TIMEOUT_S, RETRIES, 1, Breaker()) as server:
        server.check(with_images)


def tell(endpoint: Endpoint, text: str) -> None:
    """Say `text` of `endpoint` to whoever watches."""
    console.print(f"{endpoint}: {text}", markup=False, highlight=False, soft_wrap=True)


def _until(tasks: Mapping["Future[Any]", str], ends: float | None) -> Iterator["Future[Any]"]:
    """The tasks as they are done, until the time `ends`."""
    left = None if ends is None else max(0.0, ends - time.monotonic())
    try:
        yield from as_completed(list(tasks), left)
    except TimeoutError:
        return
