"""
What is done within the engine in one step: Lua scripts.

Each has keys of one hash tag, so that it runs on any cluster.

An *element* of a list is eight octets with the time at which it expires (a big-endian double, seconds of the
engine's clock: stamp()), one octet that says its kind, and the rest. The rest is the layer's, but for this: of a
counted message it begins with the channel's name and a zero octet.

Messages do not go through scripts, which cost ten times what a command does: Lua makes strings of arguments,
copied and hashed. They are pushed, and *admitted* by a script in the same transaction, into which nobody can
look; what is too much is taken back: nearly always nothing is. See Engine.push(). The time before an element
is the sender's reading of the engine's clock (clock.py).

What was pushed is described in *runs* of elements that have the same limit, counter and lifetime: `counter,
limit, lifetime, how many`, run by run. They are refused one by one.

Keys are kept for at least as long as the youngest of what is in them, and some seconds. A list that was empty
gets its time with the first elements, as counts do that were 0. What was not has a time, which is renewed early
where the script's first argument, *keep*, is 1: each sender says so every KEEP_EVERY seconds, and when it sends
what lives longer.

Every script that writes begins its writing with a command that an engine without memory refuses. So an error
of that kind says that nothing was done.

Redis 7.0 is enough.
"""

import hashlib
import struct
from typing import Final

__all__ = [
    "ADMIT_CHANNEL",
    "ADMIT_INBOX",
    "ALL",
    "GROUP_JOIN",
    "GROUP_MEMBERS",
    "KEEP_EVERY",
    "MAX_INBOX",
    "PUT_BACK",
    "RECOUNT",
    "WITHDRAW",
    "Script",
    "stamp",
]

# Elements that an inbox holds before group messages are refused: its process does not read any more.
MAX_INBOX: Final = 20_000

# Seconds; less than the five that keys are kept for beyond what they must be.
KEEP_EVERY: Final = 2.0

_stamp = struct.Struct(">d").pack


def stamp(now: float, lifetime: float) -> bytes:
    """
    What an element begins with.

    Args:
        now: seconds of the engine's clock.
        lifetime: milliseconds.
    """
    return _stamp(now + lifetime / 1000)


class Script:
    """
    Attributes:
        name: for errors and logs.
        lua: the text.
        sha: what EVALSHA calls it.
    """

    __slots__ = ("lua", "name", "sha")

    def __init__(self, name: str, lua: str) -> None:
        self.name = name
        self.lua = lua
        # Not for security: the engine's own name for it.
        self.sha = hashlib.sha1(lua.encode(), usedforsecurity=False).hexdigest()

    def __repr__(self) -> str:
        return f"<Script {self.name}>"


# The time, and how long a key is kept.
_HEAD = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local function keep(key, lifetime)
  if redis.call('PTTL', key) < lifetime + 1000 then
    redis.call('PEXPIRE', key, lifetime + 5000)
  end
end
"""

# Around what says how many of a run may stay, `room`.
_ADMIT = (
    """
local keep, total = ARGV[1] == '1', tonumber(ARGV[2])
local length, pushed, longest, rooms = redis.call('LLEN', KEYS[1]) - total, 0, 0, nil
local fresh = false
for at = 3, #ARGV, 4 do
  local counter, limit = ARGV[at], tonumber(ARGV[at + 1])
  local lifetime, count = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local room = count
""",
    """
  if room < count then
    rooms = rooms or {}
    rooms[at] = room
  end
  length = length + room
  pushed = pushed + room
  if lifetime > longest then
    longest = lifetime
  end
end
local refused = {}
if rooms then
  -- The last of a run are those that are too many.
  local elements, stay, place = redis.call('LRANGE', KEYS[1], -total, -1), {}, 0
  redis.call('LTRIM', KEYS[1], 0, -total - 1)
  for at = 3, #ARGV, 4 do
    local count = tonumber(ARGV[at + 3])
    for i = 1, count do
      if i <= (rooms[at] or count) then
        stay[#stay + 1] = elements[place + i]
      else
        refused[#refused + 1] = place + i - 1
      end
    end
    place = place + count
  end
  for first = 1, #stay, 1000 do
    redis.call('RPUSH', KEYS[1], unpack(stay, first, math.min(first + 999, #stay)))
  end
end
if pushed > 0 and (pushed == length or redis.call('PTTL', KEYS[1]) < longest + (keep and 3000 or 500)) then
  redis.call('PEXPIRE', KEYS[1], longest + 5000)
end
if keep or fresh then
  longest = math.max(longest, 60000)
  if redis.call('PTTL', KEYS[2]) < longest + 8000 then
    redis.call('PEXPIRE', KEYS[2], longest + 10000)
  end
end
return refused
""",
)

ADMIT_INBOX: Final = Script(
    "ADMIT_INBOX",
    """
-- KEYS: inbox, counts.  ARGV: keep, how many were pushed, runs.
-- Limit 0: not counted; -1: while the inbox is not too long.
-- Gives the places (from 0) of those that were refused.
"""
    + _ADMIT[0]
    + f"""
  if limit > 0 then
    local pending = redis.call('HINCRBY', KEYS[2], counter, count)
    -- Nothing is pending: the counts may have ended, and begun anew without an end.
    fresh = fresh or pending <= count
    if pending < count then
      -- The count had been lost, and what it had counted was taken.
      redis.call('HSET', KEYS[2], counter, count)
      pending = count
    end
    if pending > limit then
      room = math.max(0, limit - pending + count)
      redis.call('HINCRBY', KEYS[2], counter, room - count)
      redis.call('HINCRBY', KEYS[2], counter .. '#full', count - room)
    end
  elseif limit < 0 and length + count > {MAX_INBOX} then
    room = math.max(0, {MAX_INBOX} - length)
  end
"""
    + _ADMIT[1],
)

ADMIT_CHANNEL: Final = Script(
    "ADMIT_CHANNEL",
    """
-- KEYS: list of a shared channel, its statistics.  ARGV: as above, where counters say nothing; limit 0: none.
-- What is too old makes room. Gives the places (from 0) of those that were refused.
-- Not what was pushed with this.
local now, before
local function drop_old(key, over)
  if not now then
    local time = redis.call('TIME')
    now = tonumber(time[1]) + tonumber(time[2]) / 1000000
  end
  before = before or redis.call('LLEN', key) - tonumber(ARGV[2])
  over = math.min(over, before)
  local dropped = 0
  while dropped < over and struct.unpack('>d', redis.call('LINDEX', key, 0)) <= now do
    redis.call('LPOP', key)
    dropped = dropped + 1
  end
  before = before - dropped
  return dropped
end
"""
    + _ADMIT[0]
    + """
  if limit > 0 and length + count > limit then
    length = length - drop_old(KEYS[1], length + count - limit)
    room = math.max(0, math.min(count, limit - length))
  end
  if room > 0 then
    fresh = redis.call('HINCRBY', KEYS[2], 'sent', room) == room or fresh
  end
  if room < count then
    fresh = redis.call('HINCRBY', KEYS[2], 'full', count - room) == count - room or fresh
  end
"""
    + _ADMIT[1],
)

PUT_BACK: Final = Script(
    "PUT_BACK",
    """
-- KEYS: list of a shared channel.  ARGV: how long the key must live at least, elements as they were, last first.
"""
    + _HEAD
    + """
for first = 2, #ARGV, 1000 do
  redis.call('LPUSH', KEYS[1], unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
keep(KEYS[1], tonumber(ARGV[1]))
return redis.status_reply('OK')
""",
)

WITHDRAW: Final = Script(
    "WITHDRAW",
    """
-- KEYS: list of a shared channel.  ARGV: an element without its time.  Gives how many there were.
local elements = redis.call('LRANGE', KEYS[1], 0, -1)
local found = 0
for i = 1, #elements do
  if string.sub(elements[i], 9) == ARGV[1] then
    found = found + redis.call('LREM', KEYS[1], 1, elements[i])
  end
end
return found
""",
)

RECOUNT: Final = Script(
    "RECOUNT",
    """
-- KEYS: inbox, its counts.  ARGV: counter, how many its process holds; counter, ...
-- Makes right what went wrong when a connection broke: a count is what waits here and what is held there.
local held = {}
for i = 1, #ARGV, 2 do
  held[ARGV[i]] = tonumber(ARGV[i + 1])
end
local fields = redis.call('HKEYS', KEYS[2])
for i = 1, #fields do
  if not string.find(fields[i], '#', 1, true) then
    held[fields[i]] = held[fields[i]] or 0
  end
end
if next(held) == nil then
  return redis.status_reply('OK')
end
local elements = redis.call('LRANGE', KEYS[1], 0, -1)
for i = 1, #elements do
  local element = elements[i]
  if string.sub(element, 9, 9) == 'M' then
    local mark = string.find(element, '!', 10, true)
    if mark then
      local counter = string.sub(element, 10, mark)
      held[counter] = (held[counter] or 0) + 1
    end
  end
end
for counter, count in pairs(held) do
  redis.call('HSET', KEYS[2], counter, count)
end
if redis.call('PTTL', KEYS[2]) < 60000 then
  redis.call('PEXPIRE', KEYS[2], 65000)
end
return redis.status_reply('OK')
""",
)

GROUP_JOIN: Final = Script(
    "GROUP_JOIN",
    """
-- KEYS: a group.  ARGV: lifetime, entries.  What is in it already stays for no shorter than it would.
"""
    + _HEAD
    + """
local lifetime = tonumber(ARGV[1])
local wanted = {}
for i = 2, #ARGV do
  wanted[#wanted + 1] = math.floor(now * 1000) + lifetime
  wanted[#wanted + 1] = ARGV[i]
end
redis.call('ZADD', KEYS[1], 'GT', unpack(wanted))
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', math.floor(now * 1000))
keep(KEYS[1], lifetime)
return redis.status_reply('OK')
""",
)

GROUP_MEMBERS: Final = Script(
    "GROUP_MEMBERS",
    """
-- KEYS: a group.  Gives its entries.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')
""",
)

ALL: Final = (
    ADMIT_INBOX,
    ADMIT_CHANNEL,
    PUT_BACK,
    WITHDRAW,
    RECOUNT,
    GROUP_JOIN,
    GROUP_MEMBERS,
)
