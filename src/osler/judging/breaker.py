"""A circuit breaker: after several failures in a row a server is left alone for a while, then asked once."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


class Breaker:
    """Lets requests through while a server answers.

    `limit` failures in a row open it: nothing is asked for `wait_s` seconds, then one request alone is let through. If that
    succeeds all go on; after `probes` of them that failed one after the other it lets nothing through until `rearm`.
    `say` is told of each change. It belongs to one event loop.
    """

    def __init__(
        self, limit: int = 5, wait_s: float = 20.0, probes: int = 2, say: Callable[[str], None] = lambda text: None
    ) -> None:
        self.limit, self.wait_s, self.probes, self.say = limit, wait_s, probes, say
        self._failures = self._probed = 0
        self._wait_until = 0.0
        self._one = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        """Whether the server is left alone now."""
        return self._failures >= self.limit

    def rearm(self) -> None:
        """Allow as many probes again; what is left of the wait stays."""
        self._probed = 0

    async def run(self, ask: Callable[[], Awaitable[T]], failed: Callable[[T], bool]) -> T | None:
        """What `ask` gives; None where it was not called, as the server is down. `failed` tells a failure by its result."""
        if self.is_open:
            async with self._one:
                if self.is_open and self._probed < self.probes:
                    await asyncio.sleep(self._wait_until - time.monotonic())
                    return await self._probe(ask, failed)
            if self.is_open:
                return None
        result = await ask()
        self._count(failed(result))
        return result

    async def _probe(self, ask: Callable[[], Awaitable[T]], failed: Callable[[T], bool]) -> T:
        self._probed += 1
        result = await ask()
        if failed(result):
            self._wait_until = time.monotonic() + self.wait_s
            last = self._probed >= self.probes
            self.say("It still fails. " + ("The rest is not asked." if last else f"Asked again in {self.wait_s:g} s."))
        else:
            self._close()
        return result

    def _count(self, failure: bool) -> None:
        was_open = self.is_open
        if not failure:
            self._close()
            return
        self._failures += 1
        if self.is_open and not was_open:
            self._wait_until = time.monotonic() + self.wait_s
            self.say(f"{self._failures} failures in a row: it is left alone, and asked once in {self.wait_s:g} s.")

    def _close(self) -> None:
        if self.is_open:
            self.say("It answers again.")
        self._failures = self._probed = 0
