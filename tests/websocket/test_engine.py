"""
The contract with Autobahn: which of its insides `FrameEngine` stands on.

Most of them are private, and none is promised to us. Each is named here, so that a release of Autobahn that
renames one, asks for another, or ends a violation elsewhere fails this file and says what it was; it must not
be found out by a connection. What the frames mean is test_codec's subject.
"""

import inspect

import pytest
from autobahn.websocket.compress_deflate import PerMessageDeflate
from autobahn.websocket.protocol import WebSocketProtocol, WebSocketServerProtocol
from autobahn.websocket.xormasker import create_xor_masker
from hypothesis import given
from hypothesis import strategies as st

from daphne_like.websocket.engine import FrameEngine, make_deflate
from daphne_like.websocket.handshake import DeflateParameters
from tests.websocket.wire import (
    BINARY,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Deflater,
    close,
    frame,
    masked,
    text,
)

# What Autobahn's frame decoding reads and writes on its instance. FrameEngine gives each of those that are
# read before they are written; a name that is not in these tables is one that nobody thought about.
GIVEN_BY_THE_CLASS = {
    "applyMask",
    "autoPingPending",
    "autoPingTimeoutCall",
    "echoCloseCodeReason",
    "factory",
    "failedByMe",
    "log",
    "logFrames",
    "logOctets",
    "requireMaskedClientFrames",
    "state",
    "trackedTimings",
    "trafficStats",
    "utf8validateIncoming",
    "websocket_version",
}
GIVEN_BY_INIT = {
    "_perMessageCompress",
    "current_frame",
    "data",
    "inside_message",
    "maxFramePayloadSize",
    "maxMessagePayloadSize",
    "notes",
    "utf8validator",
}
AUTOBAHNS_OWN = {
    "_isMessageCompressed",
    "control_frame_data",
    "current_frame_masker",
    "frame_data",
    "frame_length",
    "message_data",
    "message_data_total_length",
    "message_is_binary",
    "remoteCloseCode",
    "remoteCloseReason",
    "utf8validateIncomingCurrentMessage",
    "utf8validateLast",
    "wasClean",
    "wasMaxFramePayloadSizeExceeded",
    "wasMaxMessagePayloadSizeExceeded",
}
# Between one call of feed() and the next, failedByMe is the only of the class's that changes.
WRITTEN = GIVEN_BY_INIT | AUTOBAHNS_OWN | {"failedByMe"}

# What Autobahn calls and FrameEngine defines, with the arguments that Autobahn passes.
CALLED = {
    "_onMessageBegin": 1,
    "_onMessageFrameBegin": 1,
    "_onMessageFrameData": 1,
    "_onMessageFrameEnd": 0,
    "_onMessageFrame": 1,
    "_onMessageEnd": 0,
    "_onPing": 1,
    "_onPong": 1,
    "onCloseFrame": 2,
}
# What it has and FrameEngine replaces: the signatures must agree.
REPLACED = [
    "onCloseFrame",
    "sendCloseFrame",
    "dropConnection",
    "_protocol_violation",
    "_invalid_payload",
    "_max_message_size_exceeded",
]
# What FrameEngine calls of it.
INHERITED = {
    "_dataReceived": ["data"],
    "onMessageBegin": ["isBinary"],
    "onMessageFrameBegin": ["length"],
    "onMessageFrameData": ["payload"],
    "onMessageFrameEnd": [],
    "onMessageFrame": ["payload"],
    "onCloseFrame": ["code", "reasonRaw"],
}

DEFLATED = Deflater()(b"x" * 300)
HELLO = Deflater()(b"Hello")
BEGUN = frame(TEXT, b"a", fin=False)
TRAFFIC = [  # what, octets, limits, notes; "failure" stands for its code alone
    ("text", text("a€"), (0, 0), [("text", "a€")]),
    ("binary", frame(BINARY, b"\xff" * 300), (0, 0), [("bytes", b"\xff" * 300)]),
    ("long binary", frame(BINARY, b"x" * 70_000), (0, 0), [("bytes", b"x" * 70_000)]),
    ("empty", text("") + frame(BINARY), (0, 0), [("text", ""), ("bytes", b"")]),
    (
        "fragments",
        frame(TEXT, b"\xe2", fin=False) + frame(CONTINUATION, b"\x82\xac"),
        (0, 0),
        [("text", "€")],
    ),
    (
        "control frames",
        frame(PING, b"a") + frame(PONG, b"b") + frame(PING),
        (0, 0),
        [("ping", b"a"), ("pong", b"b"), ("ping", b"")],
    ),
    (
        "ping between",
        frame(BINARY, b"a", fin=False) + frame(PING) + frame(CONTINUATION, b"b"),
        (0, 0),
        [("ping", b""), ("bytes", b"ab")],
    ),
    ("compressed", frame(TEXT, HELLO, rsv=4), (0, 0), [("text", "Hello")]),
    (
        "compressed fragments",
        frame(TEXT, HELLO[:3], fin=False, rsv=4) + frame(CONTINUATION, HELLO[3:]),
        (0, 0),
        [("text", "Hello")],
    ),
    ("close", close(1000, b"bye"), (0, 0), [("close", (1000, "bye"))]),
    ("close without reason", close(4000), (0, 0), [("close", (4000, ""))]),
    ("close without code", close(), (0, 0), [("close", (None, ""))]),
    ("unmasked", frame(TEXT, mask=None), (0, 0), [("failure", 1002)]),
    ("reserved bit", frame(TEXT, rsv=1), (0, 0), [("failure", 1002)]),
    ("reserved opcode", frame(3), (0, 0), [("failure", 1002)]),
    ("reserved control opcode", frame(11), (0, 0), [("failure", 1002)]),
    ("fragmented control frame", frame(PING, fin=False), (0, 0), [("failure", 1002)]),
    ("long control frame", frame(PING, b"x" * 126), (0, 0), [("failure", 1002)]),
    ("compressed control frame", frame(PING, rsv=4), (0, 0), [("failure", 1002)]),
    ("length not minimal", frame(TEXT, b"a", width=2), (0, 0), [("failure", 1002)]),
    ("long length not minimal", frame(TEXT, b"a", width=8), (0, 0), [("failure", 1002)]),
    ("top bit", frame(TEXT, width=8, size=1 << 63), (0, 0), [("failure", 1002)]),
    ("continuation of nothing", frame(CONTINUATION, b"a"), (0, 0), [("failure", 1002)]),
    ("message in a message", BEGUN + text("b"), (0, 0), [("failure", 1002)]),
    ("compressed continuation", BEGUN + frame(CONTINUATION, rsv=4), (0, 0), [("failure", 1002)]),
    ("close of one octet", frame(8, b"a"), (0, 0), [("failure", 1002)]),
    ("close code", close(1005), (0, 0), [("failure", 1002)]),
    ("close reason", close(1000, b"\xff"), (0, 0), [("failure", 1007)]),
    ("close code and reason", close(1005, b"\xff"), (0, 0), [("failure", 1002)]),
    ("not UTF-8", frame(TEXT, b"\xff"), (0, 0), [("failure", 1007)]),
    ("UTF-8 cut off", frame(TEXT, b"\xe2\x82"), (0, 0), [("failure", 1007)]),
    ("not deflate", frame(BINARY, b"\xff" * 9, rsv=4), (0, 0), [("failure", 1007)]),
    ("deflate that ends badly", frame(BINARY, b"\x00\x05", rsv=4), (0, 0), [("failure", 1007)]),
    ("frame too long", text("x" * 101), (100, 0), [("failure", 1009)]),
    ("message too long", text("x" * 101), (0, 100), [("failure", 1009)]),
    (
        "fragments too long",
        frame(TEXT, b"x" * 60, fin=False) + frame(CONTINUATION, b"x" * 60),
        (0, 100),
        [("failure", 1009)],
    ),
    ("inflates too long", frame(TEXT, DEFLATED, rsv=4), (0, 100), [("failure", 1009)]),
]
each_traffic = pytest.mark.parametrize(
    ("what", "octets", "limits", "expected"), TRAFFIC, ids=[case[0] for case in TRAFFIC]
)


def feed(engine, *pieces):
    """The notes of *pieces*, a failure's words left out; nothing is fed once there is nothing to be fed."""
    notes = []
    for piece in pieces:
        for kind, value in engine.feed(piece):
            notes.append((kind, value[0] if kind == "failure" else value))
        if notes and notes[-1][0] in ("failure", "close"):
            break
    return notes


def one_by_one(data):
    return [bytes((octet,)) for octet in data]


def engine_with(limits=(0, 0), kind=FrameEngine):
    return kind(*limits, make_deflate(DeflateParameters()))


@each_traffic
def test_each_end_of_autobahns_machine_is_a_note(what, octets, limits, expected):
    """Whole or octet by octet; a violation ends in one of the three methods, once."""
    assert feed(engine_with(limits), octets) == expected
    assert feed(engine_with(limits), *one_by_one(octets)) == expected


@each_traffic
def test_autobahn_touches_nothing_but_what_is_named(what, octets, limits, expected):
    """
    A name printed here is one that a release of Autobahn has begun to use: give it a value in FrameEngine if
    it is read before it is written, then name it in the tables above.
    """
    read, written = set(), set()

    class Watched(FrameEngine):
        def __getattribute__(self, name):
            read.add(name)
            return super().__getattribute__(name)

        def __setattr__(self, name, value):
            written.add(name)
            super().__setattr__(name, value)

    feed(engine_with(limits, Watched), octets)
    feed(engine_with(limits, Watched), *one_by_one(octets))
    values = {
        name for name in read if not name.startswith("__") and not callable(getattr(FrameEngine, name, None))
    }
    assert values - GIVEN_BY_THE_CLASS - GIVEN_BY_INIT - AUTOBAHNS_OWN == set()
    assert written - WRITTEN == set()


def test_what_the_class_gives_is_given_by_ours():
    """Not inherited from Autobahn, where a release may change it; and given at all."""
    assert GIVEN_BY_THE_CLASS - set(vars(FrameEngine)) == set()


def test_what_the_instance_needs_is_given_by_init():
    """No super().__init__(): what it would have set is not there, and not needed."""
    assert set(vars(engine_with())) == GIVEN_BY_INIT


@each_traffic
def test_autobahn_stays_in_the_open_state(what, octets, limits, expected):
    """FrameEngine begins there and never leaves; the connection's state is not Autobahn's."""
    engine = engine_with(limits)
    feed(engine, octets)
    assert engine.state == WebSocketProtocol.STATE_OPEN


def test_autobahn_calls_what_we_define():
    """Each callback is reached by some frame, with as many arguments as ours takes."""
    called = {}

    class Watched(FrameEngine):
        pass

    def watch(name):
        def method(self, *arguments):
            called.setdefault(name, set()).add(len(arguments))
            return getattr(super(Watched, self), name)(*arguments)

        setattr(Watched, name, method)

    for name in CALLED:
        watch(name)
    for _, octets, limits, _ in TRAFFIC:
        feed(engine_with(limits, Watched), octets)
    assert called == {name: {count} for name, count in CALLED.items()}


@pytest.mark.parametrize("name", REPLACED)
def test_what_we_replace_is_still_there(name):
    """A renamed method would not be replaced any more, and act on a transport that we do not have."""
    theirs = getattr(WebSocketProtocol, name, None)
    assert theirs is not None, f"WebSocketProtocol.{name} is gone"
    ours = getattr(FrameEngine, name)
    assert ours is not getattr(WebSocketServerProtocol, name)
    assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)


@pytest.mark.parametrize(("name", "parameters"), INHERITED.items())
def test_what_we_call_is_still_there(name, parameters):
    theirs = getattr(WebSocketProtocol, name, None)
    assert theirs is not None, f"WebSocketProtocol.{name} is gone"
    assert list(inspect.signature(theirs).parameters) == ["self", *parameters]


def test_the_engine_has_no_connection():
    """Nothing of Autobahn's that writes, schedules or waits is within its reach."""
    engine = engine_with()
    for name in ("transport", "is_open", "is_closed", "send_queue", "autoPingPendingCall"):
        assert name not in vars(engine)
    assert vars(FrameEngine)["factory"].isServer
    assert set(vars(vars(FrameEngine)["factory"])) == {"isServer"}


def test_inside_message_says_whether_a_message_has_begun():
    """The codec asks it before it decodes a frame on its own, or skips one."""
    engine = engine_with()
    assert not engine.inside_message
    feed(engine, frame(TEXT, b"a", fin=False))
    assert engine.inside_message
    feed(engine, frame(PING))
    assert engine.inside_message
    feed(engine, frame(CONTINUATION, b"b"))
    assert not engine.inside_message


def test_notes_are_taken():
    engine = engine_with()
    assert engine.feed(text("a")) == [("text", "a")]
    assert engine.feed(b"") == []
    first = engine.feed(text("b"))
    assert engine.feed(text("c")) == [("text", "c")]
    assert first == [("text", "b")]


def test_engines_share_nothing_that_matters():
    """trafficStats is one for all, and only counted into."""
    one, other = engine_with((0, 5)), engine_with()
    feed(one, frame(TEXT, b"a", fin=False))
    assert feed(other, text("other")) == [("text", "other")]
    assert feed(one, frame(CONTINUATION, b"b")) == [("text", "ab")]
    feed(one, frame(3))
    assert feed(other, text("goes on")) == [("text", "goes on")]


def test_logging_costs_nothing():
    """Autobahn's own logger must not be reached: each of its calls builds a record."""
    log = vars(FrameEngine)["log"]
    for level in ("debug", "info", "warn", "error"):
        assert getattr(log, level)("{x}", x=1) is None


# ---- permessage-deflate


def test_the_order_of_permessage_deflates_arguments():
    """make_deflate() passes them by position."""
    assert list(inspect.signature(PerMessageDeflate).parameters) == [
        "is_server",
        "server_no_context_takeover",
        "client_no_context_takeover",
        "server_max_window_bits",
        "client_max_window_bits",
        "mem_level",
        "max_message_size",
    ]


def test_what_was_agreed_on_reaches_permessage_deflate():
    deflate = make_deflate(DeflateParameters(True, False, 11, 8))
    assert deflate.__json__() | {"extension": None, "mem_level": None} == {
        "extension": None,
        "is_server": True,
        "server_no_context_takeover": True,
        "client_no_context_takeover": False,
        "server_max_window_bits": 11,
        "client_max_window_bits": 9,  # what reads a window of 8: zlib has none
        "mem_level": None,
    }
    assert deflate.max_message_size is None


def test_compression_takes_no_memory_before_its_first_use():
    deflate = make_deflate(DeflateParameters())
    assert (deflate._compressor, deflate._decompressor) == (None, None)
    feed(FrameEngine(0, 0, deflate), text("plain"))
    assert (deflate._compressor, deflate._decompressor) == (None, None)


# ---- masks


@given(st.binary(max_size=5000), st.binary(min_size=4, max_size=4))
def test_autobahns_masker_is_the_rfcs(payload, mask):
    """RFC 6455 §5.3; with the length beforehand, in one call."""
    assert create_xor_masker(mask, len(payload)).process(payload) == masked(payload, mask)
