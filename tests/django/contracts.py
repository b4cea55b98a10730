"""What the tests of contracts share."""

__all__ = ["holds"]


def holds(condition: object, what: str) -> None:
    assert condition, f"has changed: {what}"
