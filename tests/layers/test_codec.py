"""What a message is on its way."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daphne_like.errors import InvalidMessage, LayerError
from daphne_like.layers.base import TOO_LARGE_ERRORS, MessageTooLarge
from daphne_like.layers.codec import MAX_MESSAGE, Broadcast, join, pack, pack_message, unpack

PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
VALUES = st.recursive(
    PLAIN | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
MESSAGES = st.dictionaries(st.text(), VALUES)


@settings(max_examples=50)
@given(MESSAGES)
def test_comes_out_as_it_went_in(message):
    assert unpack(pack_message(message)) == message


@settings(max_examples=50)
@given(st.lists(VALUES, max_size=20))
def test_joined_list_is_the_packed_list(values):
    assert join([pack(value) for value in values]) == pack(values)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 65535, 65536])
def test_joined_list_of_any_length(count):
    assert unpack(join([pack(7)] * count)) == [7] * count


def test_tuples_become_lists():
    assert unpack(pack({"a": (1, (2,))})) == {"a": [1, [2]]}


def test_memory_is_bytes_at_the_other_end():
    assert unpack(pack([bytearray(b"a"), memoryview(b"b")])) == [b"a", b"b"]
    assert unpack(memoryview(pack("x"))) == "x"


def nested():
    value: list = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, 1j, 2**64, -(2**63) - 1, "\ud800", nested(), Exception("x"), print]
)
def test_other_types_are_refused(value):
    with pytest.raises(InvalidMessage):
        pack_message({"type": "t", "value": value})
    with pytest.raises(InvalidMessage):
        pack([value])
    assert unpack(pack({"still": "works"})) == {"still": "works"}


@pytest.mark.parametrize("message", [None, "x", [("type", "t")], {1: "x"}, {b"type": "x"}])
def test_message_is_a_dict_with_str_keys(message):
    with pytest.raises(InvalidMessage):
        pack_message(message)


def test_limit_is_on_the_packed_message():
    around = len(pack({"d": b"x" * MAX_MESSAGE})) - MAX_MESSAGE
    assert len(pack_message({"d": b"x" * (MAX_MESSAGE - around)})) == MAX_MESSAGE
    with pytest.raises(MessageTooLarge):
        pack_message({"d": b"x" * (MAX_MESSAGE - around + 1)})
    with pytest.raises(TOO_LARGE_ERRORS):
        pack_message({"d": b"x" * MAX_MESSAGE})


@pytest.mark.parametrize("octets", [b"", b"\xc1", b"\x91", b"\x01\x02", b"\xa1\xff", b"\x81\x80\x01"])
def test_garbage_is_a_layer_error(octets):
    with pytest.raises(LayerError):
        unpack(octets)


def test_threads_do_not_share_a_packer():
    """A dict subclass lets other threads run in the middle of packing."""
    ready = threading.Barrier(2)

    class Waiting(dict):
        def items(self):
            ready.wait(10)
            return super().items()

    packed = []
    threads = [
        threading.Thread(target=lambda name=name: packed.append(pack(["before", Waiting(name=name)])))
        for name in ("a", "b")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(unpack(payload)[1]["name"] for payload in packed) == ["a", "b"]


@pytest.mark.parametrize(
    "message",
    [
        {"type": "flat", "text": "a", "octets": b"b", "number": 1, "nothing": None, "yes": True, "half": 0.5},
        {"type": "lists", "names": ["a", "b"], "facts": {"a": 1}, "none": [], "empty": {}},
        {"type": "rows", "headers": [[b"a", b"b"], [b"c", b"d"]]},
        {"type": "deep", "tree": {"a": [1, {"b": []}]}, "rows": [[1], {"a": 2}]},
        {"type": "mixed", "rows": [[1], 2]},
        {},
    ],
    ids=lambda message: message.get("type", "empty"),
)
def test_what_many_get_is_everybodys_own(message):
    packed = pack_message(message)
    broadcast = Broadcast(packed)
    assert broadcast == packed
    for _ in range(3):
        got = unpack(broadcast)
        assert got == unpack(packed) == message
        spoil(got)


def spoil(value):
    """Change all that can be changed."""
    values = value.values() if isinstance(value, dict) else value
    for each in list(values):
        if isinstance(each, (dict, list)):
            spoil(each)
    if isinstance(value, dict):
        value.clear()
        value["spoilt"] = True
    else:
        value[:] = ["spoilt"]


def test_a_broadcast_of_garbage_is_a_layer_error():
    with pytest.raises(LayerError):
        unpack(Broadcast(b"\xc1"))
