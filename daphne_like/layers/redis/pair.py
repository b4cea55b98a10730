"""
Two ports and what they say to each other, as one of them keeps it. Pure.

The engine between them may forget: it is restarted empty, fails over to a replica that is behind, is flushed. So
what has been said is numbered, and kept until the other has confirmed the number. Each note confirms what came
the other way; where there is nothing to say, a CONFIRM does, once a second or every CONFIRM_AFTER notes. Who is
not confirmed says COUNT, once a second, and is answered.

    number is the next one      it counts
    number is an old one        it was pushed twice, as its push was not answered: dropped
    number is too high          the engine has lost something: AGAIN asks for all from there

What is kept is bounded as what is under way is: by the relay's credit.

A *note* is one octet that says the kind, the 16 octets of the sender's name, eight with its number, eight with
the number that it confirms, and the rest:

    P   envelopes: a packed list, sealed where the layer has keys
    C   claims: refs of the receiver's offers that the sender has taken, eight octets each
    K   count: the number of the last P or C
    Y   confirm: nothing but what each note has
    A   again: the number of the first one that is missing
    B   bye: nobody is at the sender's name any more
    D   dead: the sender has given the receiver up; it should come back as somebody else
    Q   question: refs of the receiver's offers that the sender would claim, if nobody else has (doubts.py)
    T   take it: the answer, refs of the sender's offers
    H   hold: the receiver's process is said to be stuck; it takes no offers for a while. With a rest: no more

The last three have no number, and are said once.
"""

import itertools
import struct
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from ..codec import join

__all__ = [
    "AGAIN",
    "BYE",
    "CLAIMS",
    "CONFIRM",
    "COUNT",
    "DEAD",
    "ENVELOPES",
    "HEAD",
    "HOLD",
    "NAME",
    "QUESTION",
    "TAKE_IT",
    "Pair",
    "sender_of",
]

ENVELOPES, CLAIMS, COUNT, CONFIRM, AGAIN, BYE, DEAD = b"P", b"C", b"K", b"Y", b"A", b"B", b"D"
QUESTION, TAKE_IT, HOLD = b"Q", b"T", b"H"

# Octets of a name, and of all that stands before the rest.
NAME: Final = 16
HEAD: Final = 1 + NAME + 16

# Octets of envelopes in one note, and of notes in one push.
MAX_BATCH = 1024 * 1024
MAX_PUSH = 4 * 1024 * 1024

# Notes and octets that came and were not confirmed.
CONFIRM_AFTER = 64
CONFIRM_OCTETS = 1024 * 1024

_NUMBERS = struct.Struct(">QQ")
_REF = struct.Struct(">Q")


def sender_of(note: bytes) -> bytes:
    """
    Raises:
        ValueError: it is no note.
    """
    if len(note) < HEAD:
        raise ValueError(f"a note of {len(note)} octets")
    return note[1 : 1 + NAME]


class Pair:
    """
    Args:
        me, other: names.
        seal: what envelopes are before they leave.

    Attributes:
        asked: a push has been asked for, and not begun.
        missed: in how many looks its lease was not there.
        dead: it has left, or is taken to have.
    """

    def __init__(self, me: str, other: str, seal: Callable[[bytes], bytes]) -> None:
        self.other = other
        self.asked = False
        self.missed = 0
        self.dead = False
        self._me = me.encode()
        self._seal = seal
        self._sent = 0
        self._got = 0
        self._confirmed = 0  # of what we got, as the other has been told
        self._unconfirmed = 0  # octets
        self._envelopes: list[bytes] = []
        self._claims: list[bytes] = []
        # (number, kind, rest): what was pushed and not confirmed; and, behind that, what has to be pushed again.
        self._again: deque[tuple[int, bytes, bytes]] = deque()
        self._kept: deque[tuple[int, bytes, bytes]] = deque()
        self._last: list[bytes] = []  # kinds without a number, to say once
        self._asked_again_at = -1

    # -- out ---------------------------------------------------------------------------------------

    def post(self, packed: bytes) -> None:
        """Say an envelope."""
        self._envelopes.append(packed)

    def claim(self, ref: int) -> None:
        """Say that we have got the other's offer."""
        self._claims.append(_REF.pack(ref))

    def say(self, kind: bytes) -> None:
        """Say COUNT, AGAIN, BYE or DEAD, after all else."""
        if kind not in self._last:
            self._last.append(kind)

    def look(self) -> bool:
        """Once a second: whether there is something to count or to confirm."""
        self._asked_again_at = -1
        if self._kept:
            self.say(COUNT)
        elif self._confirmed != self._got:
            self.say(CONFIRM)
        return bool(self._last)

    @property
    def idle(self) -> bool:
        """All that was said is confirmed."""
        return not (self._kept or self._again or self._envelopes or self._claims)

    def push_again(self) -> None:
        """What was pushed may not be there."""
        self._kept.extend(self._again)
        self._again = self._kept
        self._kept = deque()

    def notes(self) -> tuple[list[bytes], bool]:
        """
        What to push now: from here on it counts as pushed.

        Returns:
            notes, and whether there is more, beyond MAX_PUSH.
        """
        found: list[bytes] = []
        size = 0
        again, kept = self._again, self._kept
        while again and size < MAX_PUSH:
            number, kind, rest = again.popleft()
            kept.append((number, kind, rest))
            found.append(self._note(kind, number, rest))
            size += len(rest)
        if again:
            return found, True
        # Before the envelopes: who has a stream is known before anything that its application does.
        for kind, rest in itertools.chain(self._claimed(), self._batches()):
            self._sent += 1
            kept.append((self._sent, kind, rest))
            found.append(self._note(kind, self._sent, rest))
        for kind in self._last:
            found.append(self._note(kind, self._got + 1 if kind == AGAIN else self._sent, b""))
        self._last.clear()
        return found, False

    def _note(self, kind: bytes, number: int, rest: bytes) -> bytes:
        self._confirmed = self._got
        self._unconfirmed = 0
        return kind + self._me + _NUMBERS.pack(number, self._got) + rest

    def _claimed(self) -> Iterator[tuple[bytes, bytes]]:
        if self._claims:
            rest = b"".join(self._claims)
            self._claims.clear()
            yield CLAIMS, rest

    def _batches(self) -> Iterator[tuple[bytes, bytes]]:
        envelopes, self._envelopes = self._envelopes, []
        first = size = 0
        for place, packed in enumerate(envelopes):
            size += len(packed)
            if size > MAX_BATCH and place > first:
                yield ENVELOPES, self._seal(join(envelopes[first:place]))
                first, size = place, len(packed)
        if envelopes:
            yield ENVELOPES, self._seal(join(envelopes[first:] if first else envelopes))

    # -- in ----------------------------------------------------------------------------------------

    def receive(self, note: bytes) -> bytes | None:
        """
        Take a note of the other's; afterwards `wants_push` says whether there is something to answer.

        Returns:
            its kind, where its rest (from HEAD on) is to be looked at.
        """
        kind = note[:1]
        number, confirmed = _NUMBERS.unpack_from(note, 1 + NAME)
        self._forget(confirmed)
        if number == self._got + 1 and (kind == ENVELOPES or kind == CLAIMS):
            self._got = number
            self._unconfirmed += len(note)
            much = number - self._confirmed >= CONFIRM_AFTER or self._unconfirmed >= CONFIRM_OCTETS
            if much and not self._last:
                self._last.append(CONFIRM)
            return kind
        if kind == ENVELOPES or kind == CLAIMS or kind == COUNT:
            if number > self._got:
                self.ask_again()
            else:
                # The other does not know that we have it.
                self._confirmed = -1
            return None
        if kind == AGAIN:
            self.push_again()
            return None
        if kind == CONFIRM:
            return None
        return kind

    @property
    def wants_push(self) -> bool:
        """Whether notes() has something to push."""
        return bool(self._envelopes or self._claims or self._again or self._last)

    def _forget(self, confirmed: int) -> None:
        for kept in (self._again, self._kept):
            while kept and kept[0][0] <= confirmed:
                kept.popleft()

    def ask_again(self) -> None:
        """Ask for all that comes next, as something of it may be lost."""
        # Once for each gap and second.
        if self._asked_again_at != self._got:
            self._asked_again_at = self._got
            self.say(AGAIN)
