"""
A worker without an application, for tests of the supervisor: it does what the plan in its orders says.

The plan is a JSON file, read anew by each worker, so that a test can change what the next one does:

    fail: [exit code, reason]     it says that it cannot start, and ends
    exit: code                    it ends without a word before it is ready
    mute: true                    it never is ready
    die: code                     it ends as soon as it is ready
    served: count                 what it says that it has served
    deaf: true                    it does not hear SIGTERM
    stuck: true                   its event loop stops turning once it is ready
    in_hand: streams              what it says that it has in hand
    warn: sentence                it warns of something before it is ready

It beats twenty times a second.
"""

import asyncio
import json
import os
import signal
import sys
import threading

from daphne_like import worker_link


def be_stuck():
    threading.Event().wait()


async def work(link, plan):
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, (lambda: None) if plan.get("deaf") else told.set)
    if "warn" in plan:
        link.say_warning(plan["warn"], {"check": "stub.W001"})
    if not plan.get("mute"):
        name = f"stub{os.getpid()}"
        link.say_ready(name, loop, lambda: plan.get("served", 0), told.set, lambda: plan.get("in_hand", {}))
    if "die" in plan:
        os._exit(plan["die"])
    if plan.get("stuck"):
        loop.call_soon(be_stuck)
    await told.wait()


def main(descriptor):
    worker_link.BEAT_INTERVAL = 0.05
    link = worker_link.SupervisorLink(descriptor)
    with open(link.receive_orders()["plan"], encoding="utf-8") as file:
        plan = json.load(file)
    if "exit" in plan:
        os._exit(plan["exit"])
    if "fail" in plan:
        code, reason = plan["fail"]
        link.say_failed(code, reason, "Traceback of the worker")
        return code
    asyncio.run(work(link, plan))
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
