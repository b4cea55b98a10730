"""The conformance suite over ipc: as the process that hosts the hub, and as one that has joined it."""

import os
import tempfile

from daphne_like.layers.ipc import IPCChannelLayer
from daphne_like.testing.layer_conformance import LayerConformance
from tests.conftest import NEW_LOOP
from tests.layers.hub_members import Clock


class Ipc(LayerConformance):
    """Which of the two is under test is the subclass'; the others are members."""

    loop_factory = staticmethod(NEW_LOOP)
    as_host = True
    on_this_loop = True

    async def open_layer(self, **options):
        self.clock = Clock()
        self.folder = tempfile.TemporaryDirectory()
        self.options = {"path": os.path.join(self.folder.name, "s"), "clock": self.clock, **options}
        self.host = IPCChannelLayer(**self.options)
        assert await self.host.serve()
        self.tested = self.host if self.as_host else await self.join()
        self.delivered = 0
        end = self.tested._mailbox if self.as_host else self.tested._link.user
        deliver_group = end.deliver_group

        def count(*args):
            self.delivered += 1
            deliver_group(*args)

        end.deliver_group = count
        return self.tested

    async def join(self):
        member = IPCChannelLayer(**self.options)
        if self.on_this_loop:
            await member.open()
        return member

    async def open_peer(self, layer):
        return await self.join()

    async def close_layer(self, layer):
        await layer.close()
        if layer is self.tested:
            await self.host.close()
            self.folder.cleanup()

    async def pass_time(self, layer, seconds):
        self.clock.now += seconds
        # What a timer does once a second.
        self.tested._mailbox.expire()

    def deliveries(self, layer):
        return self.delivered


class TestHost(Ipc):
    pass


class TestMember(Ipc):
    as_host = False


class TestMemberOnItsOwnThread(Ipc):
    """As in `manage.py shell`: nobody opens it, the first use joins."""

    as_host = False
    on_this_loop = False
    loop_factory = None
