"""The Django project: settings, URLs and the ASGI application. The theatre itself is the app `theatre`."""
