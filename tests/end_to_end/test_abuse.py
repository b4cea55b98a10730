"""
Hostile and unlucky clients, short form: every scenario of tests/abuse against a server process of its own.

The full scale, with default settings, is `scripts/abuse`. What each promise is: docs/reference/abuse.md.
"""

import sys
from pathlib import Path

import pytest

from tests.abuse.runner import markdown, raise_descriptor_limit, report, run_scenario
from tests.abuse.scenario import MIB, SCENARIOS, Either, Scenario, rss_below, seconds_below, yes

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "abuse.md"


@pytest.fixture(scope="module", autouse=True)
def _enough_descriptors() -> None:
    raise_descriptor_limit()


@pytest.mark.skipif(sys.platform != "linux", reason="figures come from Linux's /proc")
@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_holds(scenario: Scenario) -> None:
    outcome = run_scenario(scenario, short=True)
    assert outcome.held, f"{report(outcome)}\n--- the server printed ---\n{outcome.server_output}"


def test_reference_page_is_current() -> None:
    """docs/reference/abuse.md holds the table that `scripts/abuse --markdown` prints."""
    assert markdown() in REFERENCE.read_text(encoding="utf-8")


def test_a_figure_that_was_not_measured_breaks_its_bound() -> None:
    assert not rss_below(MIB).holds({})
    assert not Either((rss_below(MIB), seconds_below("CPU", 1))).holds({"CPU": 2.0})
    assert Either((rss_below(MIB), seconds_below("CPU", 1))).holds({"CPU": 0.5})
    assert not yes("refused").holds({"refused": 0.0})


def test_full_scale_is_about_default_settings() -> None:
    assert [scenario.name for scenario in SCENARIOS.values() if scenario.full.options] == []
