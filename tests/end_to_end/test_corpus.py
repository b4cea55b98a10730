"""
The HTTP/1.1 corpus against the server as it is run: a process of its own, sockets, default settings.

Once with the application inside, and once relayed to a worker: nobody can tell. One server takes every case,
sixteen at a time, so it has to outlive them all. What the same octets do however they are cut is asked in
memory: tests/net/test_corpus.py.
"""

import asyncio
from collections.abc import Iterator

import pytest

from tests.corpus import Case, load
from tests.corpus.client import play, run
from tests.corpus.judge import judge
from tests.corpus.server import serving

SERVER = "{python} -m daphne_like -b 127.0.0.1 -p {port} {app}"
CASES = load()
PLAIN = next(case for case in CASES if case.id == "simple")


@pytest.fixture(scope="module")
def address(workers: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    with serving(" ".join((SERVER, *workers))) as address:
        yield address


@pytest.fixture(scope="module")
def complaints(address: tuple[str, int]) -> dict[str, list[str]]:
    return asyncio.run(run(CASES, address, concurrency=16))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.topic}/{case.id}")
def test_verdict(case: Case, complaints: dict[str, list[str]]) -> None:
    assert complaints[case.id] == [], f"{case.level}, {case.source}. {case.note}"


def test_server_still_serves(address: tuple[str, int], complaints: dict[str, list[str]]) -> None:
    """After all that was refused, plain traffic works as before."""
    assert complaints
    assert judge(PLAIN, asyncio.run(play(PLAIN, address))) == []
