"""What the access log says of a request, taken from its scope."""

from typing import Any

__all__ = ["request_fields"]


def request_fields(scope: dict[str, Any]) -> dict[str, Any]:
    """The arguments that all methods of AccessLog have in common."""
    agent = referer = b""
    for name, value in scope["headers"]:
        if name == b"user-agent":
            agent = value
        elif name == b"referer":
            referer = value
    query = scope["query_string"]
    return {
        "client": scope["client"],
        "target": scope["raw_path"] + b"?" + query if query else scope["raw_path"],
        "http_version": scope["http_version"],
        "user_agent": agent,
        "referer": referer,
    }
