from django.urls import path, register_converter

from . import views, wishes


class WishConverter:
    regex = "|".join(wishes.WISHES)

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


register_converter(WishConverter, "wish")

urlpatterns = [
    path("", views.seat_map),
    path("seats/<label>/<wish:wish>", views.wish),
    path("events/poll", views.poll),
    path("events/stream", views.stream),
]
