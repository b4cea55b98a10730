"""
A part of the Autobahn fuzzing client's cases; `scripts/conformance autobahn` runs all.

Left out here is what takes long: most of the limits and performance cases and of the compression cases.
"""

import pytest

from scripts.lib import autobahn_suite

CASES = [
    "1.*",
    "2.*",
    "3.*",
    "4.*",
    "5.*",
    "6.*",
    "7.*",
    "9.1.1",
    "9.1.6",
    "9.2.6",
    "9.3.1",
    "9.5.1",
    "9.7.1",
    "10.*",
    "12.1.1",
    "12.1.10",
    "12.5.5",
    "13.1.1",
    "13.3.5",
    "13.5.5",
    "13.7.5",
]


# What the suite writes into a report -> is it a failure, is it a bad close.
VERDICTS = [
    ("OK", "OK", False, False),
    ("INFORMATIONAL", "INFORMATIONAL", False, False),
    ("NON-STRICT", "OK", False, False),
    ("FAILED", "OK", True, False),
    ("UNIMPLEMENTED", "OK", True, False),
    ("NO REPORT", "NO REPORT", True, True),
    ("OK", "UNCLEAN", False, True),
    ("OK", "WRONG CODE", False, True),
    ("OK", "FAILED BY CLIENT", False, True),
]


@pytest.mark.parametrize(("behavior", "close", "failed", "closed_badly"), VERDICTS)
def test_verdicts(behavior, close, failed, closed_badly):
    outcome = autobahn_suite.Outcome("7.1.5", behavior, close, 1000, 1, "result", "close result")
    assert (outcome.failed, outcome.closed_badly) == (failed, closed_badly)


def test_without_python27_the_script_says_so_and_exits_with_a_code_of_its_own(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setattr(autobahn_suite, "CACHE", tmp_path)
    monkeypatch.setattr("sys.argv", ["autobahn_suite.py"])
    assert autobahn_suite.main() == autobahn_suite.EXIT_NO_PYTHON
    assert "no Python 2.7" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    try:
        autobahn_suite.prepare()
    except (autobahn_suite.NoPython27, autobahn_suite.NotStarted) as error:
        pytest.skip(str(error))
    with autobahn_suite.serving("daphne_like") as url:
        return autobahn_suite.run_cases(url, "daphne_like", CASES, tmp_path_factory.mktemp("autobahn"))


def test_cases_are_run(outcomes):
    """Every section that was asked for is there, and most of the suite's cases by number."""
    assert {o.section for o in outcomes} == {int(case.partition(".")[0]) for case in CASES}
    assert len(outcomes) > 250


def test_no_case_fails(outcomes):
    assert [o for o in outcomes if o.failed] == []


def test_every_close_is_clean(outcomes):
    assert [o for o in outcomes if o.closed_badly] == []
