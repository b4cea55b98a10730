"""Frames of the ipc layer: what goes in comes out, in whatever pieces; what is no frame ends the reading."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daphne_like.layers.frames import (
    LAYOUTS,
    MAGIC,
    MAX_FRAME,
    FrameReader,
    Op,
    decode_counts,
    decode_pieces,
    decode_positions,
    encode,
    encode_counts,
    encode_name,
    encode_pieces,
    encode_positions,
)

NUMBERS = {
    "d": st.floats(allow_nan=False),
    "?": st.booleans(),
    "i": st.integers(-(2**31), 2**31 - 1),
    "I": st.integers(0, 2**32 - 1),
    "H": st.integers(0, 2**16 - 1),
    "Q": st.integers(0, 2**64 - 1),
}
NAMES = st.text("abcXYZ019.-_!", max_size=99)


@st.composite
def frames(draw):
    """(frame as its reader gives it, its octets)"""
    op = draw(st.sampled_from(sorted(LAYOUTS)))
    layout, names = LAYOUTS[op]
    numbers = tuple(MAGIC if letter == "s" else draw(NUMBERS[letter]) for letter in layout.replace("5s", "s"))
    texts = tuple(draw(NAMES) for _ in range(names))
    payload = draw(st.binary(max_size=300))
    head = encode(op, numbers, b"".join(map(encode_name, texts)), len(payload))
    return (op, *numbers, *texts, payload), head + payload


@given(st.lists(frames(), max_size=6), st.data())
def test_any_split_of_the_octets_gives_the_same_frames(sent, data):
    octets = b"".join(raw for _, raw in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(octets)), max_size=8)))
    reader = FrameReader()
    received = []
    for start, end in zip([0, *cuts], [*cuts, len(octets)], strict=True):
        received += reader.receive_data(octets[start:end])
    assert received == [frame for frame, _ in sent]
    assert reader.error == ""


def test_octet_by_octet():
    raw = encode(Op.SEND, (1.5,), encode_name("a!b"), 3) + b"xyz"
    reader = FrameReader()
    received = [frame for octet in raw for frame in reader.receive_data(bytes([octet]))]
    assert received == [(Op.SEND, 1.5, "a!b", b"xyz")]


def test_the_largest_frame():
    payload = bytes(MAX_FRAME - 1 - 2)
    raw = encode(Op.POST, (), encode_name("b"), len(payload)) + payload
    reader = FrameReader()
    received = []
    for start in range(0, len(raw), 256 * 1024):
        received += reader.receive_data(raw[start : start + 256 * 1024])
    assert received == [(Op.POST, "b", payload)]


GOOD = encode(Op.POST, (), encode_name("worker"), 2) + b"hi"

GARBAGE = [
    (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "longer than a frame can be"),
    (struct.pack(">IB", MAX_FRAME + 1, Op.SEND), "longer than a frame can be"),
    (struct.pack(">IB", 1, 255), "of an unknown kind"),
    (struct.pack(">IB", 1, Op.SEND), "shorter than its kind is"),
    (struct.pack(">IBB", 2, Op.POST, 200), "its names are longer than itself"),
    (struct.pack(">IBB", 3, Op.POST, 1) + b"\xff", "with a name that is not ASCII"),
    (struct.pack(">IB", 0, Op.FLUSH), "its names are longer than itself"),
]


@pytest.mark.parametrize(("octets", "error"), GARBAGE)
def test_garbage_ends_the_reading_and_what_came_before_counts(octets, error):
    reader = FrameReader()
    assert reader.receive_data(GOOD + octets) == [(Op.POST, "worker", b"hi")]
    assert reader.error == error
    assert reader.receive_data(GOOD) == []


@given(st.lists(st.binary(max_size=200), max_size=10))
def test_no_octets_break_the_reader(pieces):
    reader = FrameReader()
    for piece in pieces:
        reader.receive_data(piece)


def test_a_name_that_no_frame_holds_is_a_value_error():
    with pytest.raises(ValueError):
        encode_name("x" * 256)
    with pytest.raises(ValueError):
        encode_name("café")


@given(st.dictionaries(NAMES, st.integers(0, 2**32 - 1)))
def test_counts_come_out_as_they_went_in(counts):
    assert decode_counts(encode_counts(counts)) == counts


@given(st.lists(st.tuples(NAMES, st.binary(max_size=50), st.floats(allow_nan=False))))
def test_pieces_come_out_as_they_went_in(pieces):
    assert decode_pieces(encode_pieces(pieces)) == pieces


@given(st.lists(st.integers(0, 2**32 - 1)))
def test_positions_come_out_as_they_went_in(positions):
    assert decode_positions(encode_positions(positions)) == positions


@pytest.mark.parametrize("decode", [decode_counts, decode_pieces, decode_positions])
@given(octets=st.binary(max_size=60))
def test_what_no_encoder_made_is_at_worst_a_value_error(decode, octets):
    try:
        decode(octets)
    except ValueError:
        pass
