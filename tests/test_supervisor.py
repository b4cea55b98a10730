"""Supervisor: as many workers as there should be, the new before the old, and nobody killed for being busy."""

import asyncio
import json
import logging
import os
import signal
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from daphne_like import supervisor as module
from daphne_like.child import Child
from daphne_like.errors import ConfigurationError, StartupFailed
from daphne_like.settings import Settings
from daphne_like.supervisor import Supervisor

ROOT = Path(__file__).parent.parent
STUB = (str(Path(__file__).parent / "stub_worker.py"),)


class Journal(logging.Handler):
    """What the supervisor says, for somebody who waits for a sentence."""

    def __init__(self):
        super().__init__()
        self.records = []
        self._more = asyncio.Event()

    def emit(self, record):
        self.records.append(record)
        self._more.set()

    def said(self, sentence):
        return [record for record in self.records if record.getMessage() == sentence]

    async def wait_for(self, sentence, count=1):
        """The *count*-th record that says so, once it is there."""
        async with asyncio.timeout(30):
            while len(self.said(sentence)) < count:
                self._more.clear()
                await self._more.wait()
        return self.said(sentence)[count - 1]

    def sentences(self):
        return [record.getMessage() for record in self.records]


class Placements:
    """Notes who gets no new work."""

    def __init__(self):
        self.suspended = set()
        self.doomed = []
        self.gone = []

    def suspend(self, name):
        self.suspended.add(name)

    def resume(self, name):
        self.suspended.discard(name)

    def ended(self, name):
        self.gone.append(name)

    def condemned(self, name, in_hand):
        self.doomed.append((name, in_hand))


class Crew:
    """A supervisor with stubs for workers."""

    def __init__(self, directory, settings, **options):
        self.plan_file = directory / "plan.json"
        self.placement = Placements()
        self.journal = Journal()
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.supervisor = Supervisor(
            settings,
            {"plan": str(self.plan_file)},
            environment,
            self.placement,
            command=STUB,
            **options,
        )

    def plan(self, **plan):
        """What the next workers do."""
        self.plan_file.write_text(json.dumps(plan))

    def pids(self, sentence="worker ready"):
        return [record.pid for record in self.journal.said(sentence)]


@asynccontextmanager
async def crew(directory, *, plan=None, start=True, patient=False, **settings):
    settings = {"graceful_timeout": 5, "shutdown_timeout": 1, "workers": 1, **settings}
    made = Crew(directory, Settings(**settings), patient=patient)
    made.plan(**(plan or {}))
    log = logging.getLogger("daphne_like.server")
    before = log.level
    log.addHandler(made.journal)
    log.setLevel(logging.INFO)
    try:
        if start:
            await made.supervisor.start()
        yield made
    finally:
        await made.supervisor.stop()
        log.removeHandler(made.journal)
        log.setLevel(before)
    for pid in made.pids():
        assert not runs(pid)


def runs(pid):
    """Whether this child of ours is there, be it as a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def children():
    """All of our own, zombies too."""
    lists = Path("/proc/self/task").glob("*/children")
    return {pid for each in lists for pid in each.read_text().split()}


# -- the first start ------------------------------------------------------------------------------


async def test_as_many_as_told_and_they_end_with_it(tmp_path):
    async with crew(tmp_path, workers=3) as made:
        await made.journal.wait_for("worker ready", 3)
        assert made.supervisor.serving == 3
        assert len(set(made.pids())) == 3
    ended = made.journal.said("worker ended")
    assert [record.how for record in ended] == ["exit code 0"] * 3


@pytest.mark.parametrize(
    ("plan", "error", "said"),
    [
        ({"fail": [2, "no module 'site'"]}, ConfigurationError, "no module 'site'"),
        ({"fail": [3, "no database"]}, StartupFailed, "no database"),
        ({"exit": 7}, StartupFailed, "a worker ended before it was ready (exit code 7)"),
    ],
)
async def test_what_keeps_the_first_from_starting_ends_the_start(plan, error, said, tmp_path):
    async with crew(tmp_path, plan=plan, start=False, workers=2) as made:
        with pytest.raises(error) as caught:
            await made.supervisor.start()
        assert str(caught.value) == said
        if plan.get("fail", [0])[0] == 3:
            assert caught.value.details == "Traceback of the worker"


async def test_worker_that_is_not_ready_in_time_ends_the_start(tmp_path):
    async with crew(tmp_path, plan={"mute": True}, start=False, worker_start_timeout=0.5) as made:
        with pytest.raises(StartupFailed, match=r"not ready within 0.5 s \(--worker-start-timeout\)"):
            await made.supervisor.start()


async def test_start_that_is_cancelled_leaves_nothing_behind(tmp_path):
    before = children()
    async with crew(tmp_path, plan={"mute": True}, start=False, workers=2) as made:
        starting = asyncio.ensure_future(made.supervisor.start())
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
    assert children() == before


# -- the right number -----------------------------------------------------------------------------


async def test_dead_worker_is_replaced_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LASTED", 0.0)
    async with crew(tmp_path, workers=2) as made:
        await made.journal.wait_for("worker ready", 2)
        os.kill(made.pids()[0], signal.SIGKILL)
        died = await made.journal.wait_for("a worker died")
        assert died.how == "killed by SIGKILL"
        assert len(made.placement.gone) == 1
        await made.journal.wait_for("worker ready", 3)
        assert made.supervisor.serving == 2
        assert made.journal.said("a worker did not last, next try after a pause") == []


async def test_worker_that_dies_at_once_is_tried_again_after_longer_and_longer_pauses(tmp_path):
    async with crew(tmp_path) as made:
        made.plan(die=1)
        os.kill(made.pids()[0], signal.SIGKILL)
        sentence = "a worker did not last, next try after a pause"
        await made.journal.wait_for(sentence, 4)
        pauses = [record.pause for record in made.journal.said(sentence)]
        assert pauses[3] > pauses[1] > pauses[0] / 2
        assert all(0 < pause <= module.MAX_PAUSE for pause in pauses)
        made.plan()
        ready = len(made.pids())
        await made.journal.wait_for("worker ready", ready + 1)


async def test_worker_that_ends_before_anybody_has_noticed_that_it_is_ready_did_not_start():
    """It would be counted among those that serve for ever: its end has been told already."""
    child = Child(1, {}, SimpleNamespace(child_ended=lambda child: None), environment={})
    waiting = asyncio.create_task(child.wait_ready(10))
    await asyncio.sleep(0)  # it waits
    child._heard({"say": "ready", "name": "quick"})
    child._has_ended(1)
    with pytest.raises(StartupFailed, match=r"a worker ended as soon as it was ready \(exit code 1\)"):
        await waiting


async def test_workers_that_do_not_start_any_more_are_one_line_for_each_try(tmp_path):
    async with crew(tmp_path, workers=2) as made:
        await made.journal.wait_for("worker ready", 2)
        made.plan(fail=[3, "no database"])
        for pid in made.pids():
            os.kill(pid, signal.SIGKILL)
        sentence = "a worker did not last, next try after a pause"
        while (failed := await made.journal.wait_for(sentence)).reason != "no database":
            sentence_count = len(made.journal.said(sentence))
            failed = await made.journal.wait_for(sentence, sentence_count + 1)
            if failed.reason == "no database":
                break
        assert failed.stack_info == "Traceback of the worker"
        made.plan()
        await made.journal.wait_for("worker ready", 4)


async def test_one_more_and_one_less(tmp_path):
    async with crew(tmp_path) as made:
        made.supervisor.remove()  # the last stays
        made.supervisor.add()
        await made.journal.wait_for("worker ready", 2)
        assert made.supervisor.serving == 2
        made.supervisor.remove()
        ended = await made.journal.wait_for("worker ended")
        assert ended.how == "exit code 0"
        assert ended.pid == made.pids()[0]
        assert made.supervisor.serving == 1


# -- the old for the new --------------------------------------------------------------------------


async def test_reload_drains_the_old_only_when_all_the_new_are_ready(tmp_path):
    async with crew(tmp_path, workers=2) as made:
        await made.journal.wait_for("worker ready", 2)
        made.supervisor.reload()
        await made.journal.wait_for("worker ended", 2)
        story = [each for each in made.journal.sentences() if each in ("worker ready", "worker ended")]
        assert story == ["worker ready"] * 4 + ["worker ended"] * 2
        assert set(made.pids("worker ended")) == set(made.pids()[:2])
        assert made.supervisor.serving == 2


async def test_new_version_that_does_not_start_leaves_the_old_serving(tmp_path):
    async with crew(tmp_path, workers=2) as made:
        await made.journal.wait_for("worker ready", 2)
        made.plan(fail=[3, "'site:app': importing it raised NameError"])
        made.supervisor.reload()
        said = await made.journal.wait_for("the new workers do not start, the old ones go on serving")
        assert said.levelno == logging.ERROR
        assert said.reason == "'site:app': importing it raised NameError"
        assert made.supervisor.serving == 2
        assert all(runs(pid) for pid in made.pids())
        made.plan()
        made.supervisor.reload()
        await made.journal.wait_for("all workers are new")
        await made.journal.wait_for("worker ended", 2)


async def test_reload_asked_for_during_a_reload_begins_anew_and_waits_for_nothing(tmp_path):
    async with crew(tmp_path, workers=2) as made:
        await made.journal.wait_for("worker ready", 2)
        made.plan(mute=True)
        made.supervisor.reload()
        await made.journal.wait_for("starting new workers")
        made.plan()
        made.supervisor.reload()
        made.supervisor.reload()
        await made.journal.wait_for("all workers are new")
        await made.journal.wait_for("worker ended", 2)
        assert len(made.pids()) == 4
        assert made.journal.sentences().count("starting new workers") == 2
        assert not [record for record in made.journal.records if record.levelno > logging.INFO]


async def test_old_worker_that_does_not_end_is_killed_and_condemned(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "KILL_MARGIN", 0.1)
    async with crew(tmp_path, plan={"deaf": True}, graceful_timeout=0.1, shutdown_timeout=0.1) as made:
        old = made.pids()[0]
        made.plan()
        made.supervisor.reload()
        killed = await made.journal.wait_for("a worker does not stop, killing it")
        assert killed.pid == old
        ended = await made.journal.wait_for("worker ended")
        assert (ended.pid, ended.how) == (old, "killed by the server")
        assert made.placement.doomed == [(f"stub{old}", {})]


async def test_recycling_by_requests_is_one_at_a_time(tmp_path):
    async with crew(tmp_path, workers=2, plan={"served": 100}, limit_max_requests=100) as made:
        await made.journal.wait_for("worker ready", 2)
        made.plan()
        replaced = await made.journal.wait_for("replacing a worker", 2)
        assert replaced.because == "requests"
        await made.journal.wait_for("worker ended", 2)
        story = [each for each in made.journal.sentences() if each in ("replacing a worker", "worker ended")]
        assert story == ["replacing a worker", "worker ended"] * 2
        assert made.supervisor.serving == 2


async def test_reload_does_not_wait_for_a_worker_that_is_being_recycled(tmp_path):
    async with crew(tmp_path, plan={"served": 9, "deaf": True}, limit_max_requests=9) as made:
        made.plan()
        await made.journal.wait_for("replacing a worker")
        await made.journal.wait_for("worker ready", 2)
        made.supervisor.reload()
        await made.journal.wait_for("all workers are new")
        assert made.pids("worker ended") in ([], made.pids()[1:2])
        os.kill(made.pids()[0], signal.SIGKILL)
        await made.journal.wait_for("worker ended", 2)


async def test_jitter_raises_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(module.random, "randint", lambda low, high: high)
    async with crew(
        tmp_path, plan={"served": 100}, limit_max_requests=100, limit_max_requests_jitter=1
    ) as made:
        made.supervisor.add()  # for something to wait for: a whole start is many beats
        made.plan(served=101)
        await made.journal.wait_for("replacing a worker")
        assert made.journal.said("replacing a worker")[0].pid == made.pids()[1]


@pytest.mark.parametrize(
    ("settings", "because"),
    [({"workers_lifetime": 0.3}, "age"), ({"workers_max_rss": 1}, "memory")],
)
async def test_recycling_by_age_and_memory(settings, because, tmp_path):
    async with crew(tmp_path, **settings) as made:
        replaced = await made.journal.wait_for("replacing a worker")
        assert replaced.because == because
        await made.journal.wait_for("worker ended")


async def test_replacement_that_does_not_start_is_tried_later(tmp_path):
    async with crew(tmp_path, plan={"served": 9}, limit_max_requests=9, start=False) as made:
        await made.supervisor.start()
        made.plan(fail=[3, "no database"])
        await made.journal.wait_for("the new workers do not start, the old ones go on serving")
        assert made.supervisor.serving == 1


# -- workers that do not turn ---------------------------------------------------------------------


async def test_stuck_worker_is_reported_with_its_stacks_then_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SILENT", 0.2)
    in_hand = {"server": [[1, 2, 3]]}
    plan = {"stuck": True, "in_hand": in_hand}
    async with crew(tmp_path, plan=plan, worker_stuck_timeout=0.6) as made:
        stuck = made.pids()[0]
        reported = await made.journal.wait_for("a worker's event loop is stuck, it gets no new work")
        assert reported.pid == stuck
        assert "in be_stuck" in reported.stack_info
        assert f"stub{stuck}" in made.placement.suspended
        made.plan()
        await made.journal.wait_for("a worker is stuck, replacing it")
        ended = await made.journal.wait_for("worker ended")
        assert (ended.pid, ended.how) == (stuck, "killed by the server")
        assert made.placement.doomed == [(f"stub{stuck}", in_hand)]
        story = made.journal.sentences()
        assert story.count("worker ready") == 2  # the other one first
        assert made.supervisor.serving == 1


async def test_stuck_worker_is_never_killed_where_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SILENT", 0.1)
    async with crew(tmp_path, plan={"stuck": True}, worker_stuck_timeout=0, graceful_timeout=0.1) as made:
        await made.journal.wait_for("a worker's event loop is stuck, it gets no new work")
        made.plan()
        made.supervisor.add()
        await made.journal.wait_for("worker ready", 2)
        assert made.journal.said("a worker is stuck, replacing it") == []
        made.supervisor.kill()


async def test_paused_worker_gets_no_work_and_is_not_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LATE", 0.3)
    monkeypatch.setattr(module, "SILENT", 0.2)
    monkeypatch.setattr(module, "BEAT_INTERVAL", 0.2)
    async with crew(tmp_path, worker_stuck_timeout=0.3) as made:
        pid = made.pids()[0]
        os.kill(pid, signal.SIGSTOP)
        await made.journal.wait_for("a worker does not beat, it gets no new work")
        assert made.placement.suspended == {f"stub{pid}"}
        made.supervisor.add()
        await made.journal.wait_for("worker ready", 2)
        os.kill(pid, signal.SIGCONT)
        await made.journal.wait_for("a worker goes on, it gets work again")
        assert made.placement.suspended == set()
        assert made.supervisor.serving == 2


# -- stopping -------------------------------------------------------------------------------------


async def test_worker_that_does_not_stop_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "KILL_MARGIN", 0.1)
    async with crew(tmp_path, plan={"deaf": True}, graceful_timeout=0.1, shutdown_timeout=0.1) as made:
        await made.supervisor.stop()
        assert made.journal.said("a worker does not stop, killing it")
    assert made.pids("worker ended") == made.pids()


async def test_kill_ends_a_stop_in_course(tmp_path):
    async with crew(tmp_path, plan={"deaf": True}, graceful_timeout=100) as made:
        stopping = asyncio.ensure_future(made.supervisor.stop())
        await asyncio.sleep(0)
        made.supervisor.kill()
        await stopping


async def test_stopping_during_a_reload_ends_old_and_new(tmp_path):
    before = children()
    async with crew(tmp_path) as made:
        made.plan(mute=True)
        made.supervisor.reload()
        await made.journal.wait_for("starting new workers")
    assert children() == before


# -- development ----------------------------------------------------------------------------------


async def test_patient_supervisor_waits_for_the_change_that_mends_it(tmp_path):
    async with crew(tmp_path, plan={"fail": [3, "SyntaxError"]}, patient=True) as made:
        sentence = "the application did not start; it starts again after the next change"
        assert made.journal.said(sentence)[0].reason == "SyntaxError"
        assert made.supervisor.serving == 0
        made.supervisor.reload()
        await made.journal.wait_for(sentence, 2)
        made.plan()
        made.supervisor.reload()
        await made.journal.wait_for("worker ready")


async def test_patient_supervisor_does_not_wait_for_words_that_cannot_be_right(tmp_path):
    async with crew(tmp_path, plan={"fail": [2, "no module"]}, patient=True, start=False) as made:
        with pytest.raises(ConfigurationError):
            await made.supervisor.start()


async def test_patient_supervisor_lets_a_debugger_have_its_time(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SILENT", 0.1)
    async with crew(tmp_path, plan={"stuck": True}, patient=True, graceful_timeout=0.1) as made:
        made.plan()
        made.supervisor.add()
        await made.journal.wait_for("worker ready", 2)
        assert made.placement.suspended == set()
        made.supervisor.kill()


async def test_what_all_workers_warn_of_is_logged_once(tmp_path):
    async with crew(tmp_path, plan={"warn": "the site is in DEBUG"}, workers=3) as made:
        await made.journal.wait_for("worker ready", 3)
        made.plan(warn="another warning")
        made.supervisor.reload()
        await made.journal.wait_for("all workers are new")
        warnings = [record for record in made.journal.records if getattr(record, "check", "") == "stub.W001"]
        assert [record.getMessage() for record in warnings] == ["the site is in DEBUG", "another warning"]
        assert {record.levelname for record in warnings} == {"WARNING"}
