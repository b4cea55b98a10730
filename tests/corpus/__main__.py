"""Judge a running server, or one that is started for it: `python -m tests.corpus --help`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fnmatch
import sys
import time
from collections import Counter
from collections.abc import Sequence

from tests.corpus import LEVELS, Case, EndOfInput, Read, Send, Sleep, load
from tests.corpus.client import play, run
from tests.corpus.judge import judge
from tests.corpus.server import APPLICATION, serving

EXAMPLES = f"""
examples:
  python -m tests.corpus --server '{{python}} -m daphne_like -p {{port}} {{app}}'
  python -m tests.corpus --server 'uvicorn --port {{port}} --log-level critical {{app}}' --only 'te-*'
  python -m tests.corpus --address 127.0.0.1:8000      (it has to run {APPLICATION})
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.corpus",
        description="Send the HTTP/1.1 corpus to a server; print the cases whose verdict it does not meet.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--server", metavar="COMMAND", help="start this; {port}, {app}, {python} get filled in"
    )
    where.add_argument("--address", metavar="HOST:PORT", help="a server that runs already")
    where.add_argument("--list", action="store_true", help="print the cases, send nothing")
    parser.add_argument("--only", metavar="PATTERN", default="*", help="ids or topics (shell pattern)")
    parser.add_argument("--level", choices=LEVELS, action="append", help="only cases of this level")
    parser.add_argument("--concurrency", type=int, default=16, metavar="N", help="cases at a time (16)")
    parser.add_argument("--port", type=int, help="of the server that --server starts (a free one)")
    parser.add_argument("--show", action="store_true", help="print what was sent and received, case by case")
    options = parser.parse_args(arguments)

    cases = [
        case
        for case in load()
        if (fnmatch.fnmatchcase(case.id, options.only) or fnmatch.fnmatchcase(case.topic, options.only))
        and case.level in (options.level or LEVELS)
    ]
    if options.list:
        for case in cases:
            print(f"{case.topic:18} {case.level:7} {case.expect.kind:15} {case.id:32} {case.source}")
        return 0
    with contextlib.ExitStack() as stack:
        if options.server:
            address = stack.enter_context(serving(options.server, port=options.port))
        else:
            host, _, port = options.address.rpartition(":")
            address = (host.strip("[]"), int(port))
        if options.show:
            return asyncio.run(show(cases, address))
        begun = time.monotonic()
        complaints = asyncio.run(run(cases, address, concurrency=options.concurrency))
        report(cases, complaints, time.monotonic() - begun)
    return 1 if any(complaints.values()) else 0


def report(cases: Sequence[Case], complaints: dict[str, list[str]], seconds: float) -> None:
    failed = [case for case in cases if complaints[case.id]]
    for case in failed:
        print(f"{case.level:7} {case.topic}/{case.id}: {'; '.join(complaints[case.id])}  [{case.source}]")
    total, lost = (Counter(case.level for case in some) for some in (cases, failed))
    levels = ", ".join(f"{level} {total[level] - lost[level]}/{total[level]}" for level in LEVELS)
    print(f"{len(cases) - len(failed)} of {len(cases)} verdicts met ({levels}) in {seconds:.1f} s")


async def show(cases: Sequence[Case], address: tuple[str, int]) -> int:
    failures = 0
    for case in cases:
        observation = await play(case, address)
        complaints = judge(case, observation)
        failures += bool(complaints)
        print(f"--- {case.topic}/{case.id} [{case.level}, {case.source}] {case.expect.kind}")
        for step in case.steps:
            match step:
                case Send(data):
                    print(f"  > {data[:400]!r}{' ...' if len(data) > 400 else ''}")
                case Sleep(seconds) | Read(seconds):
                    print(f"  > ({type(step).__name__.lower()} {seconds:g} s)")
                case EndOfInput():
                    print("  > (end of input)")
        end = "closed" if observation.closed else "open"
        print(f"  < {observation.received[:1000]!r} ({end})")
        for seen in observation.seen:
            print(f"  = {seen.type} {seen.method} {seen.path!r} {'whole' if seen.complete else 'not whole'}")
        print("  " + ("; ".join(complaints) or "met"))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
