"""--reload: a change is served after a moment, and no connection is refused in that moment."""

import threading
from pathlib import Path

from tests.end_to_end.clients import connect, fetch
from tests.end_to_end.processes import eventually, serving

SITE = """
async def application(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%s"})
"""


class Visitors(threading.Thread):
    """One request after the other, each on a new connection: what came, and what went wrong."""

    def __init__(self, port: int) -> None:
        super().__init__(name="visitors", daemon=True)
        self.port = port
        self.seen: list[bytes] = []
        self.failures: list[str] = []
        self._enough = threading.Event()

    def run(self) -> None:
        while not self._enough.is_set():
            try:
                self.seen.append(fetch(self.port, timeout=30).body)
            except OSError as error:
                self.failures.append(repr(error))

    def stop(self) -> None:
        self._enough.set()
        self.join(30)


def test_change_is_served_and_nobody_refused(tmp_path: Path) -> None:
    site = tmp_path / "site_module.py"
    site.write_text(SITE % "before")
    words = ("-p", "0", "--reload", "--app-dir", str(tmp_path), "site_module:application")
    with serving(*words, expected_trouble=True) as server:  # a SyntaxError, shown to the developer
        visitors = Visitors(server.port)
        visitors.start()
        try:
            eventually(lambda: b"before" in visitors.seen)
            site.write_text(SITE % "after the change")
            eventually(lambda: b"after the change" in visitors.seen)
            site.write_text("def broken(:\n")
            server.stderr.wait_for("SyntaxError")
            waiting = connect(server.port)  # nobody serves now, and still it is not refused
            waiting.close()
            site.write_text(SITE % "mended")
            eventually(lambda: b"mended" in visitors.seen)
        finally:
            visitors.stop()
        assert visitors.failures == []
