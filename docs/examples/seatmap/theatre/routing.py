"""WebSocket addresses, as urls.py has those of HTTP."""

from django.urls import path

from .consumers import SeatConsumer

websocket_urlpatterns = [path("events/socket", SeatConsumer.as_asgi())]
