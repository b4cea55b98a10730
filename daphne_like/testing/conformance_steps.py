"""The steps that checks of a layer are made of."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from .conformance_runner import Suite

__all__ = ["Steps"]

# Marks the end of what a check looks at; no check sends it otherwise.
_END = "end of check"


class Steps(Suite):
    """Messages of a check have a `number`, which may be anything."""

    async def send(self, layer: Any, channel: str, number: Any) -> None:
        """Send, within patience."""
        message = {"type": "check", "number": number}
        await self.within_patience(layer.send(channel, message), f"send({channel!r})")

    async def send_group(self, layer: Any, group: str, number: Any) -> None:
        """Send to a group, within patience."""
        message = {"type": "check", "number": number}
        await self.within_patience(layer.group_send(group, message), f"group_send({group!r})")

    async def receive(self, layer: Any, channel: str) -> Any:
        """The `number` of the next message."""
        return (await self.receive_message(layer, channel))["number"]

    async def receive_message(self, layer: Any, channel: str) -> Any:
        """The next message, within patience."""
        return await self.within_patience(layer.receive(channel), f"a message on {channel!r}")

    async def receive_until(self, layer: Any, channel: str, count: int) -> list[Any]:
        """So many messages; for a task, so without patience."""
        return [(await layer.receive(channel))["number"] for _ in range(count)]

    async def receive_until_end(self, layer: Any, channel: str) -> list[Any]:
        """All that is there: a message is sent behind it, and what comes before that is it."""
        await self.send(layer, channel, _END)
        found = []
        while (number := await self.receive(layer, channel)) != _END:
            found.append(number)
        return found

    async def end(self, *tasks: "asyncio.Future[Any]") -> list[Any]:
        """Cancel tasks that receive; gives the `number` of what they got all the same."""
        for task in tasks:
            task.cancel()
        got = await asyncio.gather(*tasks, return_exceptions=True)
        return [message["number"] for message in got if isinstance(message, dict)]

    async def refuses(
        self,
        call: Awaitable[Any],
        error: type[Exception] | tuple[type[Exception], ...],
        what: str,
    ) -> None:
        """*call* raises *error*, at once."""
        try:
            await self.within_patience(call, what)
        except AssertionError as found:
            if error is not Exception or "not within" in str(found):
                raise
        except error:
            return
        else:
            raise AssertionError(f"{what} was not refused")

    async def settle(self, layer: Any) -> None:
        """
        Let the layer tell whoever counts what has been received; nothing to do where that is the same place.

        Layers that count elsewhere say so at the end of a turn or so: a round trip is behind it.
        """
        channel = await layer.new_channel("settle")
        await layer.group_add("settle", channel)
        await layer.group_discard("settle", channel)
