"""Lifespan: which applications have one, and what keeps a server from starting."""

import asyncio

import pytest

from daphne_like.asgi.lifespan import Lifespan
from daphne_like.errors import StartupFailed, UnexpectedMessage
from tests.asgi.conversation import sentences


async def obedient(scope, receive, send):
    """Does what the specification's example does."""
    while True:
        said = await receive()
        await send({"type": said["type"] + ".complete"})
        if said["type"] == "lifespan.shutdown":
            return


async def raising(scope, receive, send):
    """Django and Channels: they know no such scope."""
    raise ValueError("no application for scope type 'lifespan'")


async def returning(scope, receive, send):
    """An application that looks for scopes that it knows, and finds none."""


def failing(when, text=None):
    async def application(scope, receive, send):
        while True:
            said = await receive()
            if said["type"] == f"lifespan.{when}":
                more = {} if text is None else {"message": text}
                await send({"type": f"lifespan.{when}.failed", **more})
                return
            await send({"type": said["type"] + ".complete"})

    return application


def lifespan(application, mode="auto", startup_timeout=60.0, shutdown_timeout=60.0):
    return Lifespan(application, mode, startup_timeout, shutdown_timeout)


async def test_scope_and_order():
    heard = []

    async def application(scope, receive, send):
        heard.append({**scope, "state": dict(scope["state"])})
        scope["state"]["pool"] = "here"
        heard.append(await receive())
        await send({"type": "lifespan.startup.complete"})
        heard.append(await receive())
        await send({"type": "lifespan.shutdown.complete"})

    life = lifespan(application)
    await life.startup()
    assert heard == [
        {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}},
        {"type": "lifespan.startup"},
    ]
    assert life.state == {"pool": "here"}
    await life.shutdown()
    assert heard[2:] == [{"type": "lifespan.shutdown"}]


@pytest.mark.parametrize("application", [raising, returning])
async def test_auto_goes_on_without(application, caplog):
    """Also where an exception is not logged as one: Django does this at every start."""
    life = lifespan(application)
    await life.startup()
    assert life.state is None
    await life.shutdown()
    assert sentences(caplog) == []


async def test_on_insists():
    with pytest.raises(StartupFailed) as raised:
        await lifespan(raising, "on").startup()
    assert str(raised.value) == "lifespan startup raised (--lifespan on)"
    assert isinstance(raised.value.__cause__, ValueError)


async def test_on_insists_when_the_application_returns():
    with pytest.raises(StartupFailed):
        await lifespan(returning, "on").startup()


async def test_off_asks_nothing():
    async def application(scope, receive, send):
        raise AssertionError("called")

    life = lifespan(application, "off")
    await life.startup()
    assert life.state is None
    await life.shutdown()


@pytest.mark.parametrize("mode", ["auto", "on"])
@pytest.mark.parametrize("text", [None, "no database"])
async def test_startup_failed_ends_the_start(mode, text):
    with pytest.raises(StartupFailed) as raised:
        await lifespan(failing("startup", text), mode).startup()
    assert str(raised.value) == f"lifespan startup failed: {text or ''}"


async def test_startup_that_takes_too_long():
    ended = asyncio.Event()

    async def application(scope, receive, send):
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(StartupFailed, match=r"longer than 0\.05 s"):
        await lifespan(application, startup_timeout=0.05).startup()
    await ended.wait()


async def test_application_that_waits_on_after_it_said_failed_is_not_left_behind():
    """conftest looks for tasks that are left."""

    async def application(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed"})
        await receive()

    with pytest.raises(StartupFailed):
        await lifespan(application).startup()


@pytest.mark.parametrize("at_once", [True, False])
async def test_exception_between_startup_and_shutdown_is_logged(caplog, at_once):
    async def application(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        if not at_once:
            await go_on.wait()
        raise ValueError("boom")

    go_on = asyncio.Event()
    life = lifespan(application)
    await life.startup()
    go_on.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await life.shutdown()
    assert sentences(caplog) == ["application failed in its lifespan"]
    assert caplog.records[0].exc_info[0] is ValueError


async def test_exception_in_shutdown_is_logged_and_over(caplog):
    async def application(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        raise ValueError("boom")

    life = lifespan(application)
    await life.startup()
    await life.shutdown()
    assert sentences(caplog) == ["application failed in lifespan shutdown"]
    assert caplog.records[0].exc_info[0] is ValueError


async def test_shutdown_failed_is_logged_and_over(caplog):
    life = lifespan(failing("shutdown", "still busy"))
    await life.startup()
    await life.shutdown()
    assert sentences(caplog) == ["lifespan shutdown failed"]
    assert caplog.records[0].reason == "still busy"


async def test_shutdown_that_takes_too_long(caplog):
    cancelled = asyncio.Event()

    async def application(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    life = lifespan(application, shutdown_timeout=0.05)
    await life.startup()
    await life.shutdown()
    await cancelled.wait()
    assert sentences(caplog) == ["lifespan shutdown took too long"]


async def test_timeouts_of_0_are_none():
    life = lifespan(obedient, startup_timeout=0, shutdown_timeout=0)
    await life.startup()
    assert life.state == {}
    await life.shutdown()


@pytest.mark.parametrize(
    "kind", ["lifespan.shutdown.complete", "http.response.start", "lifespan.startup.done"]
)
async def test_wrong_answers_are_the_applications_error(kind):
    refused = []

    async def application(scope, receive, send):
        await receive()
        try:
            await send({"type": kind})
        except UnexpectedMessage as error:
            refused.append(str(error))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    life = lifespan(application)
    await life.startup()
    assert refused == [f"{kind} in lifespan"]
    await life.shutdown()


async def test_second_answer_is_the_applications_error():
    refused = []

    async def application(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        try:
            await send({"type": "lifespan.startup.complete"})
        except UnexpectedMessage as error:
            refused.append(str(error))
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    life = lifespan(application)
    await life.startup()
    await life.shutdown()
    assert refused == ["lifespan.startup.complete in lifespan"]
