"""Settings, URLs and a view of the smallest Django site."""

from django.http import HttpRequest, HttpResponse
from django.urls import re_path

SECRET_KEY = "for tests"
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = __name__
INSTALLED_APPS: list[str] = []


def hello(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"hello from {request.path}")


urlpatterns = [re_path("", hello)]
