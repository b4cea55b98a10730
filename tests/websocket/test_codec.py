"""
WebSocket frames and messages: what comes out of which octets, in whatever pieces, and what is sent meanwhile.

The codec has two readers, its own for plain frames and Autobahn's for the rest. What is promised here is
promised of both, and tests that could tell them apart run the same frames through each.
"""

import itertools
import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daphne_like.websocket import codec as codec_module
from daphne_like.websocket.codec import FRAMES_AT_A_TIME, UNFINISHED, Closed, Codec
from daphne_like.websocket.engine import FrameEngine, make_deflate
from daphne_like.websocket.handshake import DeflateParameters
from tests.websocket.wire import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Deflater,
    Frame,
    Inflater,
    close,
    close_payload,
    frame,
    masked,
    read_frames,
    text,
)

KIB = 1024
LIMIT = 1000
COMPRESSED = 4  # RSV1
DEFLATE = DeflateParameters(server_max_window_bits=12, client_max_window_bits=15)


def codec(max_frame_size=LIMIT, max_message_size=LIMIT, deflate=None):
    return Codec(max_frame_size, max_message_size, deflate)


def messages(subject, *pieces):
    """Everything that comes of *pieces*, taken after each, in as many turns as it needs."""
    received = []
    for piece in pieces:
        subject.receive_data(piece)
        while (message := subject.next_message()) is not None:
            if message is not UNFINISHED:
                received.append(message)
    return received


def one_by_one(data):
    return [bytes((octet,)) for octet in data]


WAYS = [lambda data: [data], one_by_one]
each_way = pytest.mark.parametrize("cut", WAYS, ids=["whole", "one by one"])


# ---- messages

LENGTHS = [0, 1, 3, 4, 5, 7, 125, 126, 127, 2047, 2048, 2049, 4095, 65535, 65536, 65537, 200_000]


@pytest.mark.parametrize("size", LENGTHS)
def test_a_binary_message(size):
    """Every form of the length, and every way of unmasking."""
    payload = random.Random(size).randbytes(size)
    assert messages(codec(0, 0), frame(BINARY, payload)) == [payload]


@pytest.mark.parametrize("size", LENGTHS)
def test_a_text_message(size):
    words = ("aé€𝄞" * size)[:size]
    assert messages(codec(0, 0), text(words)) == [words]


@pytest.mark.parametrize("mask", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x00\x01\x02\x03", b"\x80\x00\x00\x00"])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 300, 3000])
def test_any_mask(mask, size):
    payload = bytes(range(256)) * 12
    assert messages(codec(0, 0), frame(BINARY, payload[:size], mask=mask)) == [payload[:size]]


def test_the_examples_of_the_rfc():
    """RFC 6455 §5.7."""
    assert messages(codec(), bytes.fromhex("818537fa213d7f9f4d5158")) == ["Hello"]
    subject = codec()
    assert messages(subject, bytes.fromhex("898537fa213d7f9f4d5158")) == []
    assert subject.data_to_send() == bytes.fromhex("8a0548656c6c6f")
    assert codec().encode("Hello") == bytes.fromhex("810548656c6c6f")
    assert codec(0).encode(bytes(256))[:4] == bytes.fromhex("827e0100")
    assert codec(0).encode(bytes(65536))[:10] == bytes.fromhex("827f0000000000010000")


def test_the_example_of_the_deflate_rfc():
    """RFC 7692 §7.2.3.1, §7.2.3.2: one message in a frame, and in two; then with the window of the first."""
    hello = bytes.fromhex("f248cdc9c90700")
    subject = codec(deflate=DEFLATE)
    assert messages(subject, frame(TEXT, hello, rsv=COMPRESSED)) == ["Hello"]
    fragments = frame(TEXT, hello[:3], fin=False, rsv=COMPRESSED) + frame(CONTINUATION, hello[3:])
    assert messages(codec(deflate=DEFLATE), fragments) == ["Hello"]
    assert messages(subject, frame(TEXT, bytes.fromhex("f200110000"), rsv=COMPRESSED)) == ["Hello"]


FRAGMENTED = [  # frames -> messages                                     RFC 6455 §5.4
    ([frame(TEXT, b"a", fin=False), frame(CONTINUATION, b"b")], ["ab"]),
    ([frame(BINARY, b"a", fin=False), frame(CONTINUATION, b"b")], [b"ab"]),
    ([frame(TEXT, b"", fin=False), frame(CONTINUATION, b"")], [""]),
    ([frame(BINARY, b"", fin=False), frame(CONTINUATION, b"")], [b""]),
    ([frame(TEXT, b"a", fin=False), frame(CONTINUATION, b"", fin=False), frame(CONTINUATION, b"b")], ["ab"]),
    ([frame(TEXT, b"", fin=False), frame(CONTINUATION, b"ab", fin=False), frame(CONTINUATION)], ["ab"]),
    # a code point in two frames: "MAY be split", §5.6
    ([frame(TEXT, b"\xe2\x82", fin=False), frame(CONTINUATION, b"\xac")], ["€"]),
    ([frame(TEXT, b"a", fin=False), frame(PING, b"p"), frame(CONTINUATION, b"b"), text("c")], ["ab", "c"]),
    ([text("a"), text("b"), frame(BINARY, b"c")], ["a", "b", b"c"]),
    ([text(""), frame(BINARY, b"")], ["", b""]),
]


@pytest.mark.parametrize(("frames", "expected"), FRAGMENTED)
@each_way
def test_fragments_make_a_message(frames, expected, cut):
    assert messages(codec(), *cut(b"".join(frames))) == expected


def test_messages_are_given_one_at_a_time():
    """An application that takes them slowly leaves the rest as octets, which are counted."""
    subject = codec()
    second = text("second")
    subject.receive_data(text("first") + second)
    assert subject.next_message() == "first"
    assert subject.held == len(second)
    assert subject.next_message() == "second"
    assert subject.held == 0
    assert subject.next_message() is None


def test_octets_come_while_messages_wait():
    subject = codec()
    subject.receive_data(text("a") + text("b"))
    assert subject.next_message() == "a"
    subject.receive_data(text("c"))
    assert messages(subject, b"") == ["b", "c"]


# ---- ping and pong                                                     RFC 6455 §5.5.2, §5.5.3


@pytest.mark.parametrize("payload", [b"", b"p", b"\xff" * 125])
@each_way
def test_a_ping_is_answered_with_its_payload(payload, cut):
    subject = codec()
    assert messages(subject, *cut(frame(PING, payload))) == []
    assert read_frames(subject.data_to_send()) == [Frame(PONG, payload)]
    assert subject.data_to_send() == b""


def test_pings_are_answered_in_order_and_between_fragments():
    subject = codec()
    octets = frame(PING, b"1") + frame(TEXT, b"a", fin=False) + frame(PING, b"2") + frame(CONTINUATION, b"b")
    assert messages(subject, octets, frame(PING, b"3")) == ["ab"]
    assert [answer.payload for answer in read_frames(subject.data_to_send())] == [b"1", b"2", b"3"]


@each_way
def test_pongs_are_counted(cut):
    """Whether asked for or not: an unsolicited one is a heartbeat, and is not answered."""
    subject = codec()
    assert messages(subject, *cut(frame(PONG, b"x") + frame(TEXT, b"a", fin=False) + frame(PONG))) == []
    assert (subject.pongs, subject.data_to_send()) == (2, b"")


def test_our_own_ping():
    subject = codec()
    subject.ping(b"are you there")
    subject.ping()
    assert read_frames(subject.data_to_send()) == [Frame(PING, b"are you there"), Frame(PING, b"")]


# ---- close                                                             RFC 6455 §5.5.1, §7.4

GOOD_CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999]


@pytest.mark.parametrize("code", GOOD_CODES)
@each_way
def test_a_close_is_echoed(code, cut):
    """ "it typically echos the status code it received"."""
    subject = codec()
    assert messages(subject, *cut(close(code, b"bye \xe2\x82\xac"))) == [Closed(code, "bye €")]
    (echo,) = read_frames(subject.data_to_send())
    assert (echo.opcode, close_payload(echo.payload)) == (CLOSE, (code, ""))
    assert subject.close_sent


@each_way
def test_a_close_without_a_code(cut):
    """It reads as 1005, which never stands on the wire: §7.4.1."""
    subject = codec()
    assert messages(subject, *cut(close())) == [Closed(1005, "")]
    assert read_frames(subject.data_to_send()) == [Frame(CLOSE, b"")]


@each_way
def test_what_follows_a_close_is_ignored(cut):
    """§5.5.1, also where it is no WebSocket at all."""
    subject = codec()
    octets = close(1000) + text("late") + frame(PING, b"late") + close(1001) + b"\xff\xff\xff"
    assert messages(subject, *cut(octets)) == [Closed(1000, "")]
    assert len(read_frames(subject.data_to_send())) == 1
    assert messages(subject, text("later")) == []
    assert (subject.data_to_send(), subject.held) == (b"", 0)


def test_messages_before_a_close_are_given():
    assert messages(codec(), text("a") + close(1000) + text("b")) == ["a", Closed(1000, "")]


def test_a_close_within_a_message_ends_it():
    """The part is not passed off as the whole."""
    assert messages(codec(), frame(TEXT, b"a", fin=False) + close(1001)) == [Closed(1001, "")]


OUR_CLOSES = [  # code, reason -> payload
    (1000, "", (1000, "")),
    (1000, "bye", (1000, "bye")),
    (4999, "€", (4999, "€")),
    (1005, "ignored", (None, "")),  # "MUST NOT be set as a status code in a Close": §7.4.1
    (1006, "ignored", (None, "")),
    (1004, "ignored", (None, "")),
    (1015, "ignored", (None, "")),
    (1000, "x" * 123, (1000, "x" * 123)),
    (1000, "x" * 124, (1000, "x" * 123)),
    (1000, "€" * 100, (1000, "€" * 41)),
    (1000, "x€" * 100, (1000, "x€" * 30 + "x")),
]


@pytest.mark.parametrize(("code", "reason", "expected"), OUR_CLOSES)
def test_our_own_close(code, reason, expected):
    """At most 125 octets, and never half a character: a control frame's limit, and §5.5.1."""
    subject = codec()
    assert not subject.close_sent
    subject.close(code, reason)
    assert subject.close_sent
    (sent,) = read_frames(subject.data_to_send())
    assert len(sent.payload) <= 125
    assert (sent.opcode, close_payload(sent.payload)) == (CLOSE, expected)


def test_the_answer_to_our_close_is_not_answered():
    subject = codec()
    subject.close(1000)
    subject.data_to_send()
    assert messages(subject, close(1000)) == [Closed(1000, "")]
    assert subject.data_to_send() == b""


@pytest.mark.parametrize(
    "late", [frame(PING, b"late"), close(1000), frame(3), text("a", mask=None), text("x" * 1001)]
)
def test_nothing_is_sent_after_our_close(late):
    """ "The application MUST NOT send any more data frames" then, and the codec no control frames."""
    subject = codec()
    subject.close(1001)
    subject.data_to_send()
    messages(subject, late)
    assert subject.data_to_send() == b""


def test_no_ping_and_no_second_close_after_our_close():
    """A timer may fire between the close and its answer; two sides may decide to close."""
    subject = codec()
    subject.close(1001)
    subject.ping()
    subject.close(1000)
    assert [sent.opcode for sent in read_frames(subject.data_to_send())] == [CLOSE]


def test_messages_that_were_on_their_way_come_after_our_close():
    """Until the peer's own close: what to do with them is the caller's business."""
    subject = codec()
    subject.close(1000)
    assert messages(subject, text("late") + close(1000)) == ["late", Closed(1000, "")]


def test_pings_wait_before_a_close_in_order():
    subject = codec()
    messages(subject, frame(PING, b"p") + close(1000))
    assert [sent.opcode for sent in read_frames(subject.data_to_send())] == [PONG, CLOSE]


# ---- violations

LONG = 70_000
BEGUN = frame(TEXT, b"a", fin=False)
VIOLATIONS = [  # what, octets -> 1002
    ("unmasked text", frame(TEXT, b"a", mask=None)),  # §5.1
    ("unmasked, empty", frame(TEXT, mask=None)),
    ("unmasked ping", frame(PING, mask=None)),
    ("unmasked close", frame(CLOSE, mask=None)),
    ("RSV1", frame(TEXT, b"a", rsv=4)),  # §5.2: no extension agreed on
    ("RSV2", frame(TEXT, b"a", rsv=2)),
    ("RSV3", frame(TEXT, b"a", rsv=1)),
    ("RSV on a binary frame", frame(BINARY, b"a", rsv=4)),
    ("RSV on a ping", frame(PING, b"a", rsv=4)),
    ("RSV on a continuation", frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b", rsv=4)),
    *((f"reserved opcode {opcode}", frame(opcode)) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
    *((f"reserved opcode {opcode} with data", frame(opcode, b"a")) for opcode in (3, 7, 11, 15)),
    ("fragmented ping", frame(PING, b"a", fin=False)),  # §5.5
    ("fragmented pong", frame(PONG, b"a", fin=False)),
    ("fragmented close", frame(CLOSE, fin=False)),
    ("long ping", frame(PING, b"a" * 126)),
    ("long pong", frame(PONG, b"a" * 126)),
    ("long close", close(1000, b"a" * 124)),
    ("very long ping", frame(PING, b"a" * LONG)),
    ("ping with a long length", frame(PING, b"a", width=2)),
    ("ping with a longer length", frame(PING, b"a", width=8)),
    ("length of 2 not minimal", frame(TEXT, b"a" * 125, width=2)),  # §5.2
    ("length of 8 not minimal", frame(TEXT, b"a" * 126, width=8)),
    ("length of 8 just not minimal", frame(BINARY, b"a" * 65535, width=8)),
    ("length of 2 for nothing", frame(TEXT, b"", width=2)),
    ("length of 8 for nothing", frame(BINARY, b"", width=8)),
    ("fragment's length not minimal", frame(TEXT, b"a" * 125, fin=False, width=2)),
    ("empty fragment's length not minimal", BEGUN + frame(CONTINUATION, fin=False, width=2)),
    ("empty fragment, 8 octets of length", BEGUN + frame(CONTINUATION, fin=False, width=8)),
    ("last fragment's length not minimal", frame(TEXT, b"a", fin=False) + frame(CONTINUATION, width=2)),
    ("top bit of the length", frame(BINARY, width=8, size=1 << 63)),
    ("all bits of the length", frame(TEXT, width=8, size=(1 << 64) - 1)),
    ("continuation of nothing", frame(CONTINUATION, b"a")),  # §5.4
    ("continuation of nothing, not final", frame(CONTINUATION, b"a", fin=False)),
    ("empty continuation of nothing", frame(CONTINUATION, fin=False)),
    ("text within text", frame(TEXT, b"a", fin=False) + text("b")),
    ("binary within text", frame(TEXT, b"a", fin=False) + frame(BINARY, b"b", fin=False)),
    ("text within binary", frame(BINARY, b"a", fin=False) + text("")),
    ("close of one octet", frame(CLOSE, b"\x03")),  # §5.5.1
]
BAD_CODES = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]  # §7.4
VIOLATIONS += [(f"close code {code}", close(code)) for code in BAD_CODES]
VIOLATIONS += [("close code 999 with a reason", close(999, b"bye"))]

NOT_UTF8 = [
    b"\xff",
    b"\xc3\x28",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xc0\xaf",
    b"\x80",
    b"\xf8\x88\x80\x80",
]
CUT_OFF = [b"\xc3", b"\xe2\x82", b"\xf0\x9d\x84"]

WRONG_TEXT = [  # what, octets -> 1007
    *((f"text {wrong.hex()}", frame(TEXT, b"ok " + wrong)) for wrong in NOT_UTF8 + CUT_OFF),
    *((f"long text {wrong.hex()}", frame(TEXT, b"x" * 5000 + wrong)) for wrong in NOT_UTF8 + CUT_OFF),
    *((f"fragment {wrong.hex()}", frame(TEXT, b"ok " + wrong, fin=False)) for wrong in NOT_UTF8),
    *(
        (f"last fragment {wrong.hex()}", frame(TEXT, b"ok", fin=False) + frame(0, wrong))
        for wrong in NOT_UTF8 + CUT_OFF
    ),
    ("cut off, then another character", frame(TEXT, b"\xe2\x82", fin=False) + frame(CONTINUATION, b"a")),
    *((f"close reason {wrong.hex()}", close(1000, b"ok " + wrong)) for wrong in NOT_UTF8 + CUT_OFF),
]

FAILURES = [(*case, 1002) for case in VIOLATIONS] + [(*case, 1007) for case in WRONG_TEXT]


@pytest.mark.parametrize(("what", "octets", "code"), FAILURES, ids=[case[0] for case in FAILURES])
@each_way
def test_a_violation_ends_the_connection(what, octets, code, cut):
    """One Closed with our code, one close frame with it, and silence. RFC 6455 §7.1.7, §8.1."""
    subject = codec(0, 0)
    (closed,) = messages(subject, *cut(octets))
    assert (closed.code, closed.violation) == (code, True)
    assert closed.reason
    (sent,) = read_frames(subject.data_to_send())
    assert (sent.opcode, close_payload(sent.payload)[0]) == (CLOSE, code)
    assert messages(subject, text("more"), frame(PING)) == []
    assert (subject.data_to_send(), subject.held, subject.close_sent) == (b"", 0, True)


@pytest.mark.parametrize(("what", "octets", "code"), FAILURES, ids=[case[0] for case in FAILURES])
def test_what_came_before_a_violation_is_given(what, octets, code):
    first, second, closed = messages(codec(0, 0), text("a") + frame(BINARY, b"b") + octets)
    assert (first, second, closed.code) == ("a", b"b", code)


AT_ONCE = [  # octets of a text message in progress, of which the last is the first that cannot be right
    frame(TEXT, b"ab\xff", size=100),
    frame(TEXT, b"ab\xf4\x90", size=100),
    frame(TEXT, b"ab\xe0\x80", size=100),
    frame(TEXT, b"ab", fin=False) + frame(CONTINUATION, b"\xff", size=100),
    frame(TEXT, b"\xe2", fin=False) + frame(CONTINUATION, b"\x28", size=5000, width=2),
]


@pytest.mark.parametrize("octets", AT_ONCE)
def test_text_that_is_not_utf8_is_refused_at_its_first_wrong_octet(octets):
    """Not at the end of the frame, which may never come."""
    subject = codec(0, 0)
    assert messages(subject, *one_by_one(octets[:-1])) == []
    (closed,) = messages(subject, octets[-1:])
    assert closed.code == 1007


def test_an_encoded_surrogate_is_refused_by_its_third_octet():
    """Python's decoder waits for it: other error handlers could let it pass. Nothing is delivered before."""
    subject = codec()
    assert messages(subject, *one_by_one(frame(TEXT, b"\xed\xa0", size=100))) == []
    (closed,) = messages(subject, masked(b"\0\0\x80")[2:])
    assert closed.code == 1007


def test_a_message_that_has_ended_is_not_continued():
    """RFC 6455 §5.4."""
    octets = frame(BINARY, b"a", fin=False) + frame(CONTINUATION) + frame(CONTINUATION)
    message, closed = messages(codec(), octets)
    assert (message, closed.code) == (b"a", 1002)


def test_a_compressed_message_where_none_was_agreed_on():
    (closed,) = messages(codec(), frame(TEXT, Deflater()(b"x" * 100), rsv=COMPRESSED))
    assert closed.code == 1002


COMPRESSED_VIOLATIONS = [  # what, octets, code                          RFC 7692 §6.1
    ("compressed ping", frame(PING, b"a", rsv=COMPRESSED), 1002),
    ("compressed close", frame(CLOSE, rsv=COMPRESSED), 1002),
    ("RSV2 beside RSV1", frame(TEXT, b"a", rsv=6), 1002),
    ("RSV1 on a continuation", BEGUN + frame(CONTINUATION, b"b", rsv=COMPRESSED), 1002),
    ("RSV1 behind RSV1", frame(TEXT, b"", fin=False, rsv=4) + frame(CONTINUATION, b"", rsv=4), 1002),
    ("no deflate data", frame(BINARY, b"\xff" * 20, rsv=COMPRESSED), 1007),
    ("reserved block type", frame(BINARY, b"\x07", rsv=COMPRESSED), 1007),
    ("text not UTF-8 inside", frame(TEXT, Deflater()(b"\xff" * 100), rsv=COMPRESSED), 1007),
    ("text cut off inside", frame(TEXT, Deflater()("€".encode()[:2]), rsv=COMPRESSED), 1007),
]


@pytest.mark.parametrize(
    ("what", "octets", "code"), COMPRESSED_VIOLATIONS, ids=[case[0] for case in COMPRESSED_VIOLATIONS]
)
@each_way
def test_a_violation_with_compression(what, octets, code, cut):
    subject = codec(deflate=DEFLATE)
    (closed,) = messages(subject, *cut(octets))
    assert (closed.code, closed.violation) == (code, True)
    (sent,) = read_frames(subject.data_to_send())
    assert close_payload(sent.payload)[0] == code


# ---- limits

ENOUGH, TOO_MUCH = b"x" * 100, b"x" * 101
WITHIN = [  # what, frame limit, message limit, octets -> messages
    ("frame", 100, 0, frame(BINARY, ENOUGH), [ENOUGH]),
    ("text frame", 100, 0, frame(TEXT, ENOUGH), ["x" * 100]),
    ("message", 0, 100, frame(BINARY, ENOUGH), [ENOUGH]),
    ("fragments", 50, 100, frame(BINARY, b"x" * 50, fin=False) + frame(0, b"x" * 50), [ENOUGH]),
    ("two messages", 100, 100, frame(BINARY, ENOUGH) * 2, [ENOUGH] * 2),
    ("control frames do not count", 1, 1, frame(PING, b"x" * 125) + frame(BINARY, b"x"), [b"x"]),
    ("no limits", 0, 0, frame(BINARY, b"x" * LONG), [b"x" * LONG]),
]
BEYOND = [  # what, frame limit, message limit, octets
    ("frame", 100, 0, frame(BINARY, TOO_MUCH)),
    ("text frame", 100, 0, frame(TEXT, TOO_MUCH)),
    ("frame in a larger message", 100, 1000, frame(BINARY, TOO_MUCH)),
    ("fragment", 100, 0, frame(BINARY, TOO_MUCH, fin=False)),
    ("second fragment", 100, 0, frame(BINARY, b"x", fin=False) + frame(0, TOO_MUCH)),
    ("message", 0, 100, frame(BINARY, TOO_MUCH)),
    ("message of fragments", 0, 100, frame(TEXT, b"x" * 51, fin=False) + frame(0, b"x" * 50)),
    ("message of many fragments", 0, 100, frame(BINARY, b"x", fin=False) + frame(0, b"x", fin=False) * 100),
    ("long frame", 100, 100, frame(BINARY, b"x" * LONG)),
]


@pytest.mark.parametrize(
    ("what", "frame_limit", "message_limit", "octets", "expected"), WITHIN, ids=[c[0] for c in WITHIN]
)
@each_way
def test_up_to_a_limit(what, frame_limit, message_limit, octets, expected, cut):
    assert messages(codec(frame_limit, message_limit), *cut(octets)) == expected


@pytest.mark.parametrize(
    ("what", "frame_limit", "message_limit", "octets"), BEYOND, ids=[c[0] for c in BEYOND]
)
@each_way
def test_beyond_a_limit(what, frame_limit, message_limit, octets, cut):
    """1009: RFC 6455 §7.4.1, §10.4."""
    subject = codec(frame_limit, message_limit)
    (closed,) = messages(subject, *cut(octets))
    assert (closed.code, closed.violation) == (1009, True)
    (sent,) = read_frames(subject.data_to_send())
    assert close_payload(sent.payload)[0] == 1009


@pytest.mark.parametrize("size", [101, 65535, 65536, 1 << 40, (1 << 63) - 1])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_frame_too_long_is_refused_by_its_head(size, opcode):
    """Nothing of it has come; nothing is waited for."""
    (closed,) = messages(codec(100, 0), frame(opcode, size=size, width=None))
    assert closed.code == 1009


def bomb(size, opcode=BINARY, **options):
    return frame(opcode, Deflater(**options)(b"\0" * size), rsv=COMPRESSED)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@each_way
def test_a_message_that_inflates_beyond_the_limit(opcode, cut):
    """A few KiB on the wire, 16 MiB in memory: refused when the limit is reached, not afterwards."""
    octets = bomb(16 * KIB * KIB, opcode)
    assert len(octets) < 20_000
    (closed,) = messages(codec(KIB * KIB, 64 * KIB, DEFLATE), *cut(octets))
    assert (closed.code, closed.violation) == (1009, True)


@each_way
def test_a_message_that_inflates_beyond_the_limit_in_fragments(cut):
    payload = Deflater()(b"\0" * 100_000)
    octets = frame(BINARY, payload[:20], fin=False, rsv=COMPRESSED) + frame(0, payload[20:])
    (closed,) = messages(codec(0, 50_000, DEFLATE), *cut(octets))
    assert closed.code == 1009


def test_an_inflated_message_up_to_the_limit():
    assert messages(codec(100, 50_000, DEFLATE), bomb(50_000)) == [bytes(50_000)]


def test_the_limit_counts_each_message():
    deflater = Deflater()
    octets = b"".join(frame(BINARY, deflater(bytes(40_000)), rsv=COMPRESSED) for _ in range(5))
    assert messages(codec(0, 50_000, DEFLATE), octets) == [bytes(40_000)] * 5


def test_no_limit_of_what_is_inflated():
    """0 is none, also where zlib must be told a number."""
    assert messages(codec(0, 0, DEFLATE), bomb(100_000)) == [bytes(100_000)]


def test_no_limit_of_compressed_fragments():
    payload = Deflater()(bytes(100_000))
    octets = frame(BINARY, payload[:9], fin=False, rsv=COMPRESSED) + frame(0, payload[9:])
    assert messages(codec(0, 0, DEFLATE), *one_by_one(octets)) == [bytes(100_000)]


# ---- compression                                                       RFC 7692

AGREED = [
    DeflateParameters(),
    DEFLATE,
    DeflateParameters(server_no_context_takeover=True),
    DeflateParameters(client_no_context_takeover=True),
    DeflateParameters(True, True, 9, 9),
    DeflateParameters(client_max_window_bits=8),
]
CONVERSATION = ["hello " * 50, b"\0\1\2" * 100, "hello " * 50, "", b"", "€" * 30, b"x" * 5000]


@pytest.mark.parametrize("agreed", AGREED, ids=repr)
@each_way
def test_compressed_messages_are_read(agreed, cut):
    """With a window that goes on, or that begins anew with each message."""
    deflater = Deflater(agreed.inflate_window_bits, not agreed.client_no_context_takeover)
    octets = b""
    for message in CONVERSATION:
        opcode, payload = (TEXT, message.encode()) if isinstance(message, str) else (BINARY, message)
        octets += frame(opcode, deflater(payload), rsv=COMPRESSED)
    assert messages(codec(0, 0, agreed), *cut(octets)) == CONVERSATION


@pytest.mark.parametrize("agreed", AGREED, ids=repr)
def test_compressed_messages_are_written(agreed):
    """The client's inflater, made of what was agreed on and no more, reads them."""
    subject = codec(0, 0, agreed)
    inflater = Inflater(agreed.server_max_window_bits, not agreed.server_no_context_takeover)
    for message in CONVERSATION:
        (sent,) = read_frames(subject.encode(message))
        payload = inflater(sent.payload) if sent.rsv else sent.payload
        assert sent.opcode == (TEXT if isinstance(message, str) else BINARY)
        assert (payload.decode() if sent.opcode == TEXT else payload) == message


def test_what_deflate_would_make_larger_goes_out_plain():
    (sent,) = read_frames(codec(deflate=DEFLATE).encode("hello"))
    assert (sent.rsv, sent.payload) == (0, b"hello")


def test_what_repeats_is_sent_compressed():
    (sent,) = read_frames(codec(deflate=DEFLATE).encode("hello " * 100))
    assert sent.rsv == COMPRESSED
    assert len(sent.payload) < 100


def test_plain_and_compressed_messages_may_take_turns():
    """RFC 7692 §6: a sender chooses for each message."""
    deflater = Deflater()
    octets = text("a") + frame(TEXT, deflater(b"b" * 99), rsv=COMPRESSED) + text("c")
    octets += frame(TEXT, deflater(b"b" * 99), rsv=COMPRESSED)
    assert messages(codec(deflate=DEFLATE), octets) == ["a", "b" * 99, "c", "b" * 99]


# ---- sending


@pytest.mark.parametrize("size", LENGTHS)
def test_encode_makes_one_frame(size):
    (sent,) = read_frames(codec().encode(b"x" * size))
    assert sent == Frame(BINARY, b"x" * size)
    (sent,) = read_frames(codec().encode("x" * size))
    assert sent == Frame(TEXT, b"x" * size)


def test_encode_leaves_control_frames_alone():
    """They wait in data_to_send(), and the caller puts both in order."""
    subject = codec()
    messages(subject, frame(PING, b"p"))
    assert read_frames(subject.encode("a")) == [Frame(TEXT, b"a")]
    assert read_frames(subject.data_to_send()) == [Frame(PONG, b"p")]


# ---- memory


def test_plain_frames_need_no_state_machine(monkeypatch):
    """Most connections carry nothing else, and the machine is a KiB or more of each."""

    def no_engine(*_):
        raise AssertionError("the state machine was made")

    monkeypatch.setattr(codec_module, "FrameEngine", no_engine)
    octets = text("a") + frame(BINARY, b"b" * 70_000) + frame(PING, b"c")
    octets += frame(PONG) + text("") + text("é" * 500)
    assert messages(codec(0, 0), octets) == ["a", b"b" * 70_000, "", "é" * 500]
    long = frame(BINARY, b"x" * 3000)
    assert messages(codec(0, 0), long[:100], long[100:2000], long[2000:]) == [b"x" * 3000]
    assert messages(codec(0, 0), *one_by_one(frame(PING, b"p") + frame(BINARY, b"b"))) == [b"b"]


def test_octets_of_a_frame_in_part_are_held_up_to_the_frame_limit():
    subject = codec()
    assert messages(subject, frame(BINARY, b"x" * LIMIT)[:-1]) == []
    assert subject.held <= LIMIT + 14


def test_empty_fragments_are_not_collected():
    """A flood of them costs time in proportion, and no memory: the message is what it is."""
    subject = codec()
    messages(subject, frame(BINARY, b"a", fin=False))
    for _ in range(20):
        assert messages(subject, frame(CONTINUATION, fin=False) * 1000) == []
        assert subject.held == 0
    assert messages(subject, frame(CONTINUATION, b"b")) == [b"ab"]


def test_held_counts_a_frame_that_comes_in_pieces():
    """ "Octets received that next_message() has not read yet"."""
    subject = codec(0, 0)
    octets = frame(BINARY, b"x" * 10_000)
    for piece in (octets[:100], octets[100:150], octets[150:9000]):
        assert messages(subject, piece) == []
    assert subject.held == 9000
    assert messages(subject, octets[9000:] + b"\x81") == [b"x" * 10_000]
    assert subject.held == 1


PIECE = 3
SIZE = 150_000


def peak_of(subject, pieces):
    """Octets that the subject took at most beyond what it had before, while *pieces* came in."""
    tracemalloc.start()
    try:
        received = []
        for piece in pieces:
            received += messages(subject, piece)
        return received, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_frame_in_small_pieces_takes_little_more_than_its_size():
    """A peer chooses its TCP segments: an object for each would be many times the octets."""
    octets = frame(BINARY, b"x" * SIZE)
    pieces = (octets[at : at + PIECE] for at in range(0, len(octets), PIECE))
    received, peak = peak_of(codec(0, 0), pieces)
    assert received == [b"x" * SIZE]
    assert peak < 6 * SIZE


def test_a_message_in_small_fragments_takes_little_more_than_its_size():
    fragments = (
        frame(CONTINUATION if at else BINARY, b"xyz", fin=at + PIECE >= SIZE, mask=b"\0\0\0\0")
        for at in range(0, SIZE, PIECE)
    )
    received, peak = peak_of(codec(0, 0), fragments)
    assert received == [b"xyz" * (SIZE // PIECE)]
    assert peak < 6 * SIZE


# ---- turns

IDLE_FRAMES = [  # frames that make no message, and the message that ends them
    ("pings", b"", frame(PING, b"p"), text("end"), "end"),
    ("pongs", b"", frame(PONG), text("end"), "end"),
    ("fragments", frame(BINARY, fin=False), frame(0, b"x", fin=False), frame(0), b"x" * 3 * FRAMES_AT_A_TIME),
    ("empty fragments", frame(BINARY, b"a", fin=False), frame(0, fin=False), frame(0), b"a"),
]


@pytest.mark.parametrize(
    ("what", "first", "each", "last", "expected"), IDLE_FRAMES, ids=[c[0] for c in IDLE_FRAMES]
)
def test_a_flood_of_frames_lets_others_have_their_turn(what, first, each, last, expected):
    """UNFINISHED at bounded distances; nothing is lost on the way."""
    subject = codec(0, 0)
    subject.receive_data(first + each * (3 * FRAMES_AT_A_TIME) + last)
    turns = 0
    while (message := subject.next_message()) is UNFINISHED:
        turns += 1
        assert subject.held
    assert message == expected
    assert turns >= 3
    assert subject.next_message() is None


def test_frames_that_make_messages_need_no_turns():
    """The caller has its say after each of them."""
    subject = codec()
    subject.receive_data(text("a") * (2 * FRAMES_AT_A_TIME))
    for _ in range(2 * FRAMES_AT_A_TIME):
        assert subject.next_message() == "a"
    assert subject.next_message() is None


# ---- any messages, in any frames, in any pieces

MESSAGES = st.lists(
    st.text(max_size=40)
    | st.binary(max_size=200)
    | st.integers(0, 5000).map(lambda size: "é" * size)
    | st.integers(0, 70_000).map(bytes),
    max_size=5,
)


def frames_of(message, draw, deflater):
    """*message* in one frame or several, compressed or not, control frames between them."""
    opcode, payload = (TEXT, message.encode()) if isinstance(message, str) else (BINARY, message)
    rsv = 0
    if deflater is not None and draw(st.booleans()):
        payload, rsv = deflater(payload), COMPRESSED
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=4)))
    fragments = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
    frames, pings = [], []
    for index, fragment in enumerate(fragments):
        mask = draw(st.binary(min_size=4, max_size=4))
        fin = index == len(cuts)
        frames.append(frame(opcode, fragment, fin=fin, rsv=rsv, mask=mask))
        opcode, rsv = CONTINUATION, 0
        kind = draw(st.sampled_from([None, None, PING, PONG]))
        if kind is not None:
            control = draw(st.binary(max_size=125))
            frames.append(frame(kind, control))
            pings += [control] if kind == PING else []
    return b"".join(frames), pings


@settings(max_examples=200)
@given(MESSAGES, st.booleans(), st.data())
def test_any_frames_in_any_pieces_make_the_same_messages(sent, compressing, data):
    """Fragments, compression, masks, control frames between, and the socket's pieces: none of it shows."""
    deflater = Deflater() if compressing else None
    octets, pings = b"", []
    for message in sent:
        more, asked = frames_of(message, data.draw, deflater)
        octets += more
        pings += asked
    octets += close(1000, b"end")
    cuts = sorted({0, len(octets), *data.draw(st.lists(st.integers(0, len(octets)), max_size=20))})
    subject = codec(0, 1 << 20, DEFLATE if compressing else None)
    received = messages(subject, *(octets[a:b] for a, b in itertools.pairwise(cuts)))
    assert received == [*sent, Closed(1000, "end")]
    answers = read_frames(subject.data_to_send())
    assert [answer.payload for answer in answers[:-1]] == pings
    assert (answers[-1].opcode, close_payload(answers[-1].payload)) == (CLOSE, (1000, ""))


# ---- both readers say the same


def by_the_engine(limits, deflate, pieces):
    """What Autobahn's machine makes of *pieces*, in the codec's words: messages, frames sent, pongs."""
    engine = FrameEngine(*limits, deflate and make_deflate(deflate))
    received, sent, pongs = [], [], 0
    for kind, value in itertools.chain.from_iterable(map(engine.feed, pieces)):
        if kind in ("text", "bytes"):
            received.append(value)
        elif kind == "ping":
            sent.append((PONG, value))
        elif kind == "pong":
            pongs += 1
        else:
            code = value[0]
            received.append((1005 if code is None else code, kind == "failure"))
            sent.append((CLOSE, b"" if code is None else code.to_bytes(2, "big")))
            break
    return received, sent, pongs


def by_the_codec(limits, deflate, pieces):
    subject = Codec(*limits, deflate)
    received = [(m.code, m.violation) if isinstance(m, Closed) else m for m in messages(subject, *pieces)]
    frames = read_frames(subject.data_to_send())
    sent = [(f.opcode, f.payload[:2] if f.opcode == CLOSE else f.payload) for f in frames]
    return received, sent, subject.pongs


HEADERS = st.tuples(
    st.integers(0, 15),  # opcode
    st.booleans(),  # FIN
    st.sampled_from([0, 0, 0, 0, 1, 2, 4, 7]),  # RSV
    st.sampled_from([None, None, None, None, 2, 8]),  # width of the length
    st.sampled_from(
        [b"", b"a", b"\xff", b"\x03\xe8", b"\xc3\xa9", *(b"x" * size for size in (20, 21, 125, 126))]
    ),
    st.booleans() | st.just(True),  # masked
)


@settings(max_examples=1000)
@given(
    st.lists(HEADERS, max_size=6),
    st.sampled_from([(0, 0), (20, 0), (0, 20), (20, 30)]),
    st.booleans(),
    st.lists(st.integers(0, 200), max_size=5),
)
def test_both_readers_say_the_same(headers, limits, compressing, cuts):
    """Of any frames, right or wrong, under any limits: messages, pongs, and the code of a failure."""
    octets = b""
    for opcode, fin, rsv, width, payload, is_masked in headers:
        if width is None and len(payload) > 125:
            width = 2
        mask = b"\1\2\3\4" if is_masked else None
        octets += frame(opcode, payload, fin=fin, rsv=rsv, width=width, mask=mask)
    deflate = DEFLATE if compressing else None
    edges = sorted({0, len(octets), *(cut for cut in cuts if cut < len(octets))})
    pieces = [octets[a:b] for a, b in itertools.pairwise(edges)]
    assert by_the_codec(limits, deflate, pieces) == by_the_engine(limits, deflate, pieces)


@settings(max_examples=300)
@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=5), st.booleans())
def test_any_octets_end_in_messages_or_a_close(octets, cuts, compressing):
    """Never an exception; after a Closed nothing."""
    subject = codec(deflate=DEFLATE if compressing else None)
    edges = sorted({0, len(octets), *(cut for cut in cuts if cut < len(octets))})
    received = messages(subject, *(octets[a:b] for a, b in itertools.pairwise(edges)))
    assert [isinstance(message, Closed) for message in received].count(True) <= 1
    assert not any(isinstance(message, Closed) for message in received[:-1])
    read_frames(subject.data_to_send())
