"""A WSGI application, for the command line: says what it is told, reads, streams, and sends a file."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

PID = os.getpid()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    return PATHS.get(environ["PATH_INFO"], unknown)(environ, start_response)


def name(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    body = f"{PID} {threading.current_thread().name} {environ['wsgi.multiprocess']}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def count(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    size = 0
    while piece := environ["wsgi.input"].read(100_000):
        size += len(piece)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % size]


def stream(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    for number in range(int(environ["QUERY_STRING"])):
        yield b"%8d" % number * 8192


def file(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    opened = open(environ["QUERY_STRING"], "rb")  # noqa: SIM115  # the wrapper closes it
    result: Iterable[bytes] = environ["wsgi.file_wrapper"](opened)
    return result


def refuse(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("403 Forbidden", [])
    return [b"no"]


def fail(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    raise ZeroDivisionError


def unknown(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("404 Not Found", [])
    return []


PATHS = {"/": name, "/count": count, "/stream": stream, "/file": file, "/refuse": refuse, "/fail": fail}


def hidden(*arguments: Any) -> Iterable[bytes]:
    """Takes anything: nobody can tell what it is."""
    return application(*arguments)
