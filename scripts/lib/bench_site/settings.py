"""
Settings. From the environment:

    BENCH_SITE_MIDDLEWARE   "bare" for none, else what `startproject` gives
    BENCH_SITE_DATABASE     path of the SQLite file
    BENCH_SITE_MAX_AGE      CONN_MAX_AGE; Django's default, 0, opens a connection for each request
    BENCH_SITE_LAYER        the channel layer's class
    BENCH_SITE_APP          "1": our Django app is installed
"""

import os

SECRET_KEY = "for measurements only"
DEBUG = False
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "bench_site.urls"
USE_TZ = True

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "bench_site",
]
if os.environ.get("BENCH_SITE_APP") == "1":
    INSTALLED_APPS.insert(0, "daphne_like.django")

MIDDLEWARE = (
    []
    if os.environ.get("BENCH_SITE_MIDDLEWARE") == "bare"
    else [
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ]
)
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("BENCH_SITE_DATABASE", ":memory:"),
        "CONN_MAX_AGE": int(os.environ.get("BENCH_SITE_MAX_AGE", "0")),
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates"}]
CHANNEL_LAYERS = {
    "default": {"BACKEND": os.environ.get("BENCH_SITE_LAYER", "channels.layers.InMemoryChannelLayer")}
}
