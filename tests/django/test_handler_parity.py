"""
The same request through Django's own ASGIHandler and through ours: the same answer, and the same things
happen on the way, in the same order.
"""

import gc
from collections.abc import Sequence
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIHandler as DjangosHandler
from django.core.signals import request_finished, request_started
from django.test import override_settings

from daphne_like.django.handler import ASGIHandler
from tests.django.asgi_calls import Answer, call, http_scope
from tests.django.handler_site import EVENTS, STARTPROJECT, site_middleware

MULTIPART = (
    b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
    b'--b\r\nContent-Disposition: form-data; name="f"; filename="x.bin"\r\n\r\n'
    + b"\0\1\2" * 9
    + b"\r\n--b--\r\n"
)

# name -> scope's arguments, and the body.
REQUESTS: dict[str, tuple[dict[str, Any], Sequence[bytes]]] = {
    "hello": ({"path": "/"}, [b""]),
    "query": ({"path": "/?name=J%C3%BCrgen&x=1"}, [b""]),
    "async": ({"path": "/async/"}, [b""]),
    "class": ({"path": "/class/"}, [b""]),
    "class, wrong method": ({"path": "/class/", "method": "DELETE", "headers": {"x-mend": "1"}}, [b""]),
    "head": ({"path": "/", "method": "HEAD"}, [b""]),
    "included": ({"path": "/included/deep/"}, [b""]),
    "meta": (
        {"path": "/meta/?a=b", "headers": {"Accept": "x", "X-Two": "1", "x-two": "2", "a_b": "c"}},
        [b""],
    ),
    "meta async": (
        {"path": "/async/meta/?a=b", "headers": {"content-type": "text/x; charset=latin1"}},
        [b""],
    ),
    "meta, mounted": ({"path": "/app/meta/", "root_path": "/app"}, [b""]),
    "async, mounted": ({"path": "/app/async/", "root_path": "/app"}, [b""]),
    "meta, unix socket": ({"path": "/meta/", "client": None, "server": ("/run/x.sock", None)}, [b""]),
    "meta, nothing known": ({"path": "/meta/", "client": None, "server": None, "scheme": "https"}, [b""]),
    "bad query": ({"path": "/?\xff".encode("latin1").decode("latin1"), "query_string": b"\xff"}, [b""]),
    "echo": ({"path": "/echo/", "method": "POST", "headers": {"content-type": "text/x"}}, [b"abc"]),
    "echo in pieces": (
        {"path": "/echo/", "method": "PUT", "headers": {"content-type": "a/b"}},
        [b"ab", b"", b"c"],
    ),
    "echo async": (
        {"path": "/async/echo/", "method": "POST", "headers": {"content-type": "a/b"}},
        [b"a", b"b"],
    ),
    "echo large": (
        {"path": "/echo/", "method": "POST", "headers": {"content-type": "a/b"}},
        [b"x" * 3_000_000],
    ),
    "upload": (
        {
            "path": "/upload/",
            "method": "POST",
            "headers": {"content-type": "multipart/form-data; boundary=b"},
        },
        [MULTIPART[:20], MULTIPART[20:]],
    ),
    "malformed upload": (
        {"path": "/upload/", "method": "POST", "headers": {"content-type": "multipart/form-data; boundary="}},
        [MULTIPART],
    ),
    "form": (
        {
            "path": "/upload/",
            "method": "POST",
            "headers": {"content-type": "application/x-www-form-urlencoded"},
        },
        [b"a=1&b=%C3%A4"],
    ),
    "too many fields": (
        {
            "path": "/upload/",
            "method": "POST",
            "headers": {"content-type": "application/x-www-form-urlencoded"},
        },
        [b"a=1&" * 1001],
    ),
    "no csrf token": ({"path": "/protected/", "method": "POST"}, [b""]),
    "no csrf token, async": ({"path": "/async/protected/", "method": "POST"}, [b""]),
    "cookies": ({"path": "/cookies/", "headers": {"cookie": 'a=b; c="d e"'}}, [b""]),
    "404": ({"path": "/raises/404/"}, [b""]),
    "403": ({"path": "/raises/403/"}, [b""]),
    "400": ({"path": "/raises/400/"}, [b""]),
    "500": ({"path": "/raises/500/"}, [b""]),
    "500 mended": ({"path": "/raises/500/", "headers": {"x-mend": "1"}}, [b""]),
    "404 async": ({"path": "/async/raises/404/"}, [b""]),
    "403 async": ({"path": "/async/raises/403/"}, [b""]),
    "500 async": ({"path": "/async/raises/500/"}, [b""]),
    "500 async mended": ({"path": "/async/raises/500/", "headers": {"x-mend": "1"}}, [b""]),
    "no such page": ({"path": "/nowhere/"}, [b""]),
    "slash missing": ({"path": "/async"}, [b""]),
    "slash missing, sync": ({"path": "/meta?a=b"}, [b""]),
    "none": ({"path": "/none/"}, [b""]),
    "none async": ({"path": "/async/none/"}, [b""]),
    "204": ({"path": "/status/204/"}, [b""]),
    "503": ({"path": "/status/503/"}, [b""]),
    "template": ({"path": "/template/"}, [b""]),
    "template async": ({"path": "/async/template/"}, [b""]),
    "stream": ({"path": "/stream/"}, [b""]),
    "stream, empty": ({"path": "/stream/?n=0"}, [b""]),
    "stream, long": ({"path": "/stream/?n=20000"}, [b""]),
    "stream async": ({"path": "/async/stream/"}, [b""]),
    "stream async, sync view": ({"path": "/sync/async-stream/"}, [b""]),
    "file": ({"path": "/file/"}, [b""]),
    "file async": ({"path": "/async/file/"}, [b""]),
    "contexts": ({"path": "/contexts/"}, [b""]),
    "contexts async": ({"path": "/async/contexts/"}, [b""]),
    "rows": ({"path": "/rows/"}, [b""]),
    "rows async": ({"path": "/async/rows/"}, [b""]),
    "bad host": ({"path": "/", "headers": {"host": "a b"}}, [b""]),
}

ASKED = {
    f"{how} {where}": {how: where}
    for how, places in (
        ("x-raise", ("request", "view", "response")),
        ("x-deny", ("request", "view", "response")),
    )
    for where in (f"{name}.{place}" for name in ("outer", "inner") for place in places)
} | {"answer outer": {"x-answer": "outer"}, "answer inner": {"x-answer": "inner"}}
for name, headers in ASKED.items():
    for kind, path in (("sync", "/"), ("async", "/async/")):
        REQUESTS[f"{name}, {kind}"] = ({"path": path, "headers": headers}, [b""])

SITES: dict[str, dict[str, Any]] = {
    "bare": {"MIDDLEWARE": []},
    "startproject": {"MIDDLEWARE": STARTPROJECT},
    "startproject, DEBUG": {"MIDDLEWARE": STARTPROJECT, "DEBUG": True},
    "noting": {"MIDDLEWARE": site_middleware("Outer", "Inner", "OnlyResponse")},
    "noting within": {
        "MIDDLEWARE": [
            *STARTPROJECT[:4],
            *site_middleware("Outer"),
            *STARTPROJECT[4:],
            *site_middleware("Inner"),
        ]
    },
    "sync only": {"MIDDLEWARE": site_middleware("Outer", "sync_only", "Inner")},
    "async only": {"MIDDLEWARE": site_middleware("Outer", "async_only", "Inner")},
    "both kinds": {"MIDDLEWARE": site_middleware("Outer", "sync_only", "either", "async_only", "Inner")},
    "either": {"MIDDLEWARE": site_middleware("either", "Outer", "either", "Inner")},
    "mounted": {"MIDDLEWARE": STARTPROJECT, "FORCE_SCRIPT_NAME": "/forced"},
    "sessions everywhere": {
        "MIDDLEWARE": STARTPROJECT,
        "SESSION_SAVE_EVERY_REQUEST": True,
        "SESSION_ENGINE": "django.contrib.sessions.backends.signed_cookies",
        "CSRF_USE_SESSIONS": True,
        "MESSAGE_STORAGE": "django.contrib.messages.storage.session.SessionStorage",
    },
    "atomic": {"MIDDLEWARE": STARTPROJECT, "PREPEND_WWW": True},
}


class Signals:
    """Notes request_started and request_finished, as a receiver of the site's own."""

    def __enter__(self) -> None:
        request_started.connect(self.started)
        request_finished.connect(self.finished)

    def __exit__(self, *_: object) -> None:
        request_started.disconnect(self.started)
        request_finished.disconnect(self.finished)

    def started(self, sender: Any, scope: Any, **_: Any) -> None:
        EVENTS.append(("started", sender.__name__, scope["path"]))

    def finished(self, sender: Any, **_: Any) -> None:
        EVENTS.append(("finished", getattr(sender, "__name__", sender)))


async def taken(handler: Any, request: str) -> tuple[Answer, list[Any]]:
    arguments, body = REQUESTS[request]
    EVENTS.clear()
    answer = await call(handler, http_scope(**arguments), body)
    return answer, EVENTS.copy()


@pytest.mark.parametrize("signals", ["watched", "plain"])
@pytest.mark.parametrize("site", SITES)
@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")
async def test_same_as_djangos_own(site, signals, caplog):
    """Each request, on each site."""
    different = []
    with override_settings(**SITES[site]):
        theirs, ours = DjangosHandler(), ASGIHandler()
        for request in REQUESTS:
            results = []
            for handler in (theirs, ours):
                caplog.clear()
                if signals == "watched":
                    with Signals():
                        answer, events = await taken(handler, request)
                else:
                    answer, events = await taken(handler, request)
                logged = sorted(
                    (each.name, each.levelname, each.getMessage())
                    for each in caplog.records
                    if each.name.startswith("django")
                )
                results.append((comparable(answer), events, logged))
            if results[0] != results[1]:
                different.append((request, *results))
    gc.collect()
    assert different == []


def comparable(answer: Answer) -> tuple[Any, ...]:
    status, headers, body, *rest = answer.seen()
    if (status == 500 and b"Traceback" in body) or b"<html" in body:
        body = b"(a page about an error)"  # with addresses of objects, and of lines
        headers = [each for each in headers if each[0].lower() != b"content-length"]
    return (status, headers, body, *rest)
