"""
Settings of the seat map.

Everything that differs between a laptop and a server comes from the environment:

    SECRET_KEY               required when DEBUG is off; else one is made and kept in `.secret_key`
    SEATMAP_DEBUG            1 (default) or 0
    SEATMAP_ALLOWED_HOSTS    comma-separated, in addition to the local names
    SEATMAP_TRUSTED_ORIGINS  comma-separated, e.g. https://seats.example; needed behind a TLS proxy
    SEATMAP_DATABASE         path of the SQLite file; default `db.sqlite3` beside manage.py
    SEATMAP_HOLD_SECONDS     how long a picked seat is held; default 600
"""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured
from django.core.management.utils import get_random_secret_key

BASE_DIR = Path(__file__).resolve().parent.parent


def _listed(name: str) -> list[str]:
    return [item.strip() for item in os.environ.get(name, "").split(",") if item.strip()]


def _kept_secret_key(path: Path) -> str:
    """
    The development key in *path*, made at the first call.

    It is kept because several processes and the next start must agree on it: it signs the cookie that
    says whose seats are whose. Linking a finished file makes the winner of a race unambiguous.
    """
    if not path.exists():
        try:
            with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name) as draft:
                draft.write(get_random_secret_key())
                draft.flush()
                with suppress(FileExistsError):
                    os.link(draft.name, path)
        except OSError as error:
            raise ImproperlyConfigured(f"set SECRET_KEY: a generated one cannot be kept: {error}") from error
    return path.read_text()


DEBUG = os.environ.get("SEATMAP_DEBUG", "1") == "1"
SECRET_KEY = os.environ.get("SECRET_KEY", "")
if not SECRET_KEY:
    if not DEBUG:
        raise ImproperlyConfigured("set SECRET_KEY: outside of DEBUG there is no default")
    SECRET_KEY = _kept_secret_key(BASE_DIR / ".secret_key")

ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]", *_listed("SEATMAP_ALLOWED_HOSTS")]
CSRF_TRUSTED_ORIGINS = _listed("SEATMAP_TRUSTED_ORIGINS")

INSTALLED_APPS = [
    "daphne_like.django",  # runserver with WebSockets; before staticfiles, which has one without
    "django.contrib.staticfiles",
    "channels",
    "theatre",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
# The session holds one random name per visitor and nothing else: a signed cookie does, without a table.
SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"

ROOT_URLCONF = "seatmap.urls"
ASGI_APPLICATION = "seatmap.asgi.application"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SEATMAP_DATABASE", BASE_DIR / "db.sqlite3"),
        "OPTIONS": {
            # Readers do not wait for the writer, and a transaction that is going to write says so at its
            # beginning: with the default, two of them could each hold a read lock and fail to upgrade.
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
        },
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Whichever layer the server brings along: memory in one process, its own socket between workers.
CHANNEL_LAYERS = {"default": {"BACKEND": "daphne_like.layers.ChannelLayer"}}

STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "static_root"

LANGUAGE_CODE = "en-gb"
USE_I18N = False
USE_TZ = True
TIME_ZONE = "UTC"

HOLD_SECONDS = int(os.environ.get("SEATMAP_HOLD_SECONDS", "600"))
SEATS_PER_VISITOR = 8
