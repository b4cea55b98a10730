"""
RFC 9110, RFC 9112 and RFC 3986 tokens as regular expressions, their ABNF beside each.

Everything is a pattern on bytes, to be used with ``fullmatch``. Where we are stricter than the grammar, the
reason stands beside it.
"""

import re

__all__ = [
    "ABSOLUTE_FORM",
    "CHUNK_LINE",
    "CONTENT_LENGTH",
    "FIELD_NAME",
    "HOST",
    "ORIGIN_FORM",
    "REQUEST_LINE",
    "TOKEN",
]

# token = 1*tchar                                                        RFC 9110 §5.6.2
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
TOKEN = re.compile(_TOKEN)

# field-name = token                                                     RFC 9110 §5.1
FIELD_NAME = TOKEN

# request-line = method SP request-target SP HTTP-version                RFC 9112 §3
# HTTP-version = "HTTP" "/" DIGIT "." DIGIT                              RFC 9112 §2.3
# §3 lets a lenient recipient split on any white space; two recipients that split differently are what
# request smuggling is made of, so it is exactly one SP here.
REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")

# origin-form = absolute-path [ "?" query ]                              RFC 9112 §3.2.1
# Wider than pchar: browsers send | ^ [ ] { } " raw in paths and queries, and an application can tell.
# Not wider than visible ASCII, and no "#": a fragment never belongs on the wire (RFC 9110 §7.1).
ORIGIN_FORM = re.compile(rb"(/[\x21\x22\x24-\x3e\x40-\x7e]*)(?:\?([\x21\x22\x24-\x7e]*))?")

# uri-host = IP-literal / IPv4address / reg-name                         RFC 3986 §3.2.2
# reg-name = *( unreserved / pct-encoded / sub-delims ), minus "," which would let a list of hosts
# pass for one, and minus the empty name, which no site answers to.
_REG_NAME = rb"(?:[A-Za-z0-9\-._~!$&'()*+;=]|%[0-9A-Fa-f]{2})+"
# IPv6address, spelled out: "::" once, for at least one group; the last two groups may be an IPv4address.
_H16 = rb"[0-9A-Fa-f]{1,4}"
_DEC_OCTET = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_LS32 = rb"(?:" + _H16 + rb":" + _H16 + rb"|" + _DEC_OCTET + rb"(?:\." + _DEC_OCTET + rb"){3})"
_IPV6 = (
    rb"(?:%s)"
    % rb"|".join(
        (
            rb"(?:%(h)s:){6}%(l)s",
            rb"::(?:%(h)s:){5}%(l)s",
            rb"(?:%(h)s)?::(?:%(h)s:){4}%(l)s",
            rb"(?:(?:%(h)s:){0,1}%(h)s)?::(?:%(h)s:){3}%(l)s",
            rb"(?:(?:%(h)s:){0,2}%(h)s)?::(?:%(h)s:){2}%(l)s",
            rb"(?:(?:%(h)s:){0,3}%(h)s)?::%(h)s:%(l)s",
            rb"(?:(?:%(h)s:){0,4}%(h)s)?::%(l)s",
            rb"(?:(?:%(h)s:){0,5}%(h)s)?::%(h)s",
            rb"(?:(?:%(h)s:){0,6}%(h)s)?::",
        )
    )
    % {b"h": _H16, b"l": _LS32}
)
_IP_LITERAL = rb"\[(?:" + _IPV6 + rb"|v[0-9A-Fa-f]+\.[A-Za-z0-9\-._~!$&'()*+,;=:]+)\]"
_PORT = rb"(?::[0-9]{0,5})?"

# Host = uri-host [ ":" port ]                                           RFC 9110 §7.2
HOST = re.compile(rb"(?:" + _REG_NAME + rb"|" + _IP_LITERAL + rb")" + _PORT)

# absolute-form = absolute-URI, http and https only                      RFC 9112 §3.2.2
# userinfo is refused: "@" is "likely to be [...] an attempt to obscure the authority" (RFC 9110 §4.2.4).
ABSOLUTE_FORM = re.compile(
    rb"(?i:https?)://((?:" + _REG_NAME + rb"|" + _IP_LITERAL + rb")" + _PORT + rb")"
    rb"(/[\x21\x22\x24-\x3e\x40-\x7e]*)?(?:\?([\x21\x22\x24-\x7e]*))?"
)

# Content-Length = 1*DIGIT                                               RFC 9110 §8.6
# 19 digits fit in 63 bits; nobody means more, and other parsers would overflow on it.
CONTENT_LENGTH = re.compile(rb"[0-9]{1,19}")

# chunk-size = 1*HEXDIG ; chunk-ext = *( BWS ";" BWS name [ BWS "=" BWS value ] )     RFC 9112 §7.1
# At most 15 digits, for the same reason. Extensions are read and dropped, in their grammar only: lenient
# readers that end a line at a bare CR or LF inside an extension disagree with strict ones about where the
# body ends. BWS before ";" is taken, white space that belongs to no extension is not.
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
CHUNK_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,15})"
    rb"(?:[ \t]*;[ \t]*" + _TOKEN + rb"(?:[ \t]*=[ \t]*(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?)*"
)
