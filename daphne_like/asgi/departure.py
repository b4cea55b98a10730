"""
A private extension of scopes: the client's departure, told ahead of what it has sent before.

receive() gives everything in order: who wants to hear of a departure has to take all data first, and to keep a
task in receive() for it. An application that passes streams on to other processes (the relay) can do neither
cheaply. One that has the attribute `wants_departure = True` finds in scope["extensions"]:

    "daphne_like.departure"          call it with a callback (lost: bool) -> None, or with None to end it.
                                     lost=False: the client has closed its sending side, and may still read;
                                     lost=True: it is gone, send() raises. Called at once if it has been.
    "daphne_like.receive_arrived"    HTTP: call it for the next message of the body if that has come, else None.
                                     With it, a request that has come whole needs no receive() at all.

It has to end by itself after that: a request's stream does not look after --application-close-timeout then.

Both are methods of the stream, which has the scope: take them out of it, or garbage collection has to.
"""

from daphne_like.asgi.http import HTTPStream
from daphne_like.asgi.websocket import WebSocketStream

__all__ = ["DEPARTURE", "RECEIVE_ARRIVED", "offer_departure"]

DEPARTURE = "daphne_like.departure"
RECEIVE_ARRIVED = "daphne_like.receive_arrived"


def offer_departure(stream: HTTPStream | WebSocketStream) -> None:
    """Put the extension into the stream's scope."""
    extensions = stream.scope["extensions"]
    extensions[DEPARTURE] = stream.tell_departure
    if type(stream) is HTTPStream:
        extensions[RECEIVE_ARRIVED] = stream.receive_arrived
