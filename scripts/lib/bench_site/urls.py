"""Views: what the rows of `scripts/bench django` are about."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.template import engines
from django.urls import path

from .models import Row

PAGE = """<!doctype html><title>{{ title }}</title><table>{% for row in rows %}
<tr class="{% cycle 'odd' 'even' %}"><td>{{ row.pk }}</td><td>{{ row.name }}</td><td>{{ row.number }}</td></tr>
{% endfor %}</table>"""

REQUESTS = itertools.count()


def hello(request: HttpRequest) -> HttpResponse:
    return HttpResponse("Hello, world!", content_type="text/plain")


async def async_hello(request: HttpRequest) -> HttpResponse:
    return HttpResponse("Hello, world!", content_type="text/plain")


def one_row(request: HttpRequest) -> HttpResponse:
    row = Row.objects.get(pk=1)
    return HttpResponse(row.name, content_type="text/plain")


async def async_one_row(request: HttpRequest) -> HttpResponse:
    row = await Row.objects.aget(pk=1)
    return HttpResponse(row.name, content_type="text/plain")


def table(request: HttpRequest) -> HttpResponse:
    page = engines["django"].from_string(PAGE) if not CACHED else CACHED[0]
    CACHED[:] = [page]
    return HttpResponse(page.render({"title": "Rows", "rows": Row.objects.all()}))


CACHED: list = []


def sometimes_slow(request: HttpRequest) -> HttpResponse:
    if next(REQUESTS) % 10 == 0:
        time.sleep(0.05)
    return HttpResponse("Hello, world!", content_type="text/plain")


async def events(request: HttpRequest) -> StreamingHttpResponse:
    async def stream() -> AsyncIterator[str]:
        yield "data: first\n\n"
        await asyncio.Event().wait()

    return StreamingHttpResponse(stream(), content_type="text/event-stream")


urlpatterns = [
    path("", hello),
    path("async/", async_hello),
    path("row/", one_row),
    path("async-row/", async_one_row),
    path("table/", table),
    path("sometimes-slow/", sometimes_slow),
    path("events/", events),
]
