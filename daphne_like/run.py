"""From the words of a command line to a server that runs: what `daphne-like APPLICATION` does."""

from daphne_like import logs
from daphne_like.importing import import_application
from daphne_like.server import Server
from daphne_like.settings import Settings

__all__ = ["run"]


def run(settings: Settings, application: str) -> int:
    """
    Serve the application that the import string names, until told to stop; return the exit code.

    Raises:
        ConfigurationError, StartupFailed: for the command line to report.
    """
    logs.configure(settings)
    found = import_application(application, factory=settings.factory, app_dir=settings.app_dir)
    logs.enable_loggers()
    Server(found, settings).run()
    return 0
