"""python -m tests.faults: what scripts/soak runs."""

import argparse
import asyncio
import sys
import time

from tests.faults.scenarios import FULL, SCENARIOS, SHORT


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description="Faults under load, counted.")
    parser.add_argument("--short", action="store_true", help="as the test suite runs them")
    parser.add_argument("--only", action="append", choices=list(SCENARIOS), help="may be repeated")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="all of them, so many times (1)")
    options = parser.parse_args()
    failed = 0
    for _ in range(options.repeat):
        for name in options.only or SCENARIOS:
            began = time.monotonic()
            outcome = asyncio.run(SCENARIOS[name](SHORT if options.short else FULL))
            failed += bool(outcome.broken)
            verdict = "held" if not outcome.broken else "BROKEN: " + "; ".join(outcome.broken)
            print(f"{name}: {verdict}\n    {outcome.figures} ({time.monotonic() - began:.0f} s)", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
