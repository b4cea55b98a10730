"""python -m tests.abuse: what scripts/abuse runs."""

import sys

from .runner import main

sys.exit(main())
