"""
What a WSGI application says of its response: start_response()'s arguments, and files to be sent as they are.

A status line's reason phrase is dropped, since ASGI has none. Whether names and values can stand in a response
is judged by the server, as for any application.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterable, Iterator
from typing import Any

from daphne_like.typing import Headers, Message

__all__ = ["FileWrapper", "content_length", "response_start", "sendable_path"]

# What one read of a wrapped file brings, unless the application says otherwise.
BLOCK_SIZE = 64 * 1024
# Smaller files are not worth another hand-over: they are read where they are.
SENT_AS_FILE = 256 * 1024


def response_start(status: Any, headers: Any) -> Message:
    """
    The ASGI message for start_response()'s arguments.

    Raises:
        TypeError, ValueError: they are not what PEP 3333 says.
    """
    if not isinstance(status, str):
        raise TypeError(f"a status is a str such as '200 OK', not {type(status).__name__}")
    if not status[:3].isdecimal() or not status.isascii() or status[3:4] not in ("", " "):
        raise ValueError(f"a status begins with three digits and a space, as '200 OK': {status!r}")
    fields: Headers = []
    for field in headers:
        try:
            name, value = field
            fields.append((name.lower().encode("latin-1"), value.encode("latin-1")))
        except (AttributeError, TypeError, ValueError) as error:
            raise TypeError(f"headers are pairs of str in latin-1, not {field!r}") from error
    return {"type": "http.response.start", "status": int(status[:3]), "headers": fields}


def content_length(start: Message) -> int | None:
    """What the response says of its length, None for nothing (or nothing that is a number)."""
    for name, value in start["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else None
    return None


class FileWrapper:
    """
    `wsgi.file_wrapper`: a file as a response.

    A plain file on disk that is to be sent whole goes out as a path, and no thread waits for its client.
    Anything else with read() is read in blocks.
    """

    def __init__(self, filelike: Any, block_size: int = BLOCK_SIZE) -> None:
        self.filelike = filelike
        self.block_size = block_size
        if hasattr(filelike, "close"):
            self.close = filelike.close

    def __iter__(self) -> Iterator[bytes]:
        while block := self.filelike.read(self.block_size):
            yield block


def sendable_path(result: Iterable[bytes], start: Message, scope_extensions: Any) -> str | None:
    """
    The path of the file that *result* stands for, if sending that file is the same as reading *result*.

    It is when the server can send files, and the file is a regular one that stands at its beginning, is still
    found under its name, and is as long as the response says. Its length is then added to *start*, if missing.
    """
    if type(result) is not FileWrapper or "http.response.pathsend" not in (scope_extensions or ()):
        return None
    file = result.filelike
    # Other classes with a name and a descriptor (gzip's) read something else than the file's octets.
    raw = file.raw if type(file) in (io.BufferedReader, io.BufferedRandom) else file
    if type(raw) is not io.FileIO or not isinstance(raw.name, str):
        return None
    path = os.path.abspath(raw.name)
    try:
        opened = os.fstat(raw.fileno())
        named = os.stat(path)
        position = file.tell()
    except (OSError, ValueError):
        return None  # closed, removed, or nothing that has a position
    if (
        not stat.S_ISREG(opened.st_mode)
        or (opened.st_dev, opened.st_ino) != (named.st_dev, named.st_ino)
        or position != 0
        or opened.st_size < SENT_AS_FILE
    ):
        return None
    if not any(field[0] == b"content-length" for field in start["headers"]):
        start["headers"].append((b"content-length", b"%d" % opened.st_size))
    return path if content_length(start) == opened.st_size else None
