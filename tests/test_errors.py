"""daphne_like.errors: the tree that is drawn is the tree that is there, and says what its users rely on."""

import inspect
import re

import pytest

from daphne_like import errors
from daphne_like.errors import (
    ApplicationError,
    ClientDisconnected,
    ConfigurationError,
    DaphneLikeError,
    LocalProtocolError,
    ProtocolError,
    RemoteProtocolError,
    StartupFailed,
    UnexpectedMessage,
)


def drawn_tree() -> dict[str, str | None]:
    """{class: the class it is drawn below} of the module's docstring."""
    above: list[tuple[int, str]] = []
    found: dict[str, str | None] = {}
    for line in inspect.getdoc(errors).splitlines():
        match = re.match(r"( {4,})([A-Z]\w+)(?:\(|\s|$)", line)
        if match is None:
            continue
        indent, name = len(match[1]), match[2]
        above = [each for each in above if each[0] < indent]
        found[name] = above[-1][1] if above else None
        above.append((indent, name))
    return found


def test_docstring_draws_every_exception_where_it_is():
    defined = {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, BaseException) and value.__module__ == errors.__name__
    }
    drawn = drawn_tree()
    assert drawn.keys() == defined.keys()
    for name, parent in drawn.items():
        assert parent is None or defined[name].__bases__[0] is defined[parent]
    assert [name for name, parent in drawn.items() if parent is None] == ["DaphneLikeError"]


def test_exit_codes():
    """2 for words that cannot be right, 3 where the machine or the application said no."""
    assert ConfigurationError("x").exit_code == 2
    assert StartupFailed("x").exit_code == 3


def test_startup_failed_keeps_details_out_of_its_one_line():
    error = StartupFailed("'a:b': importing it raised KeyError: 'x'", details="Traceback ...\nKeyError: 'x'")
    assert str(error) == "'a:b': importing it raised KeyError: 'x'"
    assert error.details.startswith("Traceback")
    assert StartupFailed("x").details == ""


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RemoteProtocolError("two Host fields"), 400),
        (RemoteProtocolError("head too large", status_hint=431), 431),
        (LocalProtocolError("CR in a header value"), 500),
        (ProtocolError("no such version", status_hint=505), 505),
    ],
)
def test_protocol_error_carries_the_status_to_answer_with(error, status):
    assert error.status_hint == status
    assert str(error) == error.reason


def test_unexpected_message_names_both_sides():
    error = UnexpectedMessage("REQUEST", "http.response.body")
    assert str(error) == "http.response.body in REQUEST"
    assert (error.state, error.message_type) == ("REQUEST", "http.response.body")
    assert isinstance(error, ApplicationError)


def test_client_disconnected_is_an_oserror():
    """ASGI HTTP 2.4: "a server SHOULD raise a server-specific subclass of OSError" from send()."""
    with pytest.raises(OSError):
        raise ClientDisconnected("the client has gone")
    assert issubclass(ClientDisconnected, DaphneLikeError)
