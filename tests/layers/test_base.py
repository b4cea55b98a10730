"""What all layers of ours share: names, capacities, errors that Channels' handlers catch."""

import re

import pytest

from daphne_like import errors
from daphne_like.layers import base
from daphne_like.layers.base import BaseChannelLayer, Capacities, ChannelFull, MessageTooLarge

LAYER = BaseChannelLayer()

GOOD_CHANNELS = ["a", "http.request", "a-b_c.D9", "specific.abc!", "specific.abc!x-1_2.3", "n" * 99]
BAD_CHANNELS = ["", "a b", "ä", "a!b!c", "!x", "a!b c", "a\n", "a?b", "n" * 100, b"bytes", None, 3]
GOOD_GROUPS = ["a", "chat.room-1_2", "g" * 99]
BAD_GROUPS = ["", "a!b", "a b", "ä", "a\n", "g" * 100, b"bytes", None]


@pytest.mark.parametrize("name", GOOD_CHANNELS)
def test_good_channel_name(name):
    assert LAYER.require_valid_channel_name(name) is True


@pytest.mark.parametrize("name", BAD_CHANNELS)
def test_bad_channel_name(name):
    with pytest.raises(TypeError):
        LAYER.require_valid_channel_name(name)


@pytest.mark.parametrize("name", GOOD_GROUPS)
def test_good_group_name(name):
    assert LAYER.require_valid_group_name(name) is True


@pytest.mark.parametrize("name", BAD_GROUPS)
def test_bad_group_name(name):
    with pytest.raises(TypeError):
        LAYER.require_valid_group_name(name)


CAPACITIES = [  # channel_capacity, channel -> capacity; the default is 100
    ({}, "a", 100),
    ({"http.*": 5}, "http.request", 5),
    ({"http.*": 5}, "websocket.connect", 100),
    ({"a*": 1, "ab*": 2}, "abc", 1),
    ({"specific.*!": 7}, "specific.abc!x", 7),
    ({"specific.*!*": 7}, "specific.abc!x", 7),
    ({re.compile(r"web\w+\.send!.+"): 3}, "websocket.send!x", 3),
    ({"A": 1}, "a", 100),
]


@pytest.mark.parametrize(("patterns", "channel", "expected"), CAPACITIES)
def test_capacity_of_a_channel(patterns, channel, expected):
    assert Capacities(100, patterns).of(channel) == expected
    assert BaseChannelLayer(channel_capacity=patterns).get_capacity(channel) == expected


def test_non_local_name():
    assert LAYER.non_local_name("specific.abc!x") == "specific.abc!"
    assert LAYER.non_local_name("shared") == "shared"


def test_what_is_ignored_is_not_accepted():
    """A site that asks for encryption must not believe that it has it."""
    with pytest.raises(TypeError):
        BaseChannelLayer(symmetric_encryption_keys=["x"])  # type: ignore[call-arg]


def test_errors_are_channels_errors_too():
    exceptions = pytest.importorskip("channels.exceptions")
    assert issubclass(ChannelFull, errors.ChannelFull)
    assert issubclass(ChannelFull, exceptions.ChannelFull)
    assert issubclass(MessageTooLarge, errors.MessageTooLarge)
    assert issubclass(MessageTooLarge, exceptions.MessageTooLarge)


def test_errors_without_channels(monkeypatch):
    """Channels is no dependency: without it our own classes are all there is."""

    def import_module(name):
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", import_module)
    assert base._with_channels(errors.ChannelFull) == (errors.ChannelFull, (errors.ChannelFull,))


def test_remembered_names_have_a_bound():
    layer = BaseChannelLayer()
    for number in range(base._MAX_REMEMBERED + 10):
        layer.require_valid_channel_name(f"c{number}")
    assert len(layer._good_channels) <= base._MAX_REMEMBERED


def test_layers_without_handoff_ignore_streams():
    LAYER.stream_leaving("server.1")
    LAYER.stream_left("server.1")
    assert base.current_stream.get() == ""
