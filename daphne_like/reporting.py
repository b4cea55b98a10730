"""How a program of ours ends: with an exit code, and where it failed with one line on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable

from .errors import ConfigurationError, DaphneLikeError, StartupFailed

__all__ = ["reporting"]

PROGRAM = "daphne-like"
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it


def reporting(call: Callable[[], int]) -> int:
    """What *call* returns; where it raises one of our errors, that on stderr and its exit code."""
    try:
        return call()
    except StartupFailed as error:
        if error.details:
            print(error.details, file=sys.stderr)
        return _complain(error, error.exit_code)
    except ConfigurationError as error:
        return _complain(error, error.exit_code)
    except KeyboardInterrupt:
        return INTERRUPTED


def _complain(error: DaphneLikeError, exit_code: int) -> int:
    sys.stdout.flush()
    print(f"{PROGRAM}: {' '.join(str(error).split())}", file=sys.stderr)
    return exit_code
