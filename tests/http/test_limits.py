"""Limits: a value that connections share, and so cannot change under them."""

import dataclasses

import pytest

from tests.http.wire import limits


def test_limits_cannot_be_changed():
    """One object serves every connection of a process."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        limits().max_head_size = 1


def test_limits_are_kept_by_name():
    assert dataclasses.asdict(
        limits(max_head_size=1, max_header_count=2, max_target_length=3, max_body_size=4)
    ) == {
        "max_head_size": 1,
        "max_header_count": 2,
        "max_target_length": 3,
        "max_body_size": 4,
    }
