"""
The ASGI application: HTTP to Django, WebSockets to the consumer of the theatre.

While DEBUG is on, Django's staticfiles handler answers for the style sheet and the scripts, so that any
ASGI server can serve the whole site; in production a web server or a storage does that.
"""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "seatmap.settings")

from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler

from daphne_like.django import get_asgi_application

# Loads the apps: the consumer below imports their models.
django_application = get_asgi_application()

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from channels.sessions import SessionMiddlewareStack  # noqa: E402
from theatre.routing import websocket_urlpatterns  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": ASGIStaticFilesHandler(django_application) if settings.DEBUG else django_application,
        # A WebSocket carries the visitor's cookies whichever site opened it: only our own pages may.
        "websocket": AllowedHostsOriginValidator(SessionMiddlewareStack(URLRouter(websocket_urlpatterns))),
    }
)
