"""One connection: its requests in order, what is late, what is too much, and how it ends."""

import logging

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from daphne_like.asgi.stream import Stream
from tests.asgi.conversation import (
    GET,
    HANDSHAKE,
    Puppet,
    frame,
    frames,
    message,
    open_websocket,
    request,
    response,
    responses,
    sentences,
    serving,
)

pytestmark = pytest.mark.usefixtures("hosting")

POST = request("/", "Content-Length: 10", method="POST")
V2_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def answer(call, body=b"", **start):
    """The application answers whole, and returns."""
    call.send_at_once(message("start", **{"status": 200, **start}), message("body", body=body))
    call.returns()


def answered(server, wire, puppet):
    """A connection that has had one answer."""
    wire.receive(GET)
    answer(puppet.call)
    wire.take()
    return wire


# ---- pipelining


def test_second_request_is_not_started_before_the_first_is_answered():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        wire.receive(request("/1") + request("/2") + request("/3"))
        for number in range(1, 4):
            assert len(puppet.calls) == number
            assert puppet.call.scope["path"] == f"/{number}"
            answer(puppet.call, str(number).encode())
        assert [found.body for found in responses(wire)] == [b"1", b"2", b"3"]


def test_requests_of_one_packet_are_answered_in_order_with_a_write_each_at_most():
    async def application(scope, receive, send):
        await send(message("start", status=200))
        await send(message("body", body=scope["raw_path"]))

    with serving(application) as server:
        wire = server.connect()
        wire.receive(b"".join(request(f"/{number}") for number in range(16)))
        assert [found.body for found in responses(wire)] == [b"/%d" % number for number in range(16)]
        assert wire.writes <= 16


def test_request_behind_a_body_starts_after_its_answer():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        wire.receive(POST + b"0123456789" + GET)
        (call,) = puppet.calls
        assert call.receive()["body"] == b"0123456789"
        answer(call)
        assert len(puppet.calls) == 2


def test_held_requests_are_bounded():
    """By counters: what waits behind a slow answer pauses the socket."""
    puppet = Puppet()
    with serving(puppet, receive_buffer_size=4096) as server:
        wire = server.connect()
        wire.receive(*[GET * 40] * 100)
        (protocol,) = server.factory.connections
        assert not wire.reading
        assert protocol.connection.held <= 4096 + 40 * len(GET)
        count = 0
        while len(puppet.calls) > count:
            count = len(puppet.calls)
            answer(puppet.call)
        assert count == 4000
        assert len(responses(wire)) == 4000


@pytest.mark.embedded_only("the relay takes a body that its application does not read")
def test_a_body_that_ended_although_the_socket_was_paused_leaves_no_deaf_connection():
    """Twisted's TLS delivers what it has decrypted, paused or not."""
    puppet = Puppet()
    with serving(puppet, receive_buffer_size=4096) as server:
        wire = server.connect()
        wire.receive(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10000\r\n\r\n" + b"x" * 5000)
        (protocol,) = server.factory.connections
        assert not wire.reading
        protocol.dataReceived(b"x" * 5000)
        answer(puppet.call, b"not read")
        assert wire.reading
        wire.receive(GET)
        answer(puppet.call, b"next")
        assert [found.body for found in responses(wire)] == [b"not read", b"next"]


def test_malformed_request_behind_another_is_answered_after_it():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        wire.receive(GET + b"GARBAGE\r\n\r\n")
        answer(puppet.call, b"first")
        first, second = responses(wire)
        assert (first.status, first.body, second.status) == (200, b"first", 400)
        assert wire.closed


def test_websocket_behind_a_request_starts_after_its_answer():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        wire.receive(GET + HANDSHAKE + b"\r\n" + frame(1, b"early"))
        answer(puppet.call)
        call = puppet.call
        assert call.scope["type"] == "websocket"
        call.receive()
        call.send("websocket.accept")
        assert call.receive()["text"] == "early"


def test_close_leaves_what_was_pipelined_behind_it_unanswered():
    """RFC 9112 §9.6: "the server [...] MUST NOT process any further requests received on that connection"."""
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        wire.receive(request("/", "Connection: close") + GET)
        answer(puppet.call)
        (found,) = responses(wire)
        assert found.all("connection") == ["close"]
        assert len(puppet.calls) == 1
        assert wire.closed


# ---- deadlines


def test_connection_that_never_sends_an_octet_is_closed():
    puppet = Puppet()
    with serving(puppet, header_timeout=30) as server:
        wire = server.connect()
        server.advance(29)
        assert wire.state == "open"
        server.advance(2)
        assert wire.state == "closed"
        assert wire.take() == b""


def test_head_that_does_not_end_is_408(caplog):
    """Drop by drop: what counts is the head's first octet, not its last."""
    caplog.set_level(logging.INFO, logger="daphne_like")
    puppet = Puppet()
    with serving(puppet, header_timeout=30) as server:
        wire = server.connect()
        for octet in GET[:-1]:
            server.advance(1)
            wire.receive(bytes((octet,)))
        assert wire.state == "open"
        server.advance(31 - len(GET[:-1]) + 1)
        assert response(wire).status == 408
        assert wire.closed
        assert puppet.calls == []
    assert sentences(caplog) == ["request refused"]


def test_head_that_does_not_end_on_a_kept_connection_is_408():
    puppet = Puppet()
    with serving(puppet, header_timeout=30, keep_alive_timeout=75) as server:
        wire = answered(server, server.connect(), puppet)
        server.advance(60)
        wire.receive(b"GET / HT")
        server.advance(29)
        assert wire.state == "open"
        server.advance(2)
        assert response(wire).status == 408


def test_header_timeout_0_waits_for_ever():
    puppet = Puppet()
    with serving(puppet, header_timeout=0) as server:
        wire = server.connect()
        wire.receive(b"GET / HT")
        server.advance(3600)
        assert wire.state == "open"


def test_idle_connection_is_closed():
    puppet = Puppet()
    with serving(puppet, keep_alive_timeout=75, header_timeout=30) as server:
        wire = answered(server, server.connect(), puppet)
        server.advance(74)
        assert wire.state == "open"
        server.advance(2)
        assert wire.state == "closed"
        assert wire.take() == b""


def test_connection_that_is_used_is_not_idle():
    puppet = Puppet()
    with serving(puppet, keep_alive_timeout=10) as server:
        wire = server.connect()
        for _ in range(5):
            answered(server, wire, puppet)
            server.advance(9)
        assert wire.state == "open"


def test_slow_answer_is_not_idleness():
    puppet = Puppet()
    with serving(
        puppet, keep_alive_timeout=10, header_timeout=10, body_timeout=10, write_timeout=10
    ) as server:
        wire = server.connect()
        wire.receive(GET)
        server.advance(3600)
        assert wire.state == "open"
        answer(puppet.call, b"late")
        assert response(wire).body == b"late"


def test_body_that_stalls_is_408():
    puppet = Puppet()
    with serving(puppet, body_timeout=60) as server:
        wire = server.connect()
        wire.receive(POST + b"012")
        call = puppet.call
        assert call.receive()["body"] == b"012"
        waiting = call.begin_receive()
        server.advance(59)
        assert not waiting.done()
        server.advance(2)
        assert response(wire).status == 408
        assert waiting.result() == {"type": "http.disconnect"}
        assert wire.closed


def test_body_that_drips_is_not_stalled():
    """The pause counts, not the whole: slow uploads succeed."""
    puppet = Puppet()
    with serving(puppet, body_timeout=60) as server:
        wire = server.connect()
        wire.receive(POST)
        for _ in range(10):
            server.advance(50)
            wire.receive(b"x")
        received = b""
        while len(received) < 10:
            received += puppet.call.receive()["body"]
        answer(puppet.call)
        assert response(wire).status == 200


def test_body_that_stalls_within_a_response_cuts_it():
    puppet = Puppet()
    with serving(puppet, body_timeout=60) as server:
        wire = server.connect()
        wire.receive(POST)
        puppet.call.send("start", status=200)
        puppet.call.send("body", body=b"half", more_body=True)
        server.advance(61)
        assert wire.state == "reset"


def test_client_that_does_not_read_is_dropped(caplog):
    caplog.set_level(logging.INFO, logger="daphne_like")
    puppet = Puppet()
    with serving(puppet, write_timeout=60) as server:
        wire = server.connect()
        wire.stop_reading()
        wire.receive(GET)
        puppet.call.send("start", status=200)
        puppet.call.send("body", body=bytes(1000), more_body=True)
        server.advance(59)
        assert wire.state == "open"
        server.advance(62)
        assert wire.state == "reset"
        assert puppet.call.receive()["type"] == "http.request"
        assert puppet.call.receive() == {"type": "http.disconnect"}
    assert "client did not read, dropped it" in sentences(caplog)


def test_client_that_reads_a_little_now_and_then_is_let_alone():
    puppet = Puppet()
    with serving(puppet, write_timeout=60) as server:
        wire = server.connect()
        wire.stop_reading()
        wire.receive(GET)
        puppet.call.send("start", status=200)
        puppet.call.send("body", body=bytes(10_000), more_body=True)
        for _ in range(10):
            server.advance(50)
            wire._unread -= 10  # what the kernel has taken meanwhile
        assert wire.state == "open"


def test_client_that_does_not_read_the_end_of_its_answer_is_dropped():
    """The application has long ended: only the connection keeps the rest."""
    puppet = Puppet()
    with serving(puppet, write_timeout=60, keep_alive_timeout=10) as server:
        wire = server.connect()
        wire.stop_reading()
        wire.receive(GET)
        answer(puppet.call, bytes(1000))
        server.advance(122)
        assert wire.state == "reset"


def test_client_that_sends_but_does_not_read_is_dropped():
    """An octet of its request now and then gains a client no time: it is the reading that is waited for."""
    puppet = Puppet()
    with serving(puppet, write_timeout=60) as server:
        wire = server.connect()
        wire.stop_reading()
        wire.receive(request("/", "Content-Length: 1000", method="POST"))
        puppet.call.send("start", status=200)
        puppet.call.send("body", body=bytes(1000), more_body=True)
        for _ in range(5):
            server.advance(30)
            wire.receive(b"x")
        assert wire.state == "reset"


def test_client_that_does_not_read_before_its_websocket_opens_is_dropped():
    """The upgrade must not end the wait for a client that has left the answer before it unread."""
    puppet = Puppet()
    with serving(puppet, write_timeout=60, ping_interval=0) as server:
        wire = server.connect()
        wire.stop_reading()
        wire.receive(GET + HANDSHAKE + b"\r\n")
        answer(puppet.call, bytes(1000))
        puppet.call.send("websocket.accept")
        server.advance(122)
        assert wire.state == "reset"


def test_http_timeout_before_the_response_is_503(caplog):
    puppet = Puppet()
    with serving(puppet, http_timeout=30) as server:
        wire = server.connect()
        wire.receive(GET)
        server.advance(29)
        assert not puppet.call.over
        server.advance(2)
        assert response(wire).status == 503
        assert puppet.call.cancelled
        assert wire.state == "open"
        answered(server, wire, puppet)
    assert sentences(caplog) == ["request took longer than --http-timeout, cancelled its application"]


def test_http_timeout_within_the_response_cuts_it():
    puppet = Puppet()
    with serving(puppet, http_timeout=30) as server:
        wire = server.connect()
        wire.receive(GET)
        puppet.call.send("start", status=200)
        puppet.call.send("body", body=b"half", more_body=True)
        server.advance(31)
        assert wire.state == "reset"
        assert puppet.call.cancelled


def test_http_timeout_is_not_for_websockets():
    puppet = Puppet()
    with serving(puppet, http_timeout=30) as server:
        wire, _ = open_websocket(server, puppet)
        for _ in range(10):
            server.advance(19)
            wire.receive(frame(0xA))
        assert wire.state == "open"


# ---- limits

LIMITS = [  # settings, request -> status
    ({"max_head_size": 1024}, request("/", "X: " + "x" * 1024), 431),
    ({"max_head_size": 1024}, request("/", "X: " + "x" * 1024)[:1100], 431),
    ({"max_header_count": 3}, request("/", "A: 1", "B: 2", "C: 3"), 431),
    ({"max_target_length": 256}, request("/" + "x" * 256), 414),
    ({"max_target_length": 256}, b"GET /" + b"x" * 400, 414),
    ({"max_body_size": 9}, POST, 413),
]


@pytest.mark.parametrize(("settings", "octets", "status"), LIMITS)
def test_limit_of_a_head(settings, octets, status):
    """Answered before more comes, and the application never hears of it."""
    puppet = Puppet()
    with serving(puppet, **settings) as server:
        wire = server.connect()
        wire.receive(octets)
        found = response(wire)
        assert (found.status, found.all("connection")) == (status, ["close"])
        assert wire.closed
        assert puppet.calls == []


def test_body_too_large_is_413_before_its_first_octet():
    puppet = Puppet()
    with serving(puppet, max_body_size=9) as server:
        wire = server.connect()
        wire.receive(request("/", "Content-Length: 10", "Expect: 100-continue", method="POST"))
        assert response(wire).status == 413
        assert puppet.calls == []


def test_chunked_body_too_large_is_413_where_it_becomes_so():
    puppet = Puppet()
    with serving(puppet, max_body_size=9) as server:
        wire = server.connect()
        wire.receive(request("/", "Transfer-Encoding: chunked", method="POST") + b"9\r\n123456789\r\n")
        assert puppet.call.receive()["body"] == b"123456789"
        wire.receive(b"1\r\n0\r\n")
        assert response(wire).status == 413
        assert puppet.call.receive() == {"type": "http.disconnect"}


def test_max_body_size_0_is_no_limit():
    puppet = Puppet()
    with serving(puppet, max_body_size=0) as server:
        server.connect().receive(request("/", "Content-Length: 999999999999", method="POST"))
        assert len(puppet.calls) == 1


def test_too_many_connections_are_refused_with_503(caplog):
    puppet = Puppet()
    with serving(puppet, max_connections=2) as server:
        first, _ = server.connect(), server.connect()
        third = server.connect()
        found = response(third)
        assert (found.status, found.all("retry-after"), found.all("connection")) == (503, ["1"], ["close"])
        assert third.closed
        third.receive(GET)
        assert puppet.calls == []
        third.vanish()
        first.vanish()
        assert answered(server, server.connect(), puppet).state == "open"
    assert sentences(caplog) == ["refused a connection: --max-connections reached"]


def test_too_many_requests_are_refused_with_503():
    """Idle connections do not count, and neither do WebSockets."""
    puppet = Puppet()
    with serving(puppet, max_concurrent_requests=1) as server:
        open_websocket(server, puppet)
        wires = [server.connect() for _ in range(3)]
        for wire in wires[:2]:
            answered(server, wire, puppet)
        wires[0].receive(GET)
        busy = puppet.call
        wires[1].receive(GET)
        found = response(wires[1])
        assert (found.status, found.all("retry-after")) == (503, ["1"])
        answer(busy)
        answered(server, wires[2], puppet)


def test_refused_request_with_a_body_lets_the_client_read_its_answer():
    """A close with data unread would be a reset, which can destroy the answer (RFC 9112 §9.6)."""
    puppet = Puppet()
    with serving(puppet, max_body_size=9) as server:
        wire = server.connect()
        wire.receive(request("/", "Content-Length: 100000", method="POST"))
        wire.receive(*[bytes(1000)] * 50)
        assert wire.state == "half-closed"
        assert response(wire).status == 413
        wire.close_sending()
        server.loop.settle()
        assert wire.state == "closed"


def test_client_that_sends_on_after_its_answer_is_cut_in_the_end():
    puppet = Puppet()
    with serving(puppet, max_body_size=9) as server:
        wire = server.connect()
        wire.receive(request("/", "Content-Length: 100000", method="POST"))
        for _ in range(8):
            server.advance(1)
            wire.receive(b"x")
        assert wire.state == "reset"


# ---- endings


def test_client_that_closes_while_idle_is_closed():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = answered(server, server.connect(), puppet)
        wire.close_sending()
        assert wire.state == "closed"
        assert wire.take() == b""


def test_client_that_closes_within_a_head_gets_400():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        wire.receive(b"GET / HT")
        wire.close_sending()
        assert response(wire).status == 400
        assert (
            wire.state == "closed"
        )  # it has said that it sends nothing more: there is nothing to linger for


def test_client_that_closes_before_its_pipelined_request_begins():
    """The second stream was not there when the client closed: it learns of that as it begins."""
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        wire.receive(request("/1") + request("/2"))
        wire.close_sending()
        answer(puppet.call, b"1")
        assert puppet.call.receive()["type"] == "http.request"
        assert puppet.call.begin_receive().done()
        assert [found.body for found in responses(wire)] == [b"1"]
        puppet.call.returns()


def test_client_that_closes_within_the_body_of_a_pipelined_request():
    """Nobody must wait for the rest; the answer to the request before it has left by then."""
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        wire.receive(GET + POST + b"half")
        wire.close_sending()
        answer(puppet.call, b"1")
        assert response(wire).body == b"1"
        assert wire.state == "reset"


@pytest.mark.embedded_only("its client is gone before a worker can have it: nobody is asked")
def test_application_is_told_of_a_client_that_has_gone_within_the_body_of_a_pipelined_request():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        wire.receive(GET + POST + b"half")
        wire.close_sending()
        answer(puppet.call, b"1")
        assert puppet.call.receive()["body"] == b"half"
        assert puppet.call.receive() == {"type": "http.disconnect"}


def test_connection_that_fails_at_the_end_of_a_turn_takes_no_other_with_it(caplog):
    """All that have something to write in a turn share one callback."""
    puppet = Puppet()

    def fail(data):
        raise RuntimeError("the handler is closed")

    with serving(puppet) as server:
        wires = [server.connect() for _ in range(2)]
        calls = []
        for wire in wires:
            wire.receive(GET)
            calls.append(puppet.call)
        wires[0].write = fail
        tasks = [server.loop.create_task(call._send(message("start", status=200))) for call in calls]
        server.loop.settle()
        assert all(task.done() for task in tasks)
        assert wires[0].state == "reset"
        assert wires[1].take().startswith(b"HTTP/1.1 200")
    assert sentences(caplog, level="ERROR")[0] == "connection failed at the end of a turn, cut it"


def test_drain_closes_idle_connections_and_finishes_the_others():
    puppet = Puppet()
    with serving(puppet) as server:
        idle = answered(server, server.connect(), puppet)
        fresh = server.connect()
        busy, streaming = server.connect(), server.connect()
        busy.receive(GET)
        call = puppet.call
        streaming.receive(GET)
        puppet.call.send("start", status=200)
        puppet.call.send("body", body=b"a", more_body=True)
        server.context.draining = True
        for connection in list(server.factory.connections):
            connection.drain()
        server.loop.settle()
        assert (idle.state, fresh.state) == ("closed", "closed")
        assert (busy.state, streaming.state) == ("open", "open")
        answer(call, b"done")
        found = response(busy)
        assert (found.body, found.all("connection")) == (b"done", ["close"])
        assert busy.closed
        puppet.call.send("body", body=b"b")
        assert response(streaming).body == b"ab"
        assert streaming.closed


def test_drain_answers_a_request_whose_head_has_begun():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        wire.receive(GET[:10])
        server.context.draining = True
        for connection in list(server.factory.connections):
            connection.drain()
        wire.receive(GET[10:])
        answer(puppet.call, b"last")
        found = response(wire)
        assert (found.body, found.all("connection")) == (b"last", ["close"])


def test_drain_opens_no_more_websockets():
    """One that opened now would miss the goodbyes, and be cut at the end of the graceful time."""
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect()
        wire.receive(HANDSHAKE)
        server.context.draining = True
        for connection in list(server.factory.connections):
            connection.drain()
        wire.receive(b"\r\n")
        assert response(wire).status == 503
        assert puppet.calls == []


def test_what_is_left_behind_a_lost_connection_is_nothing():
    """Whatever the moment: serving() counts streams, requests, connections and deadlines."""
    for cut in range(1, len(POST) + 10):
        puppet = Puppet()
        with serving(puppet) as server:
            wire = server.connect()
            wire.receive((POST + b"0123456789")[:cut])
            wire.vanish()


def test_stream_protocol_is_what_both_streams_offer():
    puppet = Puppet()
    with serving(puppet) as server:
        server.connect().receive(GET)
        open_websocket(server, puppet)
        wanted = {name for name in (*vars(Stream), *Stream.__annotations__) if not name.startswith("_")}
        for stream in server.context.running:
            assert {name for name in wanted if not hasattr(stream, name)} == set()
            assert stream.described["path"] in ("/", "/ws")


# ---- addresses


def test_addresses_of_tcp():
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect(IPv4Address("TCP", "192.0.2.1", 4711), IPv4Address("TCP", "192.0.2.2", 80))
        wire.receive(GET)
        assert puppet.call.scope["client"] == ("192.0.2.1", 4711)
        assert puppet.call.scope["server"] == ("192.0.2.2", 80)
        wire = server.connect(IPv6Address("TCP", "2001:db8::1", 4711), IPv6Address("TCP", "::1", 80))
        wire.receive(GET)
        assert puppet.call.scope["client"] == ("2001:db8::1", 4711)
        assert puppet.call.scope["server"] == ("::1", 80)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("run/site.sock", ("run/site.sock", None)),
        (b"run/site.sock", ("run/site.sock", None)),
        (None, None),
        ("", None),
    ],
)
def test_addresses_of_a_unix_socket(name, expected):
    """The server is its path and None, and a client of one has no address (ASGI HTTP spec)."""
    puppet = Puppet()
    with serving(puppet) as server:
        wire = server.connect(UNIXAddress(None), UNIXAddress(name))
        wire.receive(GET)
        assert puppet.call.scope["client"] is None
        assert puppet.call.scope["server"] == expected


# ---- PROXY protocol


def test_proxy_header_replaces_the_addresses():
    puppet = Puppet()
    with serving(puppet, proxy_protocol=True) as server:
        wire = server.connect()
        wire.receive(b"PROXY TCP4 203.0.113.9 192.0.2.2 4711 443\r\n" + GET)
        assert puppet.call.scope["client"] == ("203.0.113.9", 4711)
        assert puppet.call.scope["server"] == ("192.0.2.2", 443)
        assert puppet.call.scope["scheme"] == "http"
        answered(server, wire, puppet)


def test_proxy_header_of_version_2_in_pieces():
    header = V2_SIGNATURE + b"\x21\x11\x00\x0c" + bytes((203, 0, 113, 9, 192, 0, 2, 2)) + b"\x12\x67\x01\xbb"
    puppet = Puppet()
    with serving(puppet, proxy_protocol=True) as server:
        wire = server.connect()
        wire.receive(*(bytes((octet,)) for octet in header))
        assert puppet.calls == []
        wire.receive(GET)
        assert puppet.call.scope["client"] == ("203.0.113.9", 4711)
        assert puppet.call.scope["server"] == ("192.0.2.2", 443)


def test_proxy_header_local_keeps_the_sockets_addresses():
    """Health checks of the proxy's own."""
    puppet = Puppet()
    with serving(puppet, proxy_protocol=True) as server:
        wire = server.connect(IPv4Address("TCP", "192.0.2.1", 4711))
        wire.receive(V2_SIGNATURE + b"\x20\x00\x00\x00" + GET)
        assert puppet.call.scope["client"] == ("192.0.2.1", 4711)


def test_proxy_header_counts_for_every_request_of_the_connection():
    puppet = Puppet()
    with serving(puppet, proxy_protocol=True) as server:
        wire = server.connect()
        wire.receive(b"PROXY TCP4 203.0.113.9 192.0.2.2 4711 443\r\n")
        for _ in range(2):
            wire.receive(GET)
            assert puppet.call.scope["client"] == ("203.0.113.9", 4711)
            answer(puppet.call)


@pytest.mark.parametrize("octets", [GET, b"PROXY TCP4 nonsense\r\n" + GET, b"\x16\x03\x01\x02\x00"])
def test_connection_without_a_proxy_header_is_cut(octets, caplog):
    """Never answered: a client that reached us past the proxy must not look like one of its own."""
    caplog.set_level(logging.INFO, logger="daphne_like")
    puppet = Puppet()
    with serving(puppet, proxy_protocol=True) as server:
        wire = server.connect()
        wire.receive(octets)
        assert wire.state == "reset"
        assert wire.take() == b""
        assert puppet.calls == []
    assert sentences(caplog) == ["PROXY header refused"]


def test_proxy_header_that_does_not_end_is_late():
    puppet = Puppet()
    with serving(puppet, proxy_protocol=True, header_timeout=30) as server:
        wire = server.connect()
        wire.receive(b"PROXY TCP4 ")
        server.advance(31)
        assert wire.state == "closed"


def test_proxied_websocket():
    puppet = Puppet()
    with serving(puppet, proxy_protocol=True) as server:
        wire = server.connect()
        wire.receive(b"PROXY TCP6 2001:db8::9 2001:db8::1 4711 443\r\n" + HANDSHAKE + b"\r\n")
        call = puppet.call
        call.receive()
        call.send("websocket.accept")
        wire.take()
        assert call.scope["client"] == ("2001:db8::9", 4711)
        wire.receive(frame(1, b"a"))
        call.send("websocket.send", text=call.receive()["text"])
        assert frames(wire) == [(1, b"a")]
