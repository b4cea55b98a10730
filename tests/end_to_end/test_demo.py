"""
The demo of docs/examples/seatmap, in real browsers.

The server runs as its users run it, on a socket that the test opened (so there is no port to guess, and
connections wait while it starts); each page is a browser with its own cookies, that is, another visitor.

While working on the demo, $SEATMAP_SERVER may name another server, with {fd} for the socket:

    SEATMAP_SERVER="python -m uvicorn --fd {fd} seatmap.asgi:application" pytest tests/end_to_end/test_demo.py
"""

import http.client
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.end_to_end.chromium import Chromedriver, Page, running_chromedriver
from tests.end_to_end.processes import children, eventually
from tests.layers_redis.redis_servers import redis_server

pytest.importorskip("channels", reason="the demo's requirements are not installed: pip install -e '.[demo]'")

in_browsers = pytest.mark.needs("chromium", "chromedriver")

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "docs" / "examples" / "seatmap"
OUR_SERVER = (
    f"{shlex.quote(sys.executable)} -m daphne_like --fd {{fd}} --graceful-timeout 3 seatmap.asgi:application"
)
SERVER = os.environ.get("SEATMAP_SERVER", OUR_SERVER)
WORKERS = ("--workers", "2")
EXIT_CODES = {0} if SERVER == OUR_SERVER else {0, -signal.SIGTERM}
ANSWER_WITHIN = 20.0
STOP_WITHIN = 40.0

ARROW_RIGHT, ENTER = "\ue014", "\ue007"  # WebDriver 2, section 17.4.2

STATE_IS = "document.getElementById(given[0]).dataset.state === given[1]"
LINE_IS = "document.getElementById('line').matches(given[0])"
HAS_NOTICE = (
    "[...document.querySelectorAll('#toasts p')].some((notice) => notice.textContent.includes(given[0]))"
)

LINE = "document.getElementById('line')"
NOTE_STATES = (
    f"window.states = [], new MutationObserver(() => window.states.push({LINE}.dataset.state))"
    f".observe({LINE}, {{attributes: true}})"
)

HOLD_H4 = "from theatre import booking, visitors; booking.hold('H4', visitors.Visitor('0a1b'))"


class Site:
    """The demo with a database of its own; start and stop it as often as you like."""

    def __init__(self, directory: Path, *words: str, **environment: str) -> None:
        self._words = words
        self.process: subprocess.Popen[bytes] | None = None
        self._environment = {
            **os.environ,
            "SECRET_KEY": "of a test",
            "SEATMAP_DATABASE": str(directory / "seatmap.sqlite3"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(SITE)]),
            **environment,
        }
        self._log = directory / "server.log"
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.manage("migrate", "--verbosity", "0")
        self.manage("seed_theatre")

    def manage(self, *words: str) -> None:
        command = [sys.executable, str(SITE / "manage.py"), *words]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    @contextmanager
    def running(self) -> Iterator[None]:
        """Serve; afterwards the server has ended by itself, and has logged no traceback."""
        fd = self._socket.fileno()
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [*shlex.split(SERVER.format(fd=fd)), *self._words],
                cwd=SITE,
                env=self._environment,
                pass_fds=[fd],
                stdout=log,
                stderr=log,
            )
        self.process = process
        with process:
            try:
                self._wait_for_first_answer(process)
                yield
            except BaseException:
                print(self._log.read_text())
                raise
            finally:
                process.terminate()
                try:
                    exit_code = process.wait(STOP_WITHIN)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise
        logged = self._log.read_text()
        assert exit_code in EXIT_CODES, logged
        assert "Traceback" not in logged, logged

    def _wait_for_first_answer(self, process: subprocess.Popen[bytes]) -> None:
        # The kernel has accepted the connection already, and the answer comes when the server is up. Without
        # a server it would never come, because the listening socket stays open here: so look every second.
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1.0)
        connection.request("GET", "/static/theatre/feed.js")
        connection.sock.settimeout(1.0)
        try:
            for _ in range(int(ANSWER_WITHIN)):
                try:
                    first = connection.sock.recv(64)
                except TimeoutError:
                    assert process.poll() is None, f"the server ended with {process.returncode}"
                else:
                    assert first.startswith(b"HTTP/1.1 200"), first
                    return
            raise TimeoutError("the server does not answer")
        finally:
            connection.close()

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


@dataclass
class Visit:
    """A visitor without a browser: the cookies, the token and the position that the page gave."""

    port: int
    cookies: str
    token: str
    position: int
    visitor: str

    @classmethod
    def to(cls, site: Site) -> "Visit":
        connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=ANSWER_WITHIN)
        connection.request("GET", "/")
        response = connection.getresponse()
        page = response.read().decode()
        connection.close()
        cookies = "; ".join(field.split(";")[0] for field in response.msg.get_all("Set-Cookie", []))
        state = json.loads(re.search(r'<script id="state"[^>]*>(.*?)</script>', page)[1])
        return cls(site.port, cookies, state["token"], state["after"], state["visitor"])

    def ask(self, method: str, path: str, **fields: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_WITHIN)
        headers = {"Cookie": self.cookies, "Connection": "close"} | fields
        connection.request(method, path, headers=headers)
        return connection.getresponse()  # closing it closes the connection, as it says `close`

    def wish(self, wish: str, seat: str) -> tuple[int, dict]:
        with self.ask("POST", f"/seats/{seat}/{wish}", **{"X-CSRFToken": self.token}) as response:
            return response.status, json.load(response)


@pytest.fixture(scope="module", params=[(), WORKERS], ids=["embedded", "relayed"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if request.param and SERVER != OUR_SERVER:
        pytest.skip("another server has no such workers")
    with Site(tmp_path_factory.mktemp("seatmap"), *request.param) as site, site.running():
        yield site


@pytest.fixture(scope="module")
def chromedriver() -> Iterator[Chromedriver]:
    with running_chromedriver() as chromedriver:
        yield chromedriver


@pytest.fixture
def open_page(chromedriver: Chromedriver) -> Iterator[Callable[..., Page]]:
    """open_page(site, "sse") is a new visitor with the demo open; on_the_way prepares the browser before."""
    with ExitStack() as stack:

        def open_page(
            site: Site,
            transport: str = "",
            on_the_way: Callable[[Page], object] = lambda page: None,
        ) -> Page:
            page = stack.enter_context(chromedriver.page())
            on_the_way(page)
            page.open(site.url + (f"?transport={transport}" if transport else ""))
            return page

        yield open_page


def live(transport: str) -> str:
    return f'[data-transport="{transport}"][data-state="live"]'


def pick(page: Page, seat: str) -> None:
    page.click(f"#{seat}")
    page.wait_for(STATE_IS, seat, "mine")


# -- pages see each other -----------------------------------------------------------------------------


@in_browsers
@pytest.mark.parametrize(
    ("transports", "row"),
    [
        (("websocket", "websocket"), "B"),
        (("sse", "poll"), "C"),
        (("poll", "sse"), "D"),
        (("websocket", "poll"), "E"),
    ],
    ids="-".join,
)
def test_a_picked_seat_goes_grey_for_the_other(site, open_page, transports, row):
    first, second = (open_page(site, transport) for transport in transports)
    for page, transport in zip((first, second), transports, strict=True):
        page.wait_for(LINE_IS, live(transport))

    pick(first, f"{row}6")
    second.wait_for(STATE_IS, f"{row}6", "taken")
    pick(second, f"{row}8")
    first.wait_for(STATE_IS, f"{row}8", "taken")

    first.click(f"#{row}6")  # again: gives it back
    second.wait_for(STATE_IS, f"{row}6", "free")
    for page in (first, second):
        assert page.evaluate(LINE_IS.replace("given", "arguments"), '[data-state="live"]')
        assert page.console() == []


@in_browsers
def test_without_being_told_the_page_takes_websocket(site, open_page):
    page = open_page(site)
    page.wait_for(LINE_IS, live("websocket"))


@in_browsers
def test_keyboard_walks_and_picks(site, open_page):
    page = open_page(site)
    page.wait_for(LINE_IS, live("websocket"))
    page.evaluate("document.querySelector('.seat[tabindex=\"0\"]').focus()")
    page.press(ARROW_RIGHT)
    page.press(ENTER)
    page.wait_for(STATE_IS, "A2", "mine")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").endswith(", yours")


# -- one winner ---------------------------------------------------------------------------------------


@in_browsers
def test_both_pick_the_same_seats_and_each_has_one_winner(site, open_page):
    """Each page clicks all of them in one turn of its event loop: no news can come in between."""
    seats = [f"L{number}" for number in range(1, 9)]
    pages = [open_page(site, "websocket"), open_page(site, "poll")]
    for page, transport in zip(pages, ("websocket", "poll"), strict=True):
        page.wait_for(LINE_IS, live(transport))

    click_all = "arguments[0].forEach((seat) => document.getElementById(seat).click())"
    with ThreadPoolExecutor(len(pages)) as threads:
        list(threads.map(lambda page: page.evaluate(click_all, seats), pages))

    settled = (
        "given[0].every((seat) => document.getElementById(seat).matches("
        "'[data-state]:not([data-state=free]):not([aria-busy])'))"
    )
    looks = "arguments[0].map((seat) => document.getElementById(seat).dataset.state)"
    for page in pages:
        page.wait_for(settled, seats)
    first, second = (page.evaluate(looks, seats) for page in pages)
    assert [{"mine": "taken", "taken": "mine"}[look] for look in first] == second


@in_browsers
def test_the_loser_is_told_and_shown_the_truth(site, open_page):
    """The loser's page hears no news, so it still believes that the seat is free."""
    deaf = open_page(
        site,
        "sse",
        on_the_way=lambda page: (
            page.devtools("Network.enable"),
            page.devtools("Network.setBlockedURLs", urls=["*/events/*"]),
        ),
    )
    winner = open_page(site)
    winner.wait_for(LINE_IS, live("websocket"))
    pick(winner, "F9")

    deaf.wait_for(STATE_IS, "F9", "free")
    deaf.click("#F9")
    deaf.wait_for(STATE_IS, "F9", "taken")
    deaf.wait_for(HAS_NOTICE, "seat F9 is taken")
    assert winner.evaluate(STATE_IS.replace("given", "arguments"), "F9", "mine")


# -- when something does not work ------------------------------------------------------------------


@in_browsers
@pytest.mark.parametrize(
    ("broken", "used", "seat"), [(["WebSocket"], "sse", "G3"), (["WebSocket", "EventSource"], "poll", "G4")]
)
def test_the_page_falls_back(site, open_page, broken, used, seat):
    """As behind a proxy that refuses what it does not know: the connection is closed before it opens."""
    refusing = "".join(
        f"""
        window.{name} = class extends EventTarget {{
          static CLOSED = 2;
          readyState = 2;
          constructor() {{
            super();
            setTimeout(() => {{ this.onclose?.(); this.dispatchEvent(new Event("error")); }});
          }}
          close() {{}}
        }};
        """
        for name in broken
    )
    page = open_page(
        site, on_the_way=lambda page: page.devtools("Page.addScriptToEvaluateOnNewDocument", source=refusing)
    )
    page.wait_for(LINE_IS, live(used))
    witness = open_page(site)
    witness.wait_for(LINE_IS, live("websocket"))
    pick(page, seat)
    witness.wait_for(STATE_IS, seat, "taken")
    pick(witness, "G7" if used == "sse" else "G8")
    page.wait_for(STATE_IS, "G7" if used == "sse" else "G8", "taken")


@in_browsers
@pytest.mark.parametrize("transport", ["websocket", "sse", "poll"])
def test_pages_come_back_after_a_restart_and_hear_what_they_missed(tmp_path, open_page, transport):
    with Site(tmp_path) as site:
        with site.running():
            page = open_page(site, transport)
            page.wait_for(LINE_IS, live(transport))
            page.evaluate("document.body.dataset.loaded = 'once'")
        site.manage("shell", "--command", HOLD_H4)
        with site.running():
            page.wait_for(STATE_IS, "H4", "taken", timeout=30)
            page.wait_for(LINE_IS, live(transport))
            assert page.evaluate("document.body.dataset.loaded") == "once"
            page.open("about:blank")


@in_browsers
@pytest.mark.skipif(SERVER != OUR_SERVER, reason="another server has no such workers")
def test_pages_on_two_servers_see_each_others_seats_over_redis(tmp_path, open_page):
    with redis_server(tmp_path / "redis") as engine, ExitStack() as stack:
        words = ("--workers", "1", "--layer", engine.url)
        sites = [stack.enter_context(Site(tmp_path, *words)) for _ in range(2)]
        for site in sites:
            stack.enter_context(site.running())
        first, second = (open_page(site, "websocket") for site in sites)
        for page in (first, second):
            page.wait_for(LINE_IS, live("websocket"))
        for page, other, seat in ((first, second, "B6"), (second, first, "B8")):
            pick(page, seat)
            other.wait_for(STATE_IS, seat, "taken")


@in_browsers
@pytest.mark.skipif(SERVER != OUR_SERVER, reason="another server has no such workers")
def test_pages_stay_connected_while_workers_come_and_go(tmp_path, open_page):
    """SIGHUP, then kill -9 of a worker: the line of both pages stays live, and each sees the other's seats."""
    with Site(tmp_path, *WORKERS) as site, site.running():
        first, second = open_page(site, "websocket"), open_page(site, "websocket")
        for page in (first, second):
            page.wait_for(LINE_IS, live("websocket"))
            page.evaluate(NOTE_STATES)
        pick(first, "B6")
        second.wait_for(STATE_IS, "B6", "taken")
        assert site.process is not None
        old = set(children(site.process.pid))

        site.process.send_signal(signal.SIGHUP)
        eventually(lambda: len(now := set(children(site.process.pid))) == 2 and not now & old, 30)
        pick(second, "B8")
        first.wait_for(STATE_IS, "B8", "taken")

        os.kill(children(site.process.pid)[0], signal.SIGKILL)
        pick(first, "C6")
        second.wait_for(STATE_IS, "C6", "taken")
        pick(second, "C8")
        first.wait_for(STATE_IS, "C8", "taken")
        for page in (first, second):
            assert page.evaluate("window.states") == []
            page.open("about:blank")


@in_browsers
def test_a_hold_that_ends_frees_the_seat_for_everybody(tmp_path, open_page):
    with Site(tmp_path, SEATMAP_HOLD_SECONDS="3") as site, site.running():
        holder, other = open_page(site, "websocket"), open_page(site, "poll")
        other.wait_for(LINE_IS, live("poll"))
        holder.wait_for(LINE_IS, live("websocket"))
        holder.click("#K5")
        other.wait_for(STATE_IS, "K5", "taken")
        other.wait_for(STATE_IS, "K5", "free")
        holder.wait_for(STATE_IS, "K5", "free")
        holder.wait_for(HAS_NOTICE, "Your time for seat K5 is up")
        for page in (holder, other):
            page.open("about:blank")


# -- the feeds, without a browser --------------------------------------------------------------------


def test_feeds_resume_exactly(site):
    visit = Visit.to(site)
    picked = ["J1", "J2", "J3"]
    ids = [visit.wish("pick", seat)[1]["event"]["id"] for seat in picked]

    with visit.ask("GET", f"/events/poll?after={ids[0]}") as response:
        assert [event["seat"] for event in json.load(response)["events"]] == picked[1:]

    # The browser's word counts more than the address, which is that of the first connection.
    with visit.ask("GET", "/events/stream?after=0", **{"Last-Event-ID": str(ids[0])}) as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        told = []
        while len(told) < 2:
            line = response.readline().decode().rstrip("\n")
            if line.startswith("data: "):
                told.append(json.loads(line.removeprefix("data: ")))
        assert [(event["id"], event["seat"]) for event in told] == list(zip(ids[1:], picked[1:], strict=True))


def test_long_poll_waits_for_news(site):
    visit, other = Visit.to(site), Visit.to(site)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(visit.ask, "GET", f"/events/poll?after={other.position}")
        status, answer = other.wish("pick", "J10")
        assert status == 200
        with waiting.result() as response:
            assert json.load(response)["events"][-1] == answer["event"]


def test_long_poll_ends_without_news(site):
    visit = Visit.to(site)
    with visit.ask("GET", f"/events/poll?after={visit.position}&wait=0.05") as response:
        assert json.load(response) == {"events": [], "after": visit.position}


def test_a_position_of_another_database_is_reset(site):
    with Visit.to(site).ask("GET", "/events/poll?after=1000000") as response:
        assert json.load(response) == {"reset": True}


REFUSED = [  # wish, seat -> status, reason
    ("pick", "A99", 404, "unknown"),
    ("pick", "I1", 409, "taken"),
    ("release", "I1", 409, "not-yours"),
]


@pytest.mark.parametrize(("wish", "seat", "status", "reason"), REFUSED)
def test_wishes_are_refused_with_a_reason(site, wish, seat, status, reason):
    Visit.to(site).wish("pick", "I1")  # by another visitor, the first time
    refused_with, answer = Visit.to(site).wish(wish, seat)
    assert (refused_with, answer["ok"], answer["reason"]) == (status, False, reason)
    assert answer["message"]


def test_a_visitor_holds_eight_seats_at_most(site):
    visit = Visit.to(site)
    statuses = [visit.wish("pick", f"K{number}")[0] for number in range(10, 19)]
    assert statuses == [200] * 8 + [409]
    assert visit.wish("release", "K10")[0] == 200
    assert visit.wish("pick", "K18")[0] == 200


def test_wishes_need_the_token_of_the_page(site):
    with Visit.to(site).ask("POST", "/seats/A10/pick") as response:
        assert response.status == 403
