"""
What an option is: a field of a dataclass that knows its flag, its unit, its reason, and how to read itself.

`option()` makes such a field, `Option` is what the command line, the environment, files and the
documentation see of it. A value comes as text (`parse`) or as a Python object (`checked`); either way
it ends as the field's type, or as a ConfigurationError that names the option as the user wrote it.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, Union

from .errors import ConfigurationError

__all__ = ["GIB", "KIB", "MIB", "Option", "option", "options_of"]

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

T = TypeVar("T")
Unit = Literal["", "seconds", "bytes", "octal"]


def option(
    default: T,
    *,
    help: str,
    why: str,
    group: str,
    unit: Unit = "",
    flag: str = "",
    short: str = "",
    off_flag: str = "",
    off_value: Any = None,
    zero: str = "",
    never: bool = False,
    minimum: float | None = None,
    maximum: float | None = None,
    metavar: str = "",
    listed: bool = False,
    check: Callable[[Any], object] | None = None,
) -> T:
    """
    A field of Settings with all that the command line and the documentation say about it.

    Args:
        flag: the long flag, where it is not the field's name with dashes.
        off_flag: a second flag, without argument, that gives the value *off_value*.
        zero: what 0 means. Without it 0 is refused for numbers, unless *minimum* says otherwise.
        never: -1 is taken for 0, as Daphne spells "never".
        listed: one occurrence of the flag may hold several values, between commas.
        check: called with each value (each item of a list); raises ValueError saying what is wrong.
    """
    metadata = {
        "help": help,
        "why": why,
        "group": group,
        "unit": unit,
        "flag": flag,
        "short": short,
        "off_flag": off_flag,
        "off_value": off_value,
        "zero": zero,
        "never": never,
        "minimum": minimum,
        "maximum": maximum,
        "metavar": metavar,
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
    minimum: float | None
    maximum: float | None
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
        low, high = self.minimum, self.maximum
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
    return tuple(_option_of(each, hints[each.name]) for each in dataclasses.fields(described))


def _option_of(described: dataclasses.Field[Any], hint: Any) -> Option:
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
    metadata = dict(described.metadata)
    metadata["flag"] = metadata["flag"] or "--" + described.name.replace("_", "-")
    if hint is bool:
        metadata["off_flag"] = "--no-" + described.name.replace("_", "-")
        metadata["off_value"] = False
    return Option(
        name=described.name,
        kind=hint,
        many=many,
        optional=optional,
        choices=choices,
        default=described.default,
        **metadata,
    )
