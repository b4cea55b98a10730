"""
Headless Chromium through chromedriver, with the standard library alone.

The wire is W3C WebDriver: JSON over HTTP to a chromedriver of our own, which starts one Chromium per
session. Each `Page` is a session with a fresh profile, so two pages are two visitors with a cookie jar each.
Only what the tests need is here; a method is one WebDriver command. Both programs are found on PATH.

No test sleeps: `Page.wait_for` leaves a function in the page that looks until its condition holds.
"""

import base64
import http.client
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ARGUMENTS = (
    "--headless",
    "--no-sandbox",  # its sandbox does not work for root, nor in most containers
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,1000",
)
WAIT = 15.0  # seconds for a condition in a page
COMMAND_TIMEOUT = 60.0  # seconds for one WebDriver command; starting Chromium is the slowest

# Looks at a condition until it holds; the driver's script timeout ends it. An exception ends it at once.
_LOOK = """
const [condition, given, done] = arguments;
const holds = new Function("...given", `return (${condition})`);
(function look() {
  try {
    const value = holds(...given);
    if (value) done({ value }); else setTimeout(look, 20);
  } catch (error) {
    done({ error: String(error) });
  }
})();
"""


class WebDriverError(Exception):
    """A command that chromedriver refused; `code` is the standard's error code, e.g. "script timeout"."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@contextmanager
def running_chromedriver() -> Iterator["Chromedriver"]:
    """A chromedriver on a port that it chose; it and its browsers are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="chromedriver-") as directory:
        log = Path(directory, "chromedriver.log")
        process = subprocess.Popen(
            ["chromedriver", "--port=0", f"--log-path={log}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        with process:
            try:
                for line in process.stdout:
                    if found := re.search(r"started successfully on port (\d+)", line):
                        yield Chromedriver(int(found[1]))
                        break
                else:
                    raise WebDriverError("session not created", "chromedriver ended before it had a port")
            finally:
                process.terminate()


class Chromedriver:
    """A chromedriver that listens on 127.0.0.1."""

    def __init__(self, port: int) -> None:
        self._port = port

    @contextmanager
    def page(self) -> Iterator["Page"]:
        """A new browser with a fresh profile and an empty page."""
        with ExitStack() as stack:
            profile = stack.enter_context(
                # Chromium's last processes may still write while it is removed.
                tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
            )
            options = {
                "binary": shutil.which("chromium"),
                "args": [*ARGUMENTS, f"--user-data-dir={profile}"],
            }
            wanted = {
                "browserName": "chrome",
                "goog:chromeOptions": options,
                "goog:loggingPrefs": {"browser": "ALL"},
            }
            answer = self.command("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            page = Page(self, answer["sessionId"])
            stack.callback(page.close)
            yield page

    def command(self, method: str, path: str, parameters: dict[str, Any] | None = None) -> Any:
        """
        Carry out one WebDriver command and return its value.

        Raises: WebDriverError with the code that chromedriver gave.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=COMMAND_TIMEOUT)
        try:
            body = None if parameters is None else json.dumps(parameters)
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            value = json.loads(response.read())["value"]
        finally:
            connection.close()
        if response.status != 200:
            raise WebDriverError(value["error"], value["message"])
        return value


class Page:
    """One browser showing one page."""

    def __init__(self, driver: Chromedriver, session_id: str) -> None:
        self._driver = driver
        self._path = f"/session/{session_id}"

    def open(self, url: str) -> None:
        """Show *url*; returns when the page and its scripts are loaded."""
        self._command("POST", "/url", {"url": url})

    def close(self) -> None:
        """End the browser."""
        self._driver.command("DELETE", self._path)

    def click(self, css: str) -> None:
        """Click the middle of the first element that *css* selects, as a mouse does."""
        element = self._command("POST", "/element", {"using": "css selector", "value": css})
        (reference,) = element.values()
        self._command("POST", f"/element/{reference}/click", {})

    def press(self, key: str) -> None:
        """Press and release *key*, a character or WebDriver's code point for it, where the focus is."""
        stroke = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self._command("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": stroke}]})

    def evaluate(self, expression: str, *given: Any) -> Any:
        """The value of a JavaScript expression in the page; *given* are its `arguments`."""
        return self._command(
            "POST", "/execute/sync", {"script": f"return ({expression})", "args": list(given)}
        )

    def wait_for(self, condition: str, *given: Any, timeout: float = WAIT) -> Any:
        """
        Wait until the JavaScript expression *condition* is true in the page, and return its value.

        Args:
            given: `given` in the expression.
            timeout: seconds.

        Raises: TimeoutError with the page's console in it.
        """
        self._command("POST", "/timeouts", {"script": int(timeout * 1000)})
        try:
            found = self._command(
                "POST", "/execute/async", {"script": _LOOK, "args": [condition, list(given)]}
            )
        except WebDriverError as error:
            if error.code != "script timeout":
                raise
            raise TimeoutError(f"{condition} with {given}; console: {self.console()}") from error
        if "error" in found:
            raise WebDriverError("javascript error", f"{found['error']} in {condition}")
        return found["value"]

    def console(self) -> list[str]:
        """What the page has written to its console since the last call, errors of its scripts included."""
        entries = self._command("POST", "/se/log", {"type": "browser"})
        return [f"{entry['level']}: {entry['message']}" for entry in entries]

    def screenshot(self, path: Path) -> None:
        """Save what the window shows, as PNG."""
        path.write_bytes(base64.b64decode(self._command("GET", "/screenshot")))

    def devtools(self, command: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol, e.g. `Network.emulateNetworkConditions`."""
        return self._command("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def _command(self, method: str, path: str, parameters: dict[str, Any] | None = None) -> Any:
        return self._driver.command(method, self._path + path, parameters)
