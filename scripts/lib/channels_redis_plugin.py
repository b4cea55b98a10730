"""
A pytest plugin that has channels_redis' own tests run against our layer: see channels_redis_suite.py.

`channels_redis.core` is replaced before their modules import it. They have their engine at localhost:6379 and
their sentinel at localhost:26379, and nowhere else; here each layer is given the suite's own in their place.
Their `xfail` marks are taken away: what fails in channels_redis need not fail in ours.

The environment says: SUITE_LAYER (ours, channels_redis), SUITE_ENGINE and SUITE_SENTINEL (ports), SUITE_OUTCOMES
(a file that gets one JSON line for each test).
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ENGINE, SENTINEL = os.environ["SUITE_ENGINE"], int(os.environ["SUITE_SENTINEL"])
DEFAULT_HOSTS = ["redis://localhost:6379"]

# Seconds for each of a test's phases. Their own configuration has 10 for a whole test.
TIME_LIMIT = 15


def moved(host: Any) -> Any:
    """A host as their tests write it, at the suite's engine."""
    if isinstance(host, str):
        return host.replace("localhost:6379", f"localhost:{ENGINE}")
    return {**host, "sentinels": [("localhost", SENTINEL) for _ in host["sentinels"]]}


def at_our_engine(kind: Any) -> Any:
    class RedisChannelLayer(kind):  # type: ignore[misc]
        def __init__(self, hosts: Any = None, **options: Any) -> None:
            super().__init__(hosts=[moved(host) for host in hosts or DEFAULT_HOSTS], **options)

    return RedisChannelLayer


def replace_core() -> None:
    core = importlib.import_module("channels_redis.core")
    if os.environ["SUITE_LAYER"] == "ours":
        # The same name, but nothing else of theirs.
        kind = importlib.import_module("daphne_like.layers.redis").RedisChannelLayer
        full = core.ChannelFull
        core = types.ModuleType("channels_redis.core")
        core.ChannelFull = full  # type: ignore[attr-defined]
    else:
        kind = core.RedisChannelLayer
    core.RedisChannelLayer = at_our_engine(kind)
    sys.modules["channels_redis.core"] = sys.modules["channels_redis"].core = core  # type: ignore[attr-defined]


replace_core()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.own_markers[:] = [mark for mark in item.own_markers if mark.name != "xfail"]


def limited() -> Iterator[None]:
    """What waits for ever is interrupted."""

    def interrupt(*_: object) -> None:
        raise TimeoutError(f"not done within {TIME_LIMIT} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(TIME_LIMIT)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    return (yield from limited())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    return (yield from limited())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    return (yield from limited())


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Each phase that says something: the call, and a set-up or an end that failed."""
    if report.when == "call" or report.outcome != "passed":
        crash = getattr(report.longrepr, "reprcrash", None)
        words = " ".join(str(crash.message if crash else report.longrepr or "").split())
        line = {"test": report.nodeid, "when": report.when, "outcome": report.outcome, "words": words[:300]}
        with Path(os.environ["SUITE_OUTCOMES"]).open("a") as file:
            file.write(json.dumps(line) + "\n")
