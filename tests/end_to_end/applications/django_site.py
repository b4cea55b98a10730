"""
A Django site in one module: sync and async views, streams, an upload, static files.

Uploads above 64 KiB go to a temporary file, so that a large one takes the way that large ones take.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import django
from django.conf import settings
from django.http import FileResponse, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

settings.configure(
    SECRET_KEY="of the end-to-end tests",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django.contrib.staticfiles"],
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    STATIC_URL="/static/",
    STATICFILES_DIRS=[Path(__file__).parent / "static"],
    FILE_UPLOAD_MAX_MEMORY_SIZE=64 * 1024,
    DATA_UPLOAD_MAX_MEMORY_SIZE=None,
)
django.setup(set_prefix=False)

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler  # noqa: E402  needs settings
from django.core.asgi import get_asgi_application  # noqa: E402
from django.core.files.uploadedfile import TemporaryUploadedFile  # noqa: E402

noted: list[str] = []


def sync_view(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{request.method} {request.path} {request.META['REMOTE_ADDR']}")


async def async_view(request: HttpRequest) -> JsonResponse:
    await asyncio.sleep(0.01)
    return JsonResponse({"path": request.path, "query": request.GET.dict(), "secure": request.is_secure()})


def sync_stream(request: HttpRequest) -> StreamingHttpResponse:
    def lines() -> Iterator[str]:
        for number in range(100):
            yield f"{number}\n"

    return StreamingHttpResponse(lines(), content_type="text/plain")


async def async_stream(request: HttpRequest) -> StreamingHttpResponse:
    async def events() -> AsyncIterator[str]:
        try:
            number = 0
            while True:
                yield f"data: {number}\n\n"
                number += 1
                await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            noted.append("stream: cancelled")
            raise

    return StreamingHttpResponse(events(), content_type="text/event-stream")


def upload(request: HttpRequest) -> JsonResponse:
    file = request.FILES["file"]
    digest = hashlib.sha256()
    for piece in file.chunks():
        digest.update(piece)
    on_disk = isinstance(file, TemporaryUploadedFile)
    return JsonResponse(
        {"name": file.name, "size": file.size, "sha256": digest.hexdigest(), "on disk": on_disk}
    )


async def patient_view(request: HttpRequest) -> HttpResponse:
    noted.append("view: begun")
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        noted.append("view: cancelled")
        raise
    return HttpResponse("nobody waits so long")


def slow_view(request: HttpRequest) -> HttpResponse:
    time.sleep(float(request.GET["seconds"]))
    return HttpResponse("slept")


def raising_view(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("on purpose, in a view")


async def notes(request: HttpRequest) -> JsonResponse:
    return JsonResponse(noted, safe=False)


def this_file(request: HttpRequest) -> FileResponse:
    return FileResponse(open(__file__, "rb"))


urlpatterns = [
    path("sync/", sync_view),
    path("async/", async_view),
    path("sync-stream/", sync_stream),
    path("async-stream/", async_stream),
    path("upload/", upload),
    path("patient/", patient_view),
    path("slow/", slow_view),
    path("raises/", raising_view),
    path("notes/", notes),
    path("file/", this_file),
]

application = ASGIStaticFilesHandler(get_asgi_application())
