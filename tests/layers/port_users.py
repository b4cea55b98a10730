"""Who uses a port in tests: writes down what it is told, and lets a test wait for it."""

import asyncio
import contextlib


class User:
    def __init__(self):
        self.told = []
        self._changed = asyncio.Event()

    def _note(self, *call):
        self.told.append(tuple(map(_with_lists, call)))
        self._changed.set()

    async def until(self, count):
        """The first *count* calls, waited for; they are taken."""
        async with asyncio.timeout(10):
            while len(self.told) < count:
                self._changed.clear()
                await self._changed.wait()
        taken, self.told = self.told[:count], self.told[count:]
        return taken

    def envelopes_received(self, sender, batch):
        self._note("envelopes", sender, batch)

    def offer_received(self, channel, sender, ref, opening):
        self._note("offer", channel, sender, ref, opening)

    def offer_claimed(self, ref, by):
        self._note("claimed", ref, by)

    def offer_refused(self, ref):
        self._note("refused", ref)

    def member_gone(self, address):
        self._note("gone", address)

    def port_stalled(self):
        self._note("stalled")

    def port_resumed(self):
        self._note("resumed")

    def port_lost(self):
        self._note("lost")

    def port_regained(self):
        self._note("regained")


def _with_lists(value):
    """What was a list and what a tuple, ports do not tell."""
    if isinstance(value, (list, tuple)):
        return [_with_lists(each) for each in value]
    if isinstance(value, dict):
        return {key: _with_lists(each) for key, each in value.items()}
    return value


@contextlib.asynccontextmanager
async def open_ports(layer, count=2):
    """Pairs of (port, user) on one layer."""
    pairs = [(layer.port(), User()) for _ in range(count)]
    for port, user in pairs:
        await port.open(user)
    try:
        yield pairs
    finally:
        for port, _ in pairs:
            await port.close()
