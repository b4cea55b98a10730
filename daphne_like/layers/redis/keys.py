"""
Names of keys, and what is written into lists.

What stands in braces, the *tag*, decides which node of a cluster, or which of several hosts, has the key. All
keys of one member have one tag, and so have those of one part of a shared channel.

    {P}:in:{<member>}       list: the inbox of a process or a port
    {P}:n:{<member>}        hash: how many messages of each prefix have not been taken; statistics
    {P}:up:{<member>}       there is such a member; expires with it
    {P}:ch:{<channel>.<k>}  list: a shared channel, part k
    {P}:st:{<channel>.<k>}  hash: statistics of it
    {P}:gr:{<group>}        sorted set: who is in a group, until when
    {P}:gaps:{<label>}      the gap, and the groups, of a relayed stream that is being handed over
    {P}:gap:{<gap>}         list: group messages for the next instance of the stream
    {P}:gapn:{<gap>}        hash: how many there were

An element of a list is a time (see scripts), a kind, and the rest. Names cannot contain a zero octet.

    M  channel 0 payload        a message for a channel
    G  id group 0 payload       a group's message for a member; the id has 8 octets
    J  id group 0 channel       the channel is in the group from here on; the id has 8 octets, zeros where it is
    L  id group 0 channel       another process' doing; and not any more
    F                           everything was flushed
    D  label                    handoff: the stream's messages go to its gap too, from here on
    H, E                        in a gap, see handoff; H is as G

Ports have keys of their own, see port: streams are none of the business of flush() and statistics.
"""

from zlib import crc32

__all__ = ["NO_ID", "STAMP", "Keys"]

# Octets of an element before its kind.
STAMP = 8

NO_ID = bytes(8)


class Keys:
    """
    Args:
        prefix: of the layer.
        parts: of a shared channel.
    """

    def __init__(self, prefix: str, parts: int = 1) -> None:
        self.prefix = prefix
        self.parts = parts

    def inbox(self, member: str) -> str:
        return f"{self.prefix}:in:{{{member}}}"

    def counts(self, member: str) -> str:
        return f"{self.prefix}:n:{{{member}}}"

    def lease(self, member: str) -> str:
        return f"{self.prefix}:up:{{{member}}}"

    def channel(self, part: str) -> str:
        return f"{self.prefix}:ch:{{{part}}}"

    def statistics(self, part: str) -> str:
        return f"{self.prefix}:st:{{{part}}}"

    def group(self, group: str) -> str:
        return f"{self.prefix}:gr:{{{group}}}"

    def gap_of(self, label: str) -> str:
        return f"{self.prefix}:gaps:{{{label}}}"

    def gap(self, gap: str) -> str:
        return f"{self.prefix}:gap:{{{gap}}}"

    def offers(self, part: str) -> str:
        """See port."""
        return f"{self.prefix}:offers:{{{part}}}"

    def gap_count(self, gap: str) -> str:
        return f"{self.prefix}:gapn:{{{gap}}}"

    def all_parts(self, channel: str) -> list[str]:
        """The tags of a shared channel."""
        return [f"{channel}.{part}" for part in range(self.parts)]

    def part_for(self, channel: str, sender: str) -> str:
        """The tag that *sender* writes to, always: so its messages stay in order."""
        return f"{channel}.{crc32(sender.encode()) % self.parts}"

    def everything(self) -> str:
        """A pattern for SCAN."""
        escaped = "".join(f"\\{letter}" if letter in "*?[]\\" else letter for letter in self.prefix)
        return f"{escaped}:*"

    def split(self, key: str) -> tuple[str, str]:
        """
        What a key of ours is: ("in", member), ("ch", part) ...

        Raises:
            ValueError: it is none.
        """
        kind, opening, tag = key[len(self.prefix) + 1 :].partition(":{")
        if not opening or not tag.endswith("}"):
            raise ValueError(key)
        return kind, tag[:-1]
