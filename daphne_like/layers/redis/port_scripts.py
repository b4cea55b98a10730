"""
What a port does within the engine in one step.

An offer, in the list of a shared channel, is O, the offerer's name, its ref in eight octets, and the opening,
packed, sealed where the layer has keys; before it are eight octets of time (see scripts.py). Notes,
which are in a port's inbox, are described in pair.py.
"""

from typing import Final

from .keys import STAMP
from .pair import NAME
from .scripts import ADMIT_CHANNEL, PUT_BACK, Script

__all__ = ["ALL_OF_PORTS", "OFFER", "OFFERS_LEFT", "OFFER_HEAD", "POST", "WITHDRAW_OFFER"]

OFFER: Final = b"O"

# Octets before the opening, without the time.
OFFER_HEAD: Final = 1 + NAME + 8

POST: Final = Script(
    "POST",
    """
-- KEYS: a port's inbox.  ARGV: how many milliseconds it is to be kept, notes.
for first = 2, #ARGV, 1000 do
  redis.call('RPUSH', KEYS[1], unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
if #ARGV > 1 then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return redis.status_reply('OK')
""",
)

OFFERS_LEFT: Final = Script(
    "OFFERS_LEFT",
    f"""
-- KEYS: a list of offers.  ARGV: O and the offerer's name.  Gives the refs of its offers that wait.
local elements = redis.call('LRANGE', KEYS[1], 0, -1)
local found = {{}}
for i = 1, #elements do
  if string.sub(elements[i], {STAMP + 1}, {STAMP + 1 + NAME}) == ARGV[1] then
    found[#found + 1] = string.sub(elements[i], {STAMP + 2 + NAME}, {STAMP + OFFER_HEAD})
  end
end
return found
""",
)

WITHDRAW_OFFER: Final = Script(
    "WITHDRAW_OFFER",
    f"""
-- KEYS: a list of offers.  ARGV: O, the offerer's name and a ref.  Gives how many there were.
local elements = redis.call('LRANGE', KEYS[1], 0, -1)
for i = 1, #elements do
  if string.sub(elements[i], {STAMP + 1}, {STAMP + OFFER_HEAD}) == ARGV[1] then
    return redis.call('LREM', KEYS[1], 1, elements[i])
  end
end
return 0
""",
)

ALL_OF_PORTS: Final = (ADMIT_CHANNEL, PUT_BACK, POST, OFFERS_LEFT, WITHDRAW_OFFER)
