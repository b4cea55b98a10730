"""Short forms of the faults that must cost nothing; `scripts/soak` runs the long ones."""

import pytest

pytest.importorskip("channels", reason="the demo's requirements are not installed: pip install -e '.[demo]'")
pytest.importorskip("websockets")

from tests.faults.scenarios import SCENARIOS, SHORT


@pytest.mark.time_limit(180)
@pytest.mark.parametrize("name", SCENARIOS)
async def test_fault_costs_nothing(name: str) -> None:
    outcome = await SCENARIOS[name](SHORT)

    assert not outcome.broken, outcome.figures
