"""
A Django site for the tests of the handler, in this process. Importing it configures Django.

Whatever is worth knowing about the course of a request is noted in EVENTS, by whoever knows it.
"""

import asyncio
import contextvars
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from django.conf import settings

FOLDER = Path(tempfile.mkdtemp(prefix="daphne-like-site-"))

STARTPROJECT = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

if not settings.configured:
    settings.configure(
        DEBUG=False,
        SECRET_KEY="not a secret",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        MIDDLEWARE=STARTPROJECT,
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "django.contrib.messages",
            "django.contrib.staticfiles",
        ],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(FOLDER / "db.sqlite3")}},
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
        STATIC_URL="/static/",
        USE_TZ=True,
    )

import django  # noqa: E402

django.setup()

from asgiref.local import Local  # noqa: E402
from asgiref.sync import async_to_sync, sync_to_async  # noqa: E402
from django.core.exceptions import PermissionDenied, SuspiciousOperation  # noqa: E402
from django.db import connection, transaction  # noqa: E402
from django.http import (  # noqa: E402
    FileResponse,
    Http404,
    HttpRequest,
    HttpResponse,
    JsonResponse,
    StreamingHttpResponse,
)
from django.template import engines  # noqa: E402
from django.template.response import TemplateResponse  # noqa: E402
from django.urls import get_script_prefix, include, path, register_converter, reverse  # noqa: E402
from django.utils.decorators import sync_and_async_middleware  # noqa: E402
from django.utils.deprecation import MiddlewareMixin  # noqa: E402
from django.views import View  # noqa: E402
from django.views.decorators.csrf import csrf_exempt  # noqa: E402

EVENTS: list[Any] = []

NUMBER: contextvars.ContextVar[int] = contextvars.ContextVar("number", default=0)
LOCAL = Local()

# Set by tests, for views to wait for.
GATE = threading.Event()
REACHED = threading.Event()


def note(*what: Any) -> None:
    EVENTS.append(what if len(what) > 1 else what[0])


# -- views ----------------------------------------------------------------------------------------


def hello(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"Hello, {request.GET.get('name', 'world')}!", content_type="text/plain")


async def async_hello(request: HttpRequest) -> HttpResponse:
    return hello(request)


class Both(View):
    async def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("class")


def meta(request: HttpRequest) -> HttpResponse:
    plain = {key: value for key, value in sorted(request.META.items()) if isinstance(value, (str, int, bool))}
    plain["_scheme"] = request.scheme
    plain["_path"] = request.path
    plain["_full"] = request.get_full_path()
    plain["_repr"] = repr(request)
    plain["_class"] = type(request).__mro__[-2].__name__
    plain["_encoding"] = request.encoding
    plain["_content_type"] = request.content_type
    plain["_params"] = request.content_params
    plain["_prefix"] = get_script_prefix()
    plain["_reverse"] = reverse("hello")
    plain["_headers"] = dict(request.headers)
    return JsonResponse(plain)


async def async_meta(request: HttpRequest) -> HttpResponse:
    return meta(request)


@csrf_exempt
def echo(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.body, content_type=request.META.get("CONTENT_TYPE"))


@csrf_exempt
async def async_echo(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.body, content_type=request.META.get("CONTENT_TYPE"))


@csrf_exempt
def upload(request: HttpRequest) -> HttpResponse:
    files = {name: [file.name, file.size, file.read(10).hex()] for name, file in request.FILES.items()}
    return JsonResponse({"post": request.POST.dict(), "files": files})


def protected(request: HttpRequest) -> HttpResponse:
    return HttpResponse("not reached by a POST without a token")


async def async_protected(request: HttpRequest) -> HttpResponse:
    return protected(request)


def cookies(request: HttpRequest) -> HttpResponse:
    response = HttpResponse(json.dumps(request.COOKIES))
    response.set_cookie("a", "1", max_age=None)
    response.set_cookie("b", "zwei; drei")
    response["X-Umlaut"] = "ä".encode().decode("latin1")
    del response["X-Absent"]
    return response


def session(request: HttpRequest) -> HttpResponse:
    return HttpResponse(repr(request.user.is_anonymous))


def raises(request: HttpRequest, what: str) -> HttpResponse:
    raise {
        "404": Http404("nothing here"),
        "403": PermissionDenied("no"),
        "400": SuspiciousOperation("hm"),
        "500": RuntimeError("broken view"),
    }[what]


async def async_raises(request: HttpRequest, what: str) -> HttpResponse:
    return raises(request, what)


def returns_none(request: HttpRequest) -> None:
    return None


async def async_returns_none(request: HttpRequest) -> None:
    return None


def status(request: HttpRequest, number: int) -> HttpResponse:
    return HttpResponse(status=number)


def template(request: HttpRequest) -> HttpResponse:
    return TemplateResponse(request, engines["django"].from_string("{{ a }} & {{ b }}"), {"a": "<", "b": 2})


async def async_template(request: HttpRequest) -> HttpResponse:
    return template(request)


def stream(request: HttpRequest) -> HttpResponse:
    return StreamingHttpResponse(f"part {number}\n" for number in range(int(request.GET.get("n", 3))))


def noted_stream(request: HttpRequest) -> HttpResponse:
    """Notes how far it has been pulled, and its end."""

    def parts() -> Any:
        try:
            for number in range(1000):
                note("pulled", number)
                yield b"x" * 16384
        finally:
            note("generator closed")

    return StreamingHttpResponse(parts())


def stream_of_rows(request: HttpRequest) -> HttpResponse:
    """Reads from a cursor while it streams, and says in which threads."""

    def parts() -> Any:
        with connection.cursor() as cursor:
            cursor.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400) SELECT i FROM n"
            )
            while row := cursor.fetchone():
                note("thread", threading.get_ident())
                yield b"%06d" % row[0] + b"." * 4090

    return StreamingHttpResponse(parts())


def broken_stream(request: HttpRequest) -> HttpResponse:
    def parts() -> Any:
        yield "first"
        raise RuntimeError("broken stream")

    return StreamingHttpResponse(parts())


async def async_stream(request: HttpRequest) -> HttpResponse:
    async def parts() -> Any:
        for number in range(3):
            yield f"part {number}\n"

    return StreamingHttpResponse(parts())


def sync_view_with_async_stream(request: HttpRequest) -> HttpResponse:
    LOCAL.value = "from the view"

    async def parts() -> Any:
        yield LOCAL.value
        await asyncio.sleep(0)
        yield " last"

    return StreamingHttpResponse(parts())


def file(request: HttpRequest) -> HttpResponse:
    return FileResponse(open(__file__, "rb"), as_attachment=True)


async def async_file(request: HttpRequest) -> HttpResponse:
    return file(request)


def contexts(request: HttpRequest) -> HttpResponse:
    """What another request has left in this thread is not to be seen."""
    seen = [NUMBER.get(), getattr(LOCAL, "value", None)]
    NUMBER.set(NUMBER.get() + 1)
    LOCAL.value = "mine"

    async def inner() -> list[Any]:
        seen_inside = [NUMBER.get(), LOCAL.value, threading.get_ident() == LOOP_THREAD[0]]
        seen_inside.append(await sync_to_async(threading.get_ident)() == me)
        NUMBER.set(100)
        return seen_inside

    me = threading.get_ident()
    inside = async_to_sync(inner)()
    return JsonResponse({"seen": seen, "inside": inside, "after": NUMBER.get()})


LOOP_THREAD = [threading.get_ident()]


async def async_contexts(request: HttpRequest) -> HttpResponse:
    seen = [NUMBER.get(), getattr(LOCAL, "value", None)]
    LOCAL.value = "mine"
    threads = [await sync_to_async(threading.get_ident)() for _ in range(3)]

    def inside() -> Any:
        NUMBER.set(7)
        return LOCAL.value

    local = await sync_to_async(inside)()
    return JsonResponse(
        {
            "seen": seen,
            "one thread": len(set(threads)) == 1 and LOOP_THREAD[0] not in threads,
            "local": local,
            "after": NUMBER.get(),
        }
    )


def rows(request: HttpRequest) -> HttpResponse:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 + 1")
        return HttpResponse(str(cursor.fetchone()[0]))


async def async_rows(request: HttpRequest) -> HttpResponse:
    return await sync_to_async(rows)(request)


def in_transaction(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(connection.in_atomic_block))


@transaction.non_atomic_requests
def not_in_transaction(request: HttpRequest) -> HttpResponse:
    return in_transaction(request)


def thread(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(threading.get_ident()))


def waits(request: HttpRequest) -> HttpResponse:
    note("view begins")
    REACHED.set()
    assert GATE.wait(30)
    note("view ends")
    return HttpResponse("done")


def waits_for_coroutine(request: HttpRequest) -> HttpResponse:
    async def forever() -> None:
        REACHED.set()
        await asyncio.Event().wait()

    try:
        async_to_sync(forever)()
    except asyncio.CancelledError:
        note("cancelled")
        REACHED.set()
        raise
    return HttpResponse("not reached")


async def async_waits(request: HttpRequest) -> HttpResponse:
    REACHED.set()
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        note("cancelled")
        raise
    return HttpResponse("not reached")


def sleeps(request: HttpRequest) -> HttpResponse:
    time.sleep(0.05)
    return HttpResponse("slept")


class OwnConverter:
    regex = "[a-z]+"

    def to_python(self, value: str) -> str:
        note("converter", threading.get_ident() == LOOP_THREAD[0])
        return value

    def to_url(self, value: str) -> str:
        return value


register_converter(OwnConverter, "own")


def converted(request: HttpRequest, word: str) -> HttpResponse:
    return HttpResponse(word)


urlpatterns = [
    path("", hello, name="hello"),
    path("async/", async_hello),
    path("class/", Both.as_view()),
    path("meta/", meta),
    path("async/meta/", async_meta),
    path("echo/", echo),
    path("async/echo/", async_echo),
    path("upload/", upload),
    path("protected/", protected),
    path("async/protected/", async_protected),
    path("cookies/", cookies),
    path("session/", session),
    path("raises/<str:what>/", raises),
    path("async/raises/<str:what>/", async_raises),
    path("none/", returns_none),
    path("async/none/", async_returns_none),
    path("status/<int:number>/", status),
    path("template/", template),
    path("async/template/", async_template),
    path("stream/", stream),
    path("noted-stream/", noted_stream),
    path("rows-stream/", stream_of_rows),
    path("broken-stream/", broken_stream),
    path("async/stream/", async_stream),
    path("sync/async-stream/", sync_view_with_async_stream),
    path("file/", file),
    path("async/file/", async_file),
    path("contexts/", contexts),
    path("async/contexts/", async_contexts),
    path("rows/", rows),
    path("async/rows/", async_rows),
    path("transaction/", in_transaction),
    path("no-transaction/", not_in_transaction),
    path("thread/", thread),
    path("waits/", waits),
    path("waits-for-coroutine/", waits_for_coroutine),
    path("async/waits/", async_waits),
    path("sleeps/", sleeps),
    path("own/<own:word>/", converted),
    path("included/", include(([path("deep/", async_hello)], "included"))),
]


# -- middleware -----------------------------------------------------------------------------------


class Noting(MiddlewareMixin):
    """Of the usual kind; notes its calls. What the request's headers ask for goes wrong in it."""

    name = "noting"

    def _maybe(self, request: HttpRequest, where: str) -> None:
        note(self.name, where)
        if request.headers.get("x-raise") == f"{self.name}.{where}":
            raise RuntimeError(f"broken middleware {self.name}.{where}")
        if request.headers.get("x-deny") == f"{self.name}.{where}":
            raise PermissionDenied

    def process_request(self, request: HttpRequest) -> HttpResponse | None:
        self._maybe(request, "request")
        if request.headers.get("x-answer") == self.name:
            return HttpResponse(f"from {self.name}")
        return None

    def process_view(self, request: HttpRequest, view: Any, args: Any, kwargs: Any) -> HttpResponse | None:
        self._maybe(request, "view")
        return None

    def process_template_response(self, request: HttpRequest, response: Any) -> Any:
        self._maybe(request, "template")
        response.context_data["b"] = self.name
        return response

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        note(self.name, "exception", str(error))
        return HttpResponse("mended") if "x-mend" in request.headers else None

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        self._maybe(request, "response")
        response[f"X-{self.name}"] = str(response.status_code)
        return response


class Outer(Noting):
    name = "outer"


class Inner(Noting):
    name = "inner"


class OnlyResponse(MiddlewareMixin):
    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        note("only response")
        return response


def sync_only(get_response: Any) -> Any:
    def middleware(request: HttpRequest) -> HttpResponse:
        note("sync only in")
        response: HttpResponse = get_response(request)
        note("sync only out")
        return response

    return middleware


def async_only(get_response: Any) -> Any:
    async def middleware(request: HttpRequest) -> HttpResponse:
        note("async only in")
        response: HttpResponse = await get_response(request)
        note("async only out")
        return response

    return middleware


async_only.async_capable = True  # type: ignore[attr-defined]
async_only.sync_capable = False  # type: ignore[attr-defined]


@sync_and_async_middleware
def either(get_response: Any) -> Any:
    if asyncio.iscoroutinefunction(get_response):

        async def middleware(request: HttpRequest) -> HttpResponse:
            note("either")
            response: HttpResponse = await get_response(request)
            return response

    else:

        def middleware(request: HttpRequest) -> HttpResponse:  # type: ignore[misc]
            note("either")
            response: HttpResponse = get_response(request)
            return response

    return middleware


def site_middleware(*names: str) -> list[str]:
    return [f"{__name__}.{name}" for name in names]
