"""
What a message is on its way: MessagePack.

Exactly the types that the channel layer spec allows: None, bool, int (64 bits), float, str, bytes, lists
(tuples become lists), and dictionaries. Keys of the message itself are str; deeper down other keys survive
too, as they do with the field's other layers. Packing at send() and unpacking at receive() is also what keeps
messages apart: nobody shares an object with anybody, even within one process.

A packed list of messages is a head and the messages behind it, so that what was packed one by one (and is
safe from later changes) leaves as one batch without being packed again.
"""

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import msgpack  # type: ignore[import-untyped]

from daphne_like.errors import InvalidMessage, LayerError

from .base import MessageTooLarge

__all__ = ["MAX_MESSAGE", "Broadcast", "join", "pack", "pack_message", "unpack", "unpack_tuples"]

# Octets, packed. The spec's own number.
MAX_MESSAGE = 1024 * 1024


class _Packers(threading.local):
    """A packer keeps its buffer from message to message, and is for one thread."""

    def __init__(self) -> None:
        self.pack = msgpack.Packer(use_bin_type=True, buf_size=16 * 1024).pack


_packers = _Packers()
_unpack = msgpack.unpackb

# What the packer raises for types, surrogates, depth, and integers beyond 64 bits.
_UNPACKABLE = (TypeError, ValueError, OverflowError)


def pack(message: Any) -> bytes:
    """
    Raises:
        InvalidMessage: something in it is of a type that does not travel.
    """
    try:
        return _packers.pack(message)  # type: ignore[no-any-return]
    except _UNPACKABLE as error:
        raise InvalidMessage(f"a message that cannot be packed: {error}") from error


def pack_message(message: dict[str, Any]) -> bytes:
    """
    Pack what a user of the layer sends.

    Raises:
        InvalidMessage: not a dictionary with str keys, or a type in it that does not travel.
        MessageTooLarge: more than MAX_MESSAGE octets.
    """
    if not isinstance(message, dict):
        raise InvalidMessage(f"a message is a dict, not {type(message).__name__}")
    for key in message:
        if not isinstance(key, str):
            raise InvalidMessage(f"a key of a message is a str, not {type(key).__name__}")
    try:
        payload: bytes = _packers.pack(message)
    except _UNPACKABLE as error:
        raise InvalidMessage(f"a message that cannot be packed: {error}") from error
    if len(payload) > MAX_MESSAGE:
        raise MessageTooLarge(f"{len(payload)} octets packed, the limit is {MAX_MESSAGE}")
    return payload


def unpack(data: bytes | memoryview) -> Any:
    """
    Raises:
        LayerError: these octets are not one packed value.
    """
    if isinstance(data, Broadcast):
        return data.make()
    try:
        # Keys other than str are refused where a message enters, and only at its top.
        return _unpack(data, strict_map_key=False)
    except (TypeError, ValueError) as error:
        raise LayerError(f"octets that are no message: {error or type(error).__name__}") from error


class Broadcast(bytes):
    """
    A packed message that many get in this process.

    It is unpacked once. Then each gets a copy with containers of its own, which shares what nobody can change: a
    third of the price. What is nested more than twice is unpacked each time.
    """

    def make(self) -> Any:
        """
        A copy. The first call finds out how, and stands aside.

        Raises:
            LayerError: as unpack().
        """
        packed = bytes(self)
        self.__dict__["make"] = how = _copier(unpack(packed)) or functools.partial(unpack, packed)
        return how()


def _copier(template: Any) -> Callable[[], Any] | None:
    """What makes copies of a message; None where that is no matter of two levels."""
    if type(template) is not dict:
        return None
    nested: list[tuple[Any, Callable[[], Any]]] = []
    tables: list[tuple[Any, list[list[Any]]]] = []
    for key, value in template.items():
        if type(value) in _CONTAINERS:
            if _is_flat(value):
                nested.append((key, value.copy))
            elif type(value) is list and all(type(row) is list and _is_flat(row) for row in value):
                tables.append((key, value))
            else:
                return None
        elif type(value) not in _PLAIN:
            return None
    if not nested and not tables:
        copy: Callable[[], Any] = template.copy
        return copy

    def make() -> Any:
        message = template.copy()
        for key, copy in nested:
            message[key] = copy()
        for key, rows in tables:
            message[key] = list(map(_copy_list, rows))
        return message

    return make


_CONTAINERS = frozenset((dict, list))
_PLAIN = frozenset((str, bytes, int, float, bool, type(None)))
_copy_list = list.copy


def _is_flat(container: Any) -> bool:
    """Nothing in it could be changed."""
    values = container.values() if type(container) is dict else container
    return _PLAIN.issuperset(map(type, values))


def unpack_tuples(data: bytes | memoryview) -> Any:
    """
    As unpack(), but lists and tuples are tuples: cheaper, and hashable. For what only our own code gets.

    Raises:
        LayerError: as unpack().
    """
    try:
        return _unpack(data, strict_map_key=False, use_list=False)
    except (TypeError, ValueError) as error:
        raise LayerError(f"octets that are no message: {error or type(error).__name__}") from error


def join(packed: Sequence[bytes]) -> bytes:
    """One packed list of values that are packed already: unpack() gives the list of them."""
    count = len(packed)
    if count < 0x10:
        head = bytes((0x90 | count,))
    elif count < 0x10000:
        head = b"\xdc" + count.to_bytes(2, "big")
    else:
        head = b"\xdd" + count.to_bytes(4, "big")
    return head + b"".join(packed)
