"""
Startup and shutdown of an ASGI application (lifespan spec 2.0).

In mode "auto" an exception on the lifespan scope before startup is complete means that the application has no
lifespan: Django and Channels raise there, and the server goes on without. Only `lifespan.startup.failed`, or
any failure in mode "on", keeps the server from starting.
"""

import asyncio
import logging
from typing import Any, Literal

from daphne_like import logs
from daphne_like.asgi.messages import message_type
from daphne_like.errors import StartupFailed, UnexpectedMessage
from daphne_like.typing import ASGIApplication, Message, Scope

__all__ = ["Lifespan"]

log = logging.getLogger(logs.SERVER)

# For an application to return after its last answer, and again to end when cancelled.
END_TIME = 0.5


class Lifespan:
    """
    Args:
        application: ASGI 3.
        mode: "auto", "on" or "off".
        startup_timeout, shutdown_timeout: seconds; 0 for no limit.

    Attributes:
        state: what the application has put there for its requests; None where it has no lifespan.
    """

    def __init__(
        self,
        application: ASGIApplication,
        mode: Literal["auto", "on", "off"],
        startup_timeout: float,
        shutdown_timeout: float,
    ) -> None:
        self._application = application
        self._mode = mode
        self._startup_timeout = startup_timeout
        self._shutdown_timeout = shutdown_timeout
        self._inbox: asyncio.Queue[Message] = asyncio.Queue(2)  # startup, shutdown: all there ever is
        self._answer: asyncio.Future[Message] | None = None
        self._task: asyncio.Task[None] | None = None
        self._asked = ""
        self._error: BaseException | None = None
        self.state: dict[str, Any] | None = None

    async def startup(self) -> None:
        """
        Send lifespan.startup and wait for the answer.

        Raises:
            StartupFailed: the application said so, or raised in mode "on", or took too long.
        """
        if self._mode == "off":
            return
        state: dict[str, Any] = {}
        scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}
        self._task = asyncio.get_running_loop().create_task(self._run(scope))
        try:
            answer = await self._ask("lifespan.startup", self._startup_timeout)
            if answer is None:
                if self._mode == "on":
                    raise StartupFailed("lifespan startup raised (--lifespan on)") from self._error
                log.debug("application has no lifespan", extra={"reason": repr(self._error)})
            elif answer["type"] == "lifespan.startup.failed":
                raise StartupFailed(f"lifespan startup failed: {answer.get('message', '')}")
            else:
                self.state = state
        except TimeoutError:
            raise StartupFailed(
                f"lifespan startup took longer than {self._startup_timeout} s (--startup-timeout)"
            ) from None
        finally:
            if self.state is None:
                await self._end()

    async def shutdown(self) -> None:
        """Send lifespan.shutdown and wait for the answer; what goes wrong is logged, and over."""
        if self.state is None or self._task is None or self._task.done():
            return
        try:
            answer = await self._ask("lifespan.shutdown", self._shutdown_timeout)
            if answer is None and self._error is not None:
                log.error("application failed in lifespan shutdown", exc_info=self._error)
            elif answer is not None and answer["type"] == "lifespan.shutdown.failed":
                log.error("lifespan shutdown failed", extra={"reason": answer.get("message", "")})
        except TimeoutError:
            log.error("lifespan shutdown took too long", extra={"limit": self._shutdown_timeout})
        finally:
            await self._end()

    async def _end(self) -> None:
        """Leave no task behind: an application may go on waiting after it has answered."""
        if self._task is not None and not self._task.done():
            await asyncio.wait((self._task,), timeout=END_TIME)
            if not self._task.done():
                self._task.cancel()
                await asyncio.wait((self._task,), timeout=END_TIME)

    async def _ask(self, kind: str, timeout: float) -> Message | None:
        """Return the answer to *kind*; None when the application ended instead."""
        assert self._task is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._asked = kind
        self._inbox.put_nowait({"type": kind})
        await asyncio.wait(
            (self._answer, self._task), timeout=timeout or None, return_when=asyncio.FIRST_COMPLETED
        )
        if self._answer.done():
            return self._answer.result()
        if self._task.done():
            return None
        raise TimeoutError

    async def _run(self, scope: Scope) -> None:
        try:
            await self._application(scope, self._inbox.get, self._send)
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self._error = error
            if self._answer is not None and self._answer.done():
                log.error("application failed in its lifespan", exc_info=error)

    async def _send(self, message: Message) -> None:
        kind = message_type(message)
        answer = self._answer
        if (
            answer is None
            or answer.done()
            or kind not in (f"{self._asked}.complete", f"{self._asked}.failed")
        ):
            raise UnexpectedMessage("lifespan", kind)
        answer.set_result(message)
