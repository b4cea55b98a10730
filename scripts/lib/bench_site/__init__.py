"""The Django site that every server of `scripts/bench django` serves."""
