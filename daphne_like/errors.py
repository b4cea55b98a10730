"""
Every exception of the package, and whose fault each one is.

    DaphneLikeError
      ConfigurationError            bad option or import string           exit 2
      StartupFailed                 bind, certificate, lifespan           exit 3
      ProtocolError(status_hint)
        RemoteProtocolError         the peer broke HTTP or WebSocket      -> 4xx, 5xx or 1002
        LocalProtocolError          we would have broken it               -> a bug: 500, traceback
      ApplicationError              the application broke ASGI            -> 500 or a reset
        UnexpectedMessage           the right message at the wrong time
        InvalidMessage              a message that is wrong at any time
      ClientDisconnected            an OSError too: send() after the client has left
      LayerError                    a channel layer could not do what was asked
        ChannelFull                 capacity reached                    -> 503, 1013, or told to the sender
        MessageTooLarge             beyond the layer's limit
        LayerUnavailable            no way to the layer now
      RelayError                    between server and worker
        NoWorker                    nobody took the request in time     -> 503
        WorkerLost                  its worker died                     -> 502, a reset, or 1012
        SequenceGap                 the layer lost an envelope          -> a reset or 1011

Where the line between the first two runs: ConfigurationError is what can be judged from the words
alone, before anything outside of the process is touched. StartupFailed is what the machine or the
application answered: port in use, file unreadable, lifespan.startup.failed. Both reach the user as
one line on stderr. Third parties' exceptions are translated where they enter, with `from`.
"""

from __future__ import annotations

from typing import ClassVar


class DaphneLikeError(Exception):
    """Base of all of the package's exceptions."""


class ConfigurationError(DaphneLikeError):
    """
    An option, a configuration file or an import string that cannot be right.

    Its text is one line, names the option as the user wrote it, the value, and what would be right.
    """

    exit_code: ClassVar[int] = 2


class StartupFailed(DaphneLikeError):
    """
    The words were right, but the server cannot serve.

    Raised for an address in use, an unreadable certificate, a failed lifespan startup, an application
    whose module raises while it is imported.

    Args:
        reason: one line for the user.
        details: further lines to show above it, such as the traceback out of the application's own code.
    """

    exit_code: ClassVar[int] = 3

    def __init__(self, reason: str, *, details: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.details = details


class ProtocolError(DaphneLikeError):
    """
    Bytes that are not HTTP or WebSocket as the RFCs have it.

    Args:
        reason: what is wrong, in words a log line can carry: "two Host fields".
        status_hint: the HTTP status to answer with, where an answer can still be given.
    """

    def __init__(self, reason: str, *, status_hint: int = 400) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status_hint = status_hint


class RemoteProtocolError(ProtocolError):
    """The peer sent what it must not. Ends its connection; never a traceback in our log."""


class LocalProtocolError(ProtocolError):
    """We were about to send what we must not: a bug in this package, logged with its traceback."""

    def __init__(self, reason: str, *, status_hint: int = 500) -> None:
        super().__init__(reason, status_hint=status_hint)


class ApplicationError(DaphneLikeError):
    """
    The application broke the ASGI contract. Raised out of its own `await send(...)`.

    The client never sees what the message would have done: it gets a 500 as long as nothing of a
    response has left, and a reset or close code 1011 afterwards.
    """


class UnexpectedMessage(ApplicationError):
    """
    A message type that the conversation's state does not allow: "http.response.body in REQUEST".

    Args:
        state: name of the state the stream is in.
        message_type: the message's "type".
    """

    def __init__(self, state: str, message_type: str) -> None:
        super().__init__(state, message_type)
        self.state = state
        self.message_type = message_type

    def __str__(self) -> str:
        return f"{self.message_type} in {self.state}"


class InvalidMessage(ApplicationError):
    """
    A message that no state allows: a missing key, str for bytes, status 99, CR in a header value.

    Args:
        reason: names the key and what it holds: "http.response.start: status 99 is not in 100..999".
    """


class ClientDisconnected(DaphneLikeError, OSError):
    """
    Raised by `send()` once the client has gone, so that a generator stops running.

    An OSError because ASGI HTTP 2.4 says so; frameworks catch that. Never logged as an error.
    """


class LayerError(DaphneLikeError):
    """A channel layer could not do what was asked of it."""


class ChannelFull(LayerError):
    """A channel holds as many messages as its capacity allows: the message was not sent."""


class MessageTooLarge(LayerError):
    """A message is larger than the layer carries (1 MiB encoded): it was not sent."""


class LayerUnavailable(LayerError):
    """There is no way to the layer now. What was being sent may or may not have arrived."""


class RelayError(DaphneLikeError):
    """Something between the server and a worker failed; it ends one stream."""


class NoWorker(RelayError):
    """No worker took the stream in time."""


class WorkerLost(RelayError):
    """The worker that held the stream is gone."""


class SequenceGap(RelayError):
    """An envelope of the stream is missing: what follows would look whole and is not."""
