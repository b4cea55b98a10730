"""
The tutorials, performed as they stand: each block in its order, and what one should see, in real browsers.

See tutorials.py for how a page is read.
"""

import signal
from pathlib import Path

import pytest

from tests.end_to_end.chromium import Page, running_chromedriver
from tests.end_to_end.clients import fetch
from tests.end_to_end.processes import eventually
from tests.end_to_end.tutorials import Tutorial

pytest.importorskip("channels", reason="the demo's requirements are not installed: pip install -e '.[demo]'")

LINE_IS = "document.getElementById('line').textContent === given[0]"
STATE_IS = "document.getElementById(given[0]).dataset.state === given[1]"
NOTICE_IS = "document.getElementById('notice').textContent === given[0]"
LINE = "document.getElementById('line')"
NOTE_STATES = (
    f"window.states = [], new MutationObserver(() => window.states.push({LINE}.textContent))"
    f".observe({LINE}, {{childList: true}})"
)
RELOAD_WITHIN = 20.0


def wait_for_reload(tutorial: Tutorial, file: str) -> None:
    """
    Save *file* until `runserver` has seen that.

    Django looks each second, and takes what it sees first for what has been loaded; a reader is slower.
    """

    def seen() -> bool:
        (tutorial.folder / file).touch()
        return f"{file} changed, reloading" in tutorial.server.stderr.text

    def served_again() -> bool:
        starts = tutorial.server.stdout.text.count("Starting ASGI/")
        return starts > tutorial.server.stderr.text.count("changed, reloading")

    eventually(seen, RELOAD_WITHIN)
    eventually(served_again, RELOAD_WITHIN)


def take(page: Page, seat: str) -> None:
    page.click(f"#{seat}")
    page.wait_for(STATE_IS, seat, "mine")


@pytest.mark.needs("chromium", "chromedriver")
def test_from_startproject_to_a_live_seat_map(tmp_path: Path) -> None:
    with Tutorial("django.md", tmp_path) as tutorial, running_chromedriver() as chromedriver:
        tutorial.perform("Begin")
        tutorial.perform("Three settings")
        tutorial.server.stdout.wait_for(tutorial.says("Starting ASGI/daphne-like version"))
        assert b"The install worked successfully" in fetch(tutorial.port).body

        tutorial.perform("Seats")
        tutorial.perform("The page")
        wait_for_reload(tutorial, "mysite/urls.py")
        with chromedriver.page() as first, chromedriver.page() as second:
            first.open(tutorial.url)
            assert first.evaluate("document.querySelectorAll('#seats button').length") == 24
            first.wait_for(LINE_IS, "away")
            refused = tutorial.says("Django can only handle ASGI/HTTP connections, not websocket.")
            tutorial.server.stderr.wait_for(refused)

            tutorial.perform("The line")
            wait_for_reload(tutorial, "mysite/asgi.py")
            first.wait_for(LINE_IS, "live")
            second.open(tutorial.url)
            second.wait_for(LINE_IS, "live")
            see_each_others_seats(first, second)

            tutorial.stop()
            for page in (first, second):
                page.wait_for(LINE_IS, "away")
            tutorial.perform("Serve it with workers")
            for page in (first, second):
                page.wait_for(LINE_IS, "live")
                page.evaluate(NOTE_STATES)
            see_each_others_seats(first, second)

            tutorial.perform("Change the code while the pages are connected")
            tutorial.server.stderr.wait_for("worker ready", count=4)
            for seat in ("B1", "B2", "B3"):
                take(first, seat)
            first.click("#B4")
            first.wait_for(NOTICE_IS, tutorial.says("Three seats are yours, and that is all."))
            second.wait_for(STATE_IS, "B3", "taken")
            assert [page.evaluate("window.states") for page in (first, second)] == [[], []]
        assert tutorial.left == []
        log = tutorial.server.stderr.text
        tutorial.stop()
        assert "Traceback" not in log


def see_each_others_seats(first: Page, second: Page) -> None:
    take(first, "A1")
    second.wait_for(STATE_IS, "A1", "taken")
    take(second, "A2")
    first.wait_for(STATE_IS, "A2", "taken")
    for page, other, seat in ((first, second, "A1"), (second, first, "A2")):
        page.click(f"#{seat}")
        other.wait_for(STATE_IS, seat, "free")


@pytest.mark.needs("chromium", "chromedriver")
def test_chat_with_workers(tmp_path: Path) -> None:
    with Tutorial("chat-with-workers.md", tmp_path) as tutorial, running_chromedriver() as chromedriver:
        tutorial.perform("")
        tutorial.perform("The application")
        tutorial.perform("Serve it")
        with chromedriver.page() as first, chromedriver.page() as second:
            pages = (first, second)
            for page in pages:
                enter(page, tutorial)
            talk(pages, "one")

            pid = tutorial.server.stderr.wait_for(r"worker ready worker=1 pid=(\d+)")[1]
            tutorial.perform("Kill a worker", NUMBER=pid)
            tutorial.server.stderr.wait_for("worker ready", count=3)
            talk(pages, "two")

            tutorial.change("Change the code", "chat.py")
            tutorial.perform("Change the code")
            tutorial.server.stderr.wait_for("worker ready", count=5)
            eventually(lambda: talk(pages, "three").startswith("THREE"))

            program = tutorial.folder / "chat.py"
            well = program.read_text()
            program.write_text(well.replace("(", "", 1))
            tutorial.server.signal(signal.SIGHUP)
            refused = tutorial.says("the new workers do not start, the old ones go on serving")
            tutorial.server.stderr.wait_for(refused)
            talk(pages, "four")
            for page in pages:
                assert not page.evaluate(f"{LINES}.some((line) => line.includes('gone'))")
            program.write_text(well)

            tutorial.stop()
            first.wait_for(f"{LINES}[0] === given[0]", "the connection is gone")
            tutorial.perform("Speak from outside", lambda: [enter(page, tutorial) for page in pages])
            for page in pages:
                page.wait_for(f"{LINES}[0]?.startsWith('Dinner is ready')")
        assert tutorial.left == []
        tutorial.stop()


LINES = "[...document.querySelectorAll('li')].map((line) => line.textContent)"


def enter(page: Page, tutorial: Tutorial) -> None:
    page.open(tutorial.url)
    page.wait_for("socket.readyState === WebSocket.OPEN")


def talk(pages: tuple[Page, Page], words: str) -> str:
    """The newest line, which both pages have, once somebody has said *words* in the first."""
    page, other = pages
    page.evaluate(
        "document.querySelector('input').value = arguments[0], document.forms[0].requestSubmit()", words
    )
    looks = f"({LINES}[0] ?? '').toLowerCase().startsWith(given[0]) && {LINES}[0]"
    line = page.wait_for(looks, words)
    assert other.wait_for(looks, words) == line
    return str(line)
