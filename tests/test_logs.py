"""daphne_like.logs: what a line looks like, what a stranger cannot make of it, and what is not written."""

import json
import logging
import logging.config
import re
import subprocess
import sys
import time

import pytest

from daphne_like import logs
from daphne_like.errors import StartupFailed
from daphne_like.settings import Settings

REQUEST = {
    "client": ("192.0.2.1", 4711),
    "method": "GET",
    "target": b"/seats?row=7",
    "http_version": "1.1",
    "status": 200,
    "bytes_sent": 512,
    "duration": 0.0123456,
    "user_agent": b"Mozilla/5.0 (X11)",
    "referer": b"https://example.org/",
}
HANDSHAKE = {key: REQUEST[key] for key in ("client", "target", "http_version", "user_agent", "referer")}
CLOSED = {
    **HANDSHAKE,
    "code": 1001,
    "duration": 61.5,
    "bytes_received": 300,
    "bytes_sent": 9000,
    "messages_received": 3,
    "messages_sent": 90,
}


@pytest.fixture(autouse=True)
def logging_as_it_was():
    ours = [logging.getLogger(name) for name in (logs.ACCESS, logs.SERVER)]
    before = [(each, each.handlers[:], each.level, each.propagate) for each in (logging.getLogger(), *ours)]
    yield
    for each, handlers, level, propagate in before:
        for handler in set(each.handlers) - set(handlers):
            handler.close()
        each.handlers[:] = handlers
        each.setLevel(level)
        each.propagate, each.disabled = propagate, False


def forget_handlers() -> None:
    """As in a fresh process. Not in a fixture: pytest adds its own handlers after those have run."""
    logging.getLogger().handlers[:] = []


def configure(settings: Settings) -> None:
    forget_handlers()
    logs.configure(settings)


@pytest.fixture
def written(tmp_path):
    """Sets the access log up with the settings given, calls *write* with it, and returns the file's lines."""

    def run(write, **given) -> list[str]:
        path = tmp_path / "access.log"
        settings = Settings(access_log=str(path), **given)
        configure(settings)
        write(logs.AccessLog(settings))
        return path.read_text(encoding="utf-8").splitlines()

    return run


# -- combined -------------------------------------------------------------------------------------

DATE = r"\[\d\d/(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]"


def test_combined_line(written):
    [line] = written(lambda access: access.http(**REQUEST))
    assert re.fullmatch(
        rf'192\.0\.2\.1 - - {DATE} "GET /seats\?row=7 HTTP/1\.1" 200 512 '
        r'"https://example\.org/" "Mozilla/5\.0 \(X11\)" 0\.012346',
        line,
    )


def test_combined_line_of_what_is_absent(written):
    """A Unix peer has no address; a client that left before a response began has no status."""
    absent = {"client": None, "status": 0, "bytes_sent": 0, "user_agent": b"", "referer": b""}
    [line] = written(lambda access: access.http(**{**REQUEST, **absent}))
    assert re.fullmatch(rf'- - - {DATE} "GET /seats\?row=7 HTTP/1\.1" - - "-" "-" 0\.012346', line)


def test_combined_lines_of_a_websocket(written):
    """Daphne's words, with how long and how much."""

    def write(access):
        access.websocket_open(**HANDSHAKE, duration=0.004)
        access.websocket_close(**CLOSED)

    opened, closed = written(write)
    assert '"WSCONNECT /seats?row=7 HTTP/1.1" 101 - ' in opened
    assert opened.endswith(" 0.004000")
    assert '"WSDISCONNECT /seats?row=7 HTTP/1.1" 1001 9000 ' in closed
    assert closed.endswith(" 61.500000 received=3/300 sent=90/9000")


@pytest.mark.parametrize(
    ("zone", "instant", "expected"),
    [
        ("UTC", 1700000000, "[14/Nov/2023:22:13:20 +0000]"),
        ("America/St_Johns", 1700000000, "[14/Nov/2023:18:43:20 -0330]"),
        ("Asia/Kathmandu", 1700000000, "[15/Nov/2023:03:58:20 +0545]"),
    ],
)
def test_combined_date_is_local_time_with_its_offset(zone, instant, expected, written, monkeypatch):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        monkeypatch.setattr(time, "time", lambda: instant + 0.9)
        [line] = written(lambda access: access.http(**REQUEST))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert expected in line


def test_date_follows_the_clock(written, monkeypatch):
    """It is formatted once a second, not once."""

    def write(access):
        for instant in (1700000000.0, 1700000000.5, 1700000001.0):
            monkeypatch.setattr(time, "time", lambda instant=instant: instant)
            access.http(**REQUEST)

    seconds = [re.search(r":(\d\d) [+-]\d{4}\]", line)[1] for line in written(write)]
    assert seconds == ["20", "20", "21"]


# -- strangers' text ------------------------------------------------------------------------------

HOSTILE = [  # bytes of a client -> inside of a combined line's quotes
    (b'" 200 0 "', r"\x22 200 0 \x22"),
    (b"a\r\n127.0.0.1 - - forged", r"a\x0d\x0a127.0.0.1 - - forged"),
    (b"\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
    (b"back\\slash", r"back\x5cslash"),
    (b"caf\xc3\xa9", r"caf\xc3\xa9"),
    (b"\x9b31m", r"\x9b31m"),
    (b"\x00\x7f", r"\x00\x7f"),
]


@pytest.mark.parametrize(("text", "expected"), HOSTILE)
@pytest.mark.parametrize("place", ["target", "user_agent", "referer"])
def test_combined_line_is_one_line_whatever_a_client_sends(place, text, expected, written):
    [line] = written(lambda access: access.http(**{**REQUEST, place: text}))
    assert expected in line
    assert line.count('"') == 6
    assert line.isascii()


def test_method_and_forwarded_address_are_strangers_text_too(written):
    [line] = written(lambda access: access.http(**{**REQUEST, "method": 'G"T', "client": ("::1\x1b[0m", 0)}))
    assert line.startswith(r"::1\x1b[0m - - ")
    assert r'"G\x22T /seats' in line


@pytest.mark.parametrize(("text", "_"), HOSTILE)
def test_json_line_is_one_object_whatever_a_client_sends(text, _, written):
    [line] = written(lambda access: access.http(**{**REQUEST, "user_agent": text}), access_log_format="json")
    said = json.loads(line)["user_agent"]
    assert all(character.isprintable() for character in said)


# -- JSON -----------------------------------------------------------------------------------------


def test_json_line(written, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1700000000.25)
    [line] = written(lambda access: access.http(**REQUEST), access_log_format="json")
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.250Z",
        "event": "http",
        "client": "192.0.2.1",
        "client_port": 4711,
        "method": "GET",
        "path": "/seats?row=7",
        "http_version": "1.1",
        "status": 200,
        "bytes_sent": 512,
        "duration": 0.0123456,
        "user_agent": "Mozilla/5.0 (X11)",
        "referer": "https://example.org/",
    }


def test_json_lines_of_a_websocket(written):
    def write(access):
        access.websocket_open(**HANDSHAKE, duration=0.004)
        access.websocket_close(**CLOSED)

    opened, closed = (json.loads(line) for line in written(write, access_log_format="json"))
    assert (opened["event"], opened["status"], opened["duration"]) == ("websocket.open", 101, 0.004)
    assert (closed["event"], closed["code"], closed["duration"]) == ("websocket.close", 1001, 61.5)
    assert closed["status"] == 101, "a formatter with %(status)s meets this record, too"
    assert (closed["messages_received"], closed["bytes_received"]) == (3, 300)
    assert (closed["messages_sent"], closed["bytes_sent"]) == (90, 9000)


def test_json_text_is_utf8_where_it_is(written):
    [line] = written(
        lambda access: access.http(**{**REQUEST, "user_agent": "Café".encode(), "target": b"/\xff"}),
        access_log_format="json",
    )
    assert json.loads(line)["user_agent"] == "Café"
    assert json.loads(line)["path"] == r"/\xff"


# -- what is written, and where -------------------------------------------------------------------

SKIPPED = [  # target, status, written?
    (b"/healthz", 200, False),
    (b"/healthz?probe=1", 204, False),
    (b"/healthz", 500, True),
    (b"/healthz", 0, True),
    (b"/healthz/deep", 200, True),
    (b"/", 200, True),
]


@pytest.mark.parametrize(("target", "status", "expected"), SKIPPED)
def test_skipped_paths_are_written_only_when_they_fail(target, status, expected, written):
    lines = written(
        lambda access: access.http(**{**REQUEST, "target": target, "status": status}),
        access_log_skip=("/healthz",),
    )
    assert bool(lines) is expected


def test_skipped_websockets(written):
    def write(access):
        access.websocket_open(**HANDSHAKE, duration=0)
        access.websocket_close(**CLOSED)

    assert written(write, access_log_skip=("/seats",)) == []


@pytest.mark.parametrize("given", [{"verbosity": 0}, {"access_log": ""}])
def test_access_log_is_off(given, capsys):
    settings = Settings(**given)
    configure(settings)
    access = logs.AccessLog(settings)
    assert not access.enabled
    access.http(**REQUEST)
    access.websocket_open(**HANDSHAKE, duration=0)
    access.websocket_close(**CLOSED)
    assert capsys.readouterr() == ("", "")


def test_access_log_is_off_while_nobody_listens():
    """Embedded, without any logging configuration, it costs nothing."""
    forget_handlers()
    assert not logs.AccessLog(Settings()).enabled


def test_access_log_goes_to_stdout_and_nowhere_else(capsys):
    settings = Settings()
    configure(settings)
    logs.AccessLog(settings).http(**REQUEST)
    out, err = capsys.readouterr()
    assert "GET /seats" in out
    assert err == ""


def test_access_log_follows_rotation(tmp_path):
    path = tmp_path / "access.log"
    settings = Settings(access_log=str(path))
    configure(settings)
    access = logs.AccessLog(settings)
    access.http(**REQUEST)
    path.rename(tmp_path / "access.log.1")
    access.http(**REQUEST)
    assert len(path.read_text().splitlines()) == 1
    assert len((tmp_path / "access.log.1").read_text().splitlines()) == 1


def test_access_log_that_cannot_be_opened(tmp_path):
    with pytest.raises(
        StartupFailed, match=r"^--access-log .*/absent/access\.log: No such file or directory$"
    ):
        configure(Settings(access_log=str(tmp_path / "absent" / "access.log")))


def test_records_carry_the_fields_for_any_configuration(caplog):
    """A program with its own logging gets attributes, and the line as the message."""
    logging.getLogger().addHandler(caplog.handler)
    caplog.set_level(logging.INFO, logs.ACCESS)
    access = logs.AccessLog(Settings())
    assert access.enabled
    access.http(**REQUEST)
    access.websocket_close(**CLOSED)
    first, second = caplog.records
    assert first.name == "daphne_like.access"
    assert (first.event, first.client, first.client_port) == ("http", "192.0.2.1", 4711)
    assert (first.method, first.path, first.status, first.bytes_sent) == ("GET", "/seats?row=7", 200, 512)
    assert first.duration == REQUEST["duration"]
    assert '"GET /seats?row=7 HTTP/1.1" 200 512' in first.getMessage()
    assert (second.event, second.code, second.messages_sent) == ("websocket.close", 1001, 90)


# -- ordinary lines -------------------------------------------------------------------------------

FIELDS = [  # extra -> what is appended
    ({}, ""),
    ({"client": ("192.0.2.1", 4711), "status": 403}, " client=192.0.2.1:4711 status=403"),
    ({"client": ("::1", 80)}, " client=[::1]:80"),
    ({"reason": "two Host fields"}, ' reason="two Host fields"'),
    ({"reason": 'a"b\nc'}, r' reason="a\x22b\x0ac"'),
    ({"target": b"/\xff\x1b"}, r' target="/\xff\x1b"'),
    ({"reason": ""}, ' reason=""'),
    ({"seconds": 0.1234567891}, " seconds=0.123457"),
    ({"path": None}, " path=None"),
]


@pytest.mark.parametrize(("extra", "expected"), FIELDS)
def test_fields_are_appended_to_the_sentence(extra, expected, capsys):
    configure(Settings(log_fmt="%(levelname)s %(message)s"))
    logging.getLogger(logs.SERVER).info("handshake refused", extra=extra)
    assert capsys.readouterr().err == f"INFO handshake refused{expected}\n"


def test_fields_stand_before_the_traceback(capsys):
    configure(Settings(log_fmt="%(message)s"))
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger(logs.SERVER).exception("it failed", extra={"path": "/x"})
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["it failed path=/x", "Traceback (most recent call last):"]
    assert lines[-1] == "ValueError: why"


def test_others_records_are_formatted_as_ever(capsys):
    configure(Settings(log_fmt="%(message)s"))
    logging.getLogger("django.request").warning("Not Found: %s", "/x", extra={"status_code": 404})
    assert capsys.readouterr().err == "Not Found: /x\n"


@pytest.mark.parametrize(("verbosity", "level"), [(0, "WARNING"), (1, "INFO"), (2, "DEBUG"), (3, "DEBUG")])
def test_verbosity_is_the_root_loggers_level(verbosity, level):
    configure(Settings(verbosity=verbosity, access_log=""))
    assert logging.getLevelName(logging.getLogger().level) == level


def test_configured_root_logger_is_left_alone():
    """As logging.basicConfig: an application that set logging up before us has its way."""
    forget_handlers()
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    logs.configure(Settings(access_log=""))
    assert logging.getLogger().handlers == [handler]
    assert logging.getLogger().level == logging.WARNING


def test_configure_twice_writes_once(capsys):
    configure(Settings())
    logs.configure(Settings())
    logs.AccessLog(Settings()).http(**REQUEST)
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_dictconfig_of_a_django_site_does_not_silence_the_server(capsys):
    """dictConfig disables every logger that was there before, unless told otherwise; sites forget to tell."""
    configure(Settings(log_fmt="%(message)s"))
    logging.config.dictConfig({"version": 1})
    assert logging.getLogger(logs.SERVER).disabled
    logs.enable_loggers()
    access = logs.AccessLog(Settings())
    assert access.enabled
    access.http(**REQUEST)
    logging.getLogger(logs.SERVER).warning("still here")
    out, err = capsys.readouterr()
    assert "GET /seats" in out
    assert err == "still here\n"


def test_configuration_that_names_the_access_log_takes_it_over(tmp_path, capsys):
    """The example of docs/reference/logs.md."""
    path = tmp_path / "audit.log"
    configure(Settings())
    logging.config.dictConfig(
        {
            "version": 1,
            "handlers": {"audit": {"class": "logging.FileHandler", "filename": path, "formatter": "audit"}},
            "formatters": {"audit": {"format": "%(client)s %(method)s %(path)s %(status)s"}},
            "loggers": {"daphne_like.access": {"handlers": ["audit"]}},
        }
    )
    logs.enable_loggers()
    access = logs.AccessLog(Settings())
    access.http(**REQUEST)
    access.websocket_open(**HANDSHAKE, duration=0)
    access.websocket_close(**CLOSED)
    assert path.read_text() == "192.0.2.1 GET /seats?row=7 200\n" + "192.0.2.1 GET /seats?row=7 101\n" * 2
    assert capsys.readouterr() == ("", "")


def test_importing_configures_nothing():
    code = "import logging, daphne_like.logs\nassert not logging.getLogger('daphne_like').hasHandlers()"
    subprocess.run([sys.executable, "-c", code], check=True)
