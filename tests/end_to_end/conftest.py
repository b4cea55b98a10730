"""What tests of served sites share: where the application runs."""

import pytest

__all__ = ["workers"]


@pytest.fixture(scope="module", params=[(), ("--workers", "1")], ids=["embedded", "relayed"], name="workers")
def workers(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """
    Words of the command line: each test that asks for them runs in the server, and relayed to a worker over ipc.

    One worker, where the sites note in their own memory what has happened to them.
    """
    words: tuple[str, ...] = request.param
    return words
