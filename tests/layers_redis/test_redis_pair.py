"""What two ports say to each other, whatever the engine between them forgets or gives twice."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daphne_like.layers.codec import pack, unpack
from daphne_like.layers.redis import pair as module
from daphne_like.layers.redis.pair import BYE, CLAIMS, CONFIRM, ENVELOPES, HEAD, Pair, sender_of

ANN, BOB = "a" * 16, "b" * 16


def two():
    return Pair(ANN, BOB, bytes), Pair(BOB, ANN, bytes)


def pushed(pair):
    notes, more = pair.notes()
    assert not more
    return notes


def heard(pair, notes):
    """Numbers that *pair* is told by *notes*."""
    found = []
    for note in notes:
        if pair.receive(note) == ENVELOPES:
            found += unpack(note[HEAD:])
    return found


def test_what_is_said_in_one_turn_is_one_note():
    ann, bob = two()
    for number in range(3):
        ann.post(pack(number))
    (note,) = pushed(ann)
    assert sender_of(note) == ANN.encode()
    assert heard(bob, [note]) == [0, 1, 2]


def test_claims_go_before_envelopes():
    ann, bob = two()
    ann.post(pack("answer"))
    ann.claim(7)
    ann.claim(8)
    first, second = pushed(ann)
    assert bob.receive(first) == CLAIMS
    assert first[HEAD:] == (7).to_bytes(8, "big") + (8).to_bytes(8, "big")
    assert bob.receive(second) == ENVELOPES


def test_what_is_pushed_twice_counts_once():
    ann, bob = two()
    ann.post(pack(1))
    first = pushed(ann)
    ann.push_again()
    ann.post(pack(2))
    assert heard(bob, first + pushed(ann)) == [1, 2]


def test_what_is_lost_is_asked_for_and_comes_in_order():
    ann, bob = two()
    ann.post(pack(1))
    pushed(ann)  # lost
    ann.post(pack(2))
    assert heard(bob, pushed(ann)) == []
    assert bob.wants_push
    assert heard(ann, pushed(bob)) == []
    assert ann.wants_push
    assert heard(bob, pushed(ann)) == [1, 2]


def test_the_loss_of_the_last_is_noticed_at_the_next_look():
    ann, bob = two()
    ann.post(pack(1))
    pushed(ann)  # lost
    assert ann.look()
    heard(bob, pushed(ann))
    heard(ann, pushed(bob))
    assert heard(bob, pushed(ann)) == [1]


def test_what_is_confirmed_is_forgotten_and_then_there_is_nothing_to_say():
    ann, bob = two()
    ann.post(pack(1))
    heard(bob, pushed(ann))
    assert not ann.idle
    assert bob.look()
    heard(ann, pushed(bob))
    assert ann.idle
    assert not ann.look()
    assert not bob.look()
    ann.push_again()
    assert not ann.wants_push


def test_many_notes_are_confirmed_before_the_next_look(monkeypatch):
    ann, bob = two()
    for number in range(module.CONFIRM_AFTER):
        assert not bob.wants_push
        ann.post(pack(number))
        heard(bob, pushed(ann))
    assert [note[:1] for note in pushed(bob)] == [CONFIRM]


def test_a_gap_is_asked_for_once_a_second():
    ann, bob = two()
    ann.post(pack(1))
    pushed(ann)  # lost
    for number in (2, 3):
        ann.post(pack(number))
        heard(bob, pushed(ann))
    assert len(pushed(bob)) == 1
    bob.look()
    ann.look()
    heard(bob, pushed(ann))
    assert bob.wants_push


def test_large_pushes_are_parted(monkeypatch):
    monkeypatch.setattr(module, "MAX_BATCH", 100)
    monkeypatch.setattr(module, "MAX_PUSH", 300)
    ann, bob = two()
    for number in range(50):
        ann.post(pack([number, "x" * 40]))
    notes, more = ann.notes()
    assert not more
    assert len(notes) > 20
    ann.push_again()
    pushes = 0
    found = []
    more = True
    while more:
        notes, more = ann.notes()
        found += heard(bob, notes)
        pushes += 1
    assert pushes > 3
    assert [number for number, _ in found] == list(range(50))


def test_envelopes_are_sealed():
    ann, bob = Pair(ANN, BOB, lambda payload: b"sealed" + payload), Pair(BOB, ANN, bytes)
    ann.post(pack(1))
    (note,) = pushed(ann)
    bob.receive(note)
    assert note[HEAD:].startswith(b"sealed")


def test_a_goodbye_comes_last():
    ann, bob = two()
    ann.say(BYE)
    ann.post(pack(1))
    first, last = pushed(ann)
    assert bob.receive(first) == ENVELOPES
    assert bob.receive(last) == BYE


@pytest.mark.parametrize("octets", [b"", b"P", b"P" + b"a" * 31])
def test_octets_that_are_no_note(octets):
    with pytest.raises(ValueError, match="note"):
        sender_of(octets)


@settings(max_examples=200)
@given(st.randoms(use_true_random=False), st.integers(0, 60))
def test_nothing_is_lost_or_doubled_over_an_engine_that_does_both(chance: random.Random, turns):
    """In the end, once the engine is well, everybody has everything, in order."""
    ann, bob = two()
    pairs = {ANN: ann, BOB: bob}
    found = {ANN: [], BOB: []}
    said = {ANN: 0, BOB: 0}

    def turn(well):
        for name, pair in pairs.items():
            other = pairs[BOB if name == ANN else ANN]
            if not well and chance.random() < 0.6:
                said[name] += 1
                pair.post(pack(said[name]))
            if not well and chance.random() < 0.1:
                pair.push_again()
            if chance.random() < 0.3 or well:
                pair.look()
            notes = pushed(pair)
            if not well and chance.random() < 0.3:
                notes = notes[chance.randrange(len(notes) + 1) :]
            if not well and chance.random() < 0.2:
                notes = notes * 2
            found[other._me.decode()] += heard(other, notes)

    for _ in range(turns):
        turn(well=False)
    for _ in range(8):
        turn(well=True)
    assert found[BOB] == list(range(1, said[ANN] + 1))
    assert found[ANN] == list(range(1, said[BOB] + 1))
    assert ann.idle
    assert bob.idle
