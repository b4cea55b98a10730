"""Unmasking gives the same whichever way it is done."""

import os

import pytest
from autobahn.websocket.xormasker import create_xor_masker

from daphne_like.websocket import masking


def reference(mask, data):
    return bytes(octet ^ mask[index % 4] for index, octet in enumerate(data))


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 125, 126, 2047, 2048, 2049, 2050, 2051, 10_240, 65_537])
@pytest.mark.parametrize("compiled", [True, False])
def test_unmasking_is_the_rfcs(size, compiled, monkeypatch):
    """RFC 6455 §5.3: octet i of the payload XOR octet i mod 4 of the mask."""
    if not compiled:
        monkeypatch.setattr(masking, "_nvx", None)
    mask, data = os.urandom(4), os.urandom(size)

    assert masking.unmask(mask, data) == reference(mask, data)


def test_autobahns_masker_agrees():
    """The library that is called without its wrapper does what the wrapper does."""
    mask, data = os.urandom(4), os.urandom(5000)

    assert masking.unmask(mask, data) == bytes(create_xor_masker(mask, len(data)).process(data))
