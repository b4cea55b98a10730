"""All URLs belong to the theatre."""

from django.urls import include, path

urlpatterns = [path("", include("theatre.urls"))]
