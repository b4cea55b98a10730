"""`python -m daphne_like`: the same as `daphne-like`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
