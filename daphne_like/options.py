"""
What an option is: a field of a dataclass that knows its flag, its unit, its reason, and how to read itself.

`option()` makes such a field, `Option` is what the command line, the environment, files and the
documentation see of it. A value comes as text (`parse`) or as a Python object (`checked`); either way
it ends as the field's type, or as a ConfigurationError that names the option as the user wrote it.

Below them, the checks of texts: a function each, raising ValueError with what is wrong.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import logging
import math
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, Union

from .errors import ConfigurationError

__all__ = [
    "GIB",
    "KIB",
    "MIB",
    "Option",
    "check_channel_glob",
    "check_channel_name",
    "check_field_name",
    "check_field_value",
    "check_log_format",
    "check_not_empty",
    "check_path",
    "check_restart_rule",
    "check_root_path",
    "check_trusted",
    "option",
    "options_of",
    "split_address",
]

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

T = TypeVar("T")
Unit = Literal["", "seconds", "bytes", "octal"]
Range = tuple[float | None, float | None]


def option(
    default: T,
    *,
    help: str,
    why: str,
    group: str = "",
    flags: str = "",
    off_flag: str = "",
    unit: Unit = "",
    within: Range = (None, None),
    zero: str = "",
    never: bool = False,
    listed: bool = False,
    check: Callable[[Any], object] | None = None,
) -> T:
    """
    A field of Settings with all that the command line and the documentation say about it.

    Args:
        group: the heading that it and the fields after it stand under.
        flags: "-b HOST", "--fd N": the short flag, the long one where it is not the field's name with
            dashes, what its argument is called; each may be left out.
        off_flag: of a text, a further flag that means "". (A bool has its --no- flag anyway.)
        unit: a float is always seconds.
        within: lowest and highest value. Where neither is given, a number is above 0.
        zero: what 0 means, and that it may be given. "no bound" for a float without *within*.
        never: -1 is taken for 0, as Daphne spells "never".
        listed: one occurrence of the flag may hold several values, between commas.
        check: called with each value (each item of a list); raises ValueError saying what is wrong.
    """
    metadata = {
        "help": help,
        "why": why,
        "group": group,
        "flags": flags,
        "off_flag": off_flag,
        "unit": unit,
        "within": within,
        "zero": zero,
        "never": never,
        "listed": listed,
        "check": check,
    }
    return field(default=default, metadata=metadata)


_BOOLEANS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}
_OCTAL = re.compile(r"(?:0o)?[0-7]{1,20}")
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,20}(?:\.[0-9]*)?|\.[0-9]+)")
_SIZE = re.compile(r"([0-9]{1,20})\s*(?:([kmg])(?:i?b)?)?", re.IGNORECASE)
_FACTORS = {"": 1, "k": KIB, "m": MIB, "g": GIB}
_LARGEST = 2**63 - 1
_WANTED = {
    "bytes": "a size in bytes, such as 65536 or 64k",
    "octal": "an octal number such as 0660",
    "seconds": "a number of seconds",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """
    One option as the command line, the environment, files and the documentation need it.

    Attributes:
        kind: bool, int, float or str; of the items, where *many*.
        many: a tuple of values.
        optional: None is a value, and the default.
        choices: the only values, where not empty.
    """

    name: str
    kind: type
    many: bool
    optional: bool
    choices: tuple[str, ...]
    default: Any
    help: str
    why: str
    group: str
    unit: Unit
    flag: str
    short: str
    off_flag: str
    off_value: Any
    zero: str
    never: bool
    within: Range
    metavar: str
    listed: bool
    check: Callable[[Any], object] | None

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return f"DAPHNE_LIKE_{self.name.upper()}"

    @property
    def flags(self) -> tuple[str, ...]:
        """Flags that take the value (for a bool: that mean True), the short one first."""
        return (self.short, self.flag) if self.short else (self.flag,)

    def parse(self, text: str, label: str) -> Any:
        """
        The value that *text*, from a command line or the environment, stands for.

        Lists are between commas; a text is taken as it is; "" is None where None is a value (except
        that an empty string is a text).

        Args:
            label: how the user called this option; begins the error's text.

        Raises:
            ConfigurationError: when it is not of this option's kind or range.
        """
        if self.many:
            words = [word.strip() for word in text.split(",")]
            return self.checked(tuple(self._word(word, label) for word in words if word), label)
        if self.optional and self.kind is not str and not text.strip():
            return None
        return self.checked(self._word(text, label), label)

    def parse_item(self, text: str, label: str) -> Any:
        """One occurrence of a list's flag, without splitting: paths may hold commas."""
        return self._item(self._word(text, label), label)

    def checked(self, value: Any, label: str) -> Any:
        """
        *value* as the field's type holds it: a list as tuple, 30 as 30.0, -1 as 0.

        Raises:
            ConfigurationError: when it is of another type, or out of range.
        """
        if value is None and self.optional:
            return None
        if self.many:
            if isinstance(value, str) or not isinstance(value, (tuple, list)):
                raise ConfigurationError(f"{label}: {value!r} is not a list; each item is {self.wanted}")
            items = tuple([self._item(item, label) for item in value])
            return value if items == value and isinstance(value, tuple) else items
        return self._item(value, label)

    def text(self, value: Any) -> str:
        """*value* as it could be written for `parse()`; None as ""."""
        if value is None:
            return ""
        return ",".join(map(self._item_text, value)) if self.many else self._item_text(value)

    def _item_text(self, value: Any) -> str:
        if self.kind is bool:
            return "true" if value else "false"
        if self.unit == "octal":
            return f"{int(value):04o}"
        if self.unit == "bytes":
            for suffix, factor in (("g", GIB), ("m", MIB), ("k", KIB)):
                if value and value % factor == 0:
                    return f"{value // factor}{suffix}"
        if self.kind is float:
            return str(value).removesuffix(".0")
        return str(value)

    @property
    def wanted(self) -> str:
        """What a value (an item of a list) is, in words: "a size in bytes, such as 65536 or 64k"."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.kind is bool:
            return "true or false"
        return _WANTED.get(self.unit) or {int: "a whole number", float: "a number", str: "text"}[self.kind]

    def _word(self, text: str, label: str) -> Any:
        """*text* as an object of this option's kind; its range is not looked at."""
        word = text.strip()
        if self.kind is str:
            return text
        if self.kind is bool and word.lower() in _BOOLEANS:
            return _BOOLEANS[word.lower()]
        if self.unit == "octal" and _OCTAL.fullmatch(word):
            return int(word.removeprefix("0o"), 8)
        if self.unit == "bytes" and (match := _SIZE.fullmatch(word)):
            return int(match[1]) * _FACTORS[(match[2] or "").lower()]
        if self.kind is int and not self.unit and _INTEGER.fullmatch(word):
            return int(word)
        if self.kind is float and _NUMBER.fullmatch(word):
            return float(word)
        raise ConfigurationError(f"{label}: {text!r} is not {self.wanted}")

    def _item(self, value: Any, label: str) -> Any:
        if isinstance(value, str) and self.unit in ("bytes", "octal"):
            value = self._word(value, label)  # "64k" and "0660" of a TOML file
        if type(value) is int and abs(value) > _LARGEST:
            raise ConfigurationError(f"{label}: a number of {value.bit_length()} bits is too large")
        if self.kind is float and type(value) is int:
            value = float(value)
        if type(value) is not self.kind or (self.choices and value not in self.choices):
            raise ConfigurationError(f"{label}: {value!r} is not {self.wanted}")
        if self.kind in (int, float):
            return self._number(typing.cast(float, value), label)
        if self.check is not None:
            try:
                self.check(value)
            except ValueError as error:
                raise ConfigurationError(f"{label}: {value!r}: {error}") from None
        return value

    def _number(self, value: float, label: str) -> float | None:
        if value == -1 and self.never:
            value = self.kind(0)
        if value == 0 and self.zero:
            return None if self.optional else value
        low, high = self.within
        if not math.isfinite(value):
            wanted = self.wanted
        elif low is None and value <= 0:
            wanted = "above 0" + (f"; 0 means {self.zero}" if self.zero else "")
        elif high is not None and not (low or 0) <= value <= high:
            wanted = f"in {self._item_text(low or 0)}..{self._item_text(high)}"
        elif low is not None and value < low:
            wanted = f"{low:g} or more"
        else:
            return value
        raise ConfigurationError(f"{label}: {self._item_text(value)} is not {wanted}")


def options_of(described: type) -> tuple[Option, ...]:
    """The options that the fields of the dataclass *described* are, in their order."""
    hints = typing.get_type_hints(described)
    found: list[Option] = []
    for each in dataclasses.fields(described):
        found.append(_option_of(each, hints[each.name], found[-1].group if found else ""))
    return tuple(found)


def _option_of(described: dataclasses.Field[Any], hint: Any, group: str) -> Option:
    many = optional = False
    choices: tuple[str, ...] = ()
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        many, hint = True, arguments[0]
    elif origin in (Union, types.UnionType):
        optional = True
        hint = next(each for each in arguments if each is not type(None))
    elif origin is Literal:
        choices, hint = arguments, str
    about = dict(described.metadata)
    words = about.pop("flags").split()
    dashed = described.name.replace("_", "-")
    if hint is bool:
        about["off_flag"] = f"--no-{dashed}"
    if hint is float:
        about["unit"] = "seconds"
        if about["within"] == (None, None):
            about["zero"] = about["zero"] or "no bound"
    about["group"] = about["group"] or group
    return Option(
        name=described.name,
        kind=hint,
        many=many,
        optional=optional,
        choices=choices,
        default=described.default,
        flag=next((word for word in words if word.startswith("--")), f"--{dashed}"),
        short=next((word for word in words if re.fullmatch("-[a-z]", word)), ""),
        metavar=next((word for word in words if not word.startswith("-")), ""),
        off_value=False if hint is bool else "",
        **about,
    )


# -- checks: what a text may be ------------------------------------------------------------------


def split_address(text: str) -> tuple[str, int | None]:
    """
    ("::1", 8000) from "[::1]:8000"; the port is None where *text* names only a host.

    Takes host, host:port, [v6], [v6]:port and a bare v6 address, which has more than one colon.

    Raises:
        ValueError: with what is wrong about it.
    """
    if "/" in text:
        hint = "; a Unix socket is --unix-socket PATH" if text.startswith(("/", "unix:")) else ""
        hint = "; a descriptor is --fd NUMBER" if text.startswith("fd:") else hint
        raise ValueError(f"it is a host or host:port, not a URL or a path{hint}")
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError("brackets hold an IPv6 address, and at most a port follows: [::1]:8000")
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError(f"{host!r} between the brackets is not an IPv6 address") from None
        port_text = rest[1:] if rest else None
    elif text.count(":") > 1:
        try:
            ipaddress.IPv6Address(text)
        except ValueError:
            raise ValueError("it is not an IPv6 address; with a port, write [address]:port") from None
        host, port_text = text, None
    else:
        host, colon, rest = text.partition(":")
        port_text = rest if colon else None
    if not host:
        raise ValueError("the host is missing; every interface is 0.0.0.0 or ::")
    if not re.fullmatch(r"[A-Za-z0-9._:%-]+", host):
        raise ValueError("it is not a host, host:port or [IPv6]:port")
    if port_text is None:
        return host, None
    if not re.fullmatch(r"[0-9]{1,5}", port_text) or int(port_text) > 65535:
        raise ValueError(f"port {port_text!r} is not a number in 0..65535")
    return host, int(port_text)


def check_trusted(text: str) -> None:
    if text in ("*", "unix"):
        return
    try:
        ipaddress.ip_network(text)
    except ValueError:
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise ValueError("not an IP address, a network such as 10.0.0.0/8, 'unix' or '*'") from None
        raise ValueError(f"it is an address inside of a network; the network is {network}") from None


def check_field_name(text: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^`|~-]+", text):
        raise ValueError("it is not a header name (letters, digits and dashes; names with '_' are dropped)")


def check_field_value(text: str) -> None:
    if not re.fullmatch(r"(?:[!-~](?:[ -~]*[!-~])?)?", text):
        raise ValueError("a header value is printable ASCII without space around it")


def check_root_path(text: str) -> None:
    if text and not re.fullmatch(r"(?:/[^/\x00-\x20\x7f?#]+)+", text):
        raise ValueError("it begins with '/', does not end with one and holds no space, '?' or '#': /prefix")


def check_log_format(text: str) -> None:
    if not text:
        raise ValueError("it is empty")
    logging.Formatter(text)  # its own ValueError says what is wrong


def check_not_empty(text: str) -> None:
    if not text:
        raise ValueError("it is empty")
    if "\0" in text:
        raise ValueError("it holds a NUL")


def check_path(text: str) -> None:
    if not text.startswith("/") or "?" in text:
        raise ValueError("it is a path, such as /healthz, without a query")


def check_channel_name(text: str) -> None:
    if not re.fullmatch(r"[a-zA-Z0-9._-]{1,99}", text):
        raise ValueError("a channel's name is up to 99 letters, digits, '-', '_' and '.'")


def check_channel_glob(text: str) -> None:
    if not re.fullmatch(r"[a-zA-Z0-9._*?\[\]!-]{1,99}", text):
        raise ValueError("it is a channel's name, or a pattern such as 'websocket.*'")


def check_restart_rule(text: str) -> None:
    glob, equals, what = text.rpartition("=")
    if what not in ("resume", "close"):
        raise ValueError("it is resume or close, or a path's pattern with one of them: /chat/*=close")
    if equals and not glob.startswith(("/", "*")):
        raise ValueError("a path begins with '/': /chat/*=close")
