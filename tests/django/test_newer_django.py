"""
What later Djangos than the one that is installed have changed below the handler.

`scripts/conformance django` runs Django's own tests of the newest that a Python can have; these are for those
that it cannot.
"""

from typing import Any

import pytest

pytest.importorskip("django")

from django.core import signals

from daphne_like.django import receivers
from daphne_like.django.handler import _path_info
from tests.django import handler_site  # noqa: F401  # has settings, which the handler looks at


@pytest.mark.parametrize("members", [2, 3, 4, 5])
def test_entries_of_a_signal_may_have_any_number_of_members(members: int) -> None:
    """(ids of receiver and sender, receiver, is_async) in 5.2; from 6.0 on the sender, too."""

    def entries(found: Any) -> list[Any]:
        return [((*each, *(None,) * members))[:members] for each in found]

    plain = [each[:1] for each in signals.request_started.receivers]
    assert receivers._are(entries(plain), receivers._STARTED) is receivers.started_is_plain() is True
    assert not receivers._are(entries(plain[:1]), receivers._STARTED)


@pytest.mark.parametrize(
    ("root_path", "path", "hint"),
    [
        ("", "/app/page", "/app/page"),
        ("/app", "/app/page", "/page"),
        ("/app", "/app", ""),
        ("/app/", "/app/page", "/page"),
        ("/app", "/application/page", "/application/page"),
    ],
)
def test_a_prefix_ends_where_a_segment_does(root_path: str, path: str, hint: str) -> None:
    """As ASGIRequest.path_info has it from Django 6.1 on."""
    assert _path_info({"type": "http", "path": path, "root_path": root_path}) == hint
