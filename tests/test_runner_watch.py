"""A thread that waits is told from one that computes, and from one that is kept from computing."""

from types import SimpleNamespace

import pytest

from daphne_like import runner_watch
from daphne_like.runner_watch import BUSY_LIMIT, CALM_AFTER, LONG_TICK, TICK, UNSURE_LIMIT, RunnerWatch


class Machine:
    """Clocks that go on as a test says, in place of the module's `time`."""

    def __init__(self):
        self.now = self.loop = 0.0
        self.used = {}

    def monotonic(self):
        return self.now

    def thread_time(self):
        return self.loop

    def clock_gettime(self, clock):
        return self.used[clock]

    def thread(self):
        clock = len(self.used)
        self.used[clock] = 0.0
        return SimpleNamespace(processor_clock=clock)

    def pass_by(self, seconds, *, own=None, loop=0.0):
        """*seconds*; the event loop has computed *loop* of them, and the thread of *own* what that says."""
        self.now += seconds
        self.loop += loop
        if own is not None:
            thread, used = own
            self.used[thread.processor_clock] += used


@pytest.fixture
def machine(monkeypatch):
    machine = Machine()
    monkeypatch.setattr(runner_watch, "time", machine)
    return machine


def looked_at(machine, runner):
    """A watch that has seen *runner* in its first job."""
    watch = RunnerWatch()
    assert not watch.is_stuck(runner, 1)
    return watch


@pytest.mark.parametrize(
    ("own", "loop", "stuck"),
    [
        (0.0, 0.0, True),
        (0.0002, 0.0, True),
        (0.0006, 0.0, False),
        (0.0002, 0.0005, False),
        (0.0001, 0.0005, True),
        (0.0, 0.0009, False),
    ],
    ids=["waits", "mostly waits", "computes", "computes when it may", "waits meanwhile", "nobody can say"],
)
def test_one_that_is_in_the_same_job(machine, own, loop, stuck):
    runner = machine.thread()
    watch = looked_at(machine, runner)
    machine.pass_by(0.001, own=(runner, own), loop=loop)
    assert watch.is_stuck(runner, 1) == stuck


def test_one_that_does_not_come_to_run_beside_a_busy_event_loop_waits(machine):
    """Of one that wants to run, something would show."""
    runner = machine.thread()
    watch = looked_at(machine, runner)
    while machine.now < UNSURE_LIMIT - 0.0015:
        machine.pass_by(0.001, loop=0.00097, own=(runner, 0.00003))  # it has begun, and begun to wait
        assert not watch.is_stuck(runner, 1)
    machine.pass_by(0.002, loop=0.00197, own=(runner, 0.00003))
    assert watch.is_stuck(runner, 1)


def test_what_other_threads_compute_does_not_matter(machine):
    """They may do without the interpreter: a view that waits is not one that they keep from running."""
    runner, hashing = machine.thread(), machine.thread()
    watch = looked_at(machine, runner)
    machine.pass_by(0.001, own=(hashing, 0.001))
    assert watch.is_stuck(runner, 1)


def test_one_that_has_come_on_is_not_stuck(machine):
    runner = machine.thread()
    watch = looked_at(machine, runner)
    machine.pass_by(0.001)
    assert not watch.is_stuck(runner, 2)


def test_one_that_computes_is_left_alone_for_a_while(machine):
    runner = machine.thread()
    watch = looked_at(machine, runner)
    while machine.now < BUSY_LIMIT - 0.0015:
        machine.pass_by(0.001, own=(runner, 0.001))
        assert not watch.is_stuck(runner, 1)
    machine.pass_by(0.002, own=(runner, 0.002))
    assert watch.is_stuck(runner, 1)


def calm(machine, runner):
    """A watch of one that has come on and computed for long."""
    watch = looked_at(machine, runner)
    for begun in range(2, 2 + CALM_AFTER):
        assert watch.tick == TICK
        machine.pass_by(watch.tick, own=(runner, watch.tick))
        assert not watch.is_stuck(runner, begun)
    assert watch.tick == LONG_TICK
    return watch


def test_one_that_computes_and_comes_on_is_looked_at_seldom(machine):
    runner = machine.thread()
    watch = calm(machine, runner)
    machine.pass_by(watch.tick, own=(runner, 0.0001))
    assert not watch.is_stuck(runner, 100)
    assert watch.tick == TICK, "it comes on, but waits"


def test_another_one_is_looked_at_often(machine):
    watch = calm(machine, machine.thread())
    machine.pass_by(watch.tick)
    assert not watch.is_stuck(machine.thread(), 100)
    assert watch.tick == TICK


def test_after_a_rest_it_is_looked_at_often(machine):
    watch = calm(machine, machine.thread())
    watch.rest()
    assert watch.tick == TICK


def test_one_in_the_same_job_is_looked_at_often(machine):
    runner = machine.thread()
    watch = calm(machine, runner)
    machine.pass_by(watch.tick, own=(runner, watch.tick))
    assert not watch.is_stuck(runner, 1 + CALM_AFTER)
    assert watch.tick == TICK


def test_without_a_clock_of_its_own_every_one_waits(machine):
    """Windows, and some kernels: then a second thread comes in somewhat early."""
    runner = SimpleNamespace(processor_clock=None)
    watch = looked_at(machine, runner)
    machine.pass_by(0.001)
    assert watch.is_stuck(runner, 1)
