"""
What is done within the engine in one step: Lua scripts.

Each has keys of one hash tag, so that it runs on any cluster. Times are the engine's own (TIME), so that the
senders' clocks say nothing about order or age; what goes in is how long something may live, in milliseconds.

An *element* of a list is eight octets with the time at which it expires (a big-endian double, seconds of the
engine's clock), which the script puts there, one octet that says its kind, and the rest. The rest is the
layer's, but for this: of a counted message it begins with the channel's name and a zero octet.

Several elements go in one call, in *runs* of those that have the same limit, counter and lifetime:
`counter, limit, lifetime, how many, element, element, ...`, run by run. They are refused one by one.

Every script that writes begins its writing with a command that an engine without memory refuses. So an error
of that kind says that nothing was done.

Redis 7.0 is enough.
"""

import hashlib
from typing import Final

__all__ = [
    "ALL",
    "GROUP_JOIN",
    "GROUP_MEMBERS",
    "MAX_INBOX",
    "PUSH_CHANNEL",
    "PUSH_INBOX",
    "PUT_BACK",
    "RECOUNT",
    "TOOK",
    "WITHDRAW",
    "Script",
]

# Elements that an inbox holds before group messages are refused: its process does not read any more.
MAX_INBOX: Final = 20_000


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


# The time, and how keys are kept: at least as long as the youngest of what is in them, and renewed some seconds
# before that would be so, because asking is cheaper than writing.
_HEAD = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local function keep(key, lifetime)
  if redis.call('PTTL', key) < lifetime + 1000 then
    redis.call('PEXPIRE', key, lifetime + 5000)
  end
end
local function push(key, elements)
  for first = 1, #elements, 1000 do
    redis.call('RPUSH', key, unpack(elements, first, math.min(first + 999, #elements)))
  end
end
"""

PUSH_INBOX: Final = Script(
    "PUSH_INBOX",
    """
-- KEYS: inbox, counts.  ARGV: runs; limit 0: not counted, -1: while the inbox is not too long.
-- Gives the places (from 0) of those that were refused.
"""
    + _HEAD
    + f"""
local elements, refused, longest = {{}}, {{}}, 0
local pending, sent, full = {{}}, {{}}, {{}}
local place, at = 0, 1
local length = false
while at <= #ARGV do
  local counter, limit = ARGV[at], tonumber(ARGV[at + 1])
  local lifetime, count = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local stamp = struct.pack('>d', now + lifetime / 1000)
  local room = count
  if limit > 0 then
    if not pending[counter] then
      pending[counter] = tonumber(redis.call('HGET', KEYS[2], counter) or 0)
      sent[counter] = 0
    end
    room = math.max(0, math.min(count, limit - pending[counter]))
    pending[counter] = pending[counter] + room
    sent[counter] = sent[counter] + room
    if room < count then
      full[counter] = (full[counter] or 0) + count - room
    end
  elseif limit < 0 then
    length = length or redis.call('LLEN', KEYS[1])
    room = math.max(0, math.min(count, {MAX_INBOX} - length - #elements))
  end
  for i = at + 4, at + 3 + room do
    elements[#elements + 1] = stamp .. ARGV[i]
  end
  for i = room, count - 1 do
    refused[#refused + 1] = place + i
  end
  if room > 0 and lifetime > longest then
    longest = lifetime
  end
  place = place + count
  at = at + 4 + count
end
push(KEYS[1], elements)
if #elements > 0 then
  keep(KEYS[1], longest)
end
local counted = false
for counter, count in pairs(sent) do
  if count > 0 then
    redis.call('HINCRBY', KEYS[2], counter, count)
    redis.call('HINCRBY', KEYS[2], counter .. '#sent', count)
    counted = true
  end
end
for counter, count in pairs(full) do
  redis.call('HINCRBY', KEYS[2], counter .. '#full', count)
  counted = true
end
if counted then
  keep(KEYS[2], math.max(longest, 60000))
end
return refused
""",
)

PUSH_CHANNEL: Final = Script(
    "PUSH_CHANNEL",
    """
-- KEYS: list of a shared channel, its statistics.  ARGV: runs; the counters say nothing, limit 0: none.
-- What is too old makes room. Gives the places (from 0) of those that were refused.
"""
    + _HEAD
    + """
local elements, refused, longest = {}, {}, 0
local place, at = 0, 1
local length = redis.call('LLEN', KEYS[1])
while at <= #ARGV do
  local limit, lifetime, count = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local stamp = struct.pack('>d', now + lifetime / 1000)
  local room = count
  if limit > 0 then
    while length > 0 and length + #elements + count > limit do
      local head = redis.call('LINDEX', KEYS[1], 0)
      if struct.unpack('>d', head) > now then
        break
      end
      redis.call('LPOP', KEYS[1])
      length = length - 1
    end
    room = math.max(0, math.min(count, limit - length - #elements))
  end
  for i = at + 4, at + 3 + room do
    elements[#elements + 1] = stamp .. ARGV[i]
  end
  for i = room, count - 1 do
    refused[#refused + 1] = place + i
  end
  if room > 0 and lifetime > longest then
    longest = lifetime
  end
  place = place + count
  at = at + 4 + count
end
push(KEYS[1], elements)
if #elements > 0 then
  keep(KEYS[1], longest)
  redis.call('HINCRBY', KEYS[2], 'sent', #elements)
end
if #refused > 0 then
  redis.call('HINCRBY', KEYS[2], 'full', #refused)
end
keep(KEYS[2], math.max(longest, 60000))
return refused
""",
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

TOOK: Final = Script(
    "TOOK",
    """
-- KEYS: counts of an inbox.  ARGV: counter, how many were taken; counter, ...
for i = 1, #ARGV, 2 do
  local pending = tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or 0)
  if pending > 0 then
    redis.call('HSET', KEYS[1], ARGV[i], math.max(0, pending - tonumber(ARGV[i + 1])))
  end
end
return redis.status_reply('OK')
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
    PUSH_INBOX,
    PUSH_CHANNEL,
    PUT_BACK,
    WITHDRAW,
    TOOK,
    RECOUNT,
    GROUP_JOIN,
    GROUP_MEMBERS,
)
