"""
From command line, environment and file to `Settings`.

For each option the first source that has it wins: command line, environment, file, default. Values are
judged where they stand, so that an error names the flag, the variable or the file's key, never all three.

* Environment: DAPHNE_LIKE_<FIELD>. An unknown DAPHNE_LIKE_ variable is an error, as a misspelt limit would
  otherwise be no limit. Lists are between commas. An empty variable counts as absent, except where the
  empty text is a value of its own (a list, `access_log`, `root_path`, `server_name`).
* File: TOML, `--config FILE` or else $DAPHNE_LIKE_CONFIG; top-level keys are the fields' names. An unknown
  key is an error. Relative paths in it are relative to the current directory, as everywhere else.
* The application's import string may come from DAPHNE_LIKE_APPLICATION or the file's `application`, too.

A Kubernetes or Docker service that happens to be called "daphne-like" puts DAPHNE_LIKE_PORT=tcp://...,
DAPHNE_LIKE_SERVICE_HOST and their kind into the environment of its neighbours; these are passed over.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from . import elsewhere
from .errors import ConfigurationError
from .options import Option
from .settings import Settings, options, options_by_name

__all__ = ["Configuration", "resolve"]

PREFIX = "DAPHNE_LIKE_"
CONFIG_VARIABLE = "DAPHNE_LIKE_CONFIG"
APPLICATION_VARIABLE = "DAPHNE_LIKE_APPLICATION"

_SERVICE_LINK = re.compile(r"DAPHNE_LIKE_(?:SERVICE_.*|ENV_.*|NAME|PORT_[0-9]+_(?:TCP|UDP|SCTP).*)")


@dataclass(frozen=True, slots=True)
class Configuration:
    """
    What the sources say together.

    Attributes:
        application: the import string, or None where no source names one.
        sources: by field's name, where its value came from: "--port", "DAPHNE_LIKE_PORT", "site.toml".
            Fields that have their default are absent.
    """

    settings: Settings
    application: str | None
    sources: Mapping[str, str]


def resolve(
    arguments: Mapping[str, Any],
    *,
    application: str | None = None,
    config: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Configuration:
    """
    Put the sources together.

    Args:
        arguments: of the command line, by field's name: text; a list of texts (one for each time that a
            list's flag was given); or True, False, where the flag alone says it.
        application: import string of the command line.
        config: file of the command line.

    Raises:
        ConfigurationError: a value, key or variable that cannot be right, or an unreadable file.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    file_name = config if config is not None else environ.get(CONFIG_VARIABLE) or None
    keys = _read_file(file_name) if file_name is not None else {}
    from_file = keys.pop("application", None)
    if from_file is not None and not isinstance(from_file, str):
        raise ConfigurationError(f"{file_name}: application: {from_file!r} is not text")
    variables = _own_variables(environ)

    for name in keys:
        if name not in options_by_name():
            known = [*options_by_name(), "application"]
            raise ConfigurationError(f"{file_name}: unknown key {name}{elsewhere.did_you_mean(name, known)}")
    for each in options():
        if each.name in keys:
            values[each.name] = each.checked(keys[each.name], f"{file_name}: {each.name}")
            sources[each.name] = str(file_name)
        text = variables.get(each.variable)
        if text is not None and (text or _takes_empty(each)):
            values[each.name] = each.parse(text, each.variable)
            sources[each.name] = each.variable
        if each.name in arguments:
            values[each.name] = _from_arguments(each, arguments[each.name])
            sources[each.name] = each.flag
    return Configuration(
        settings=Settings(**values),
        application=application or environ.get(APPLICATION_VARIABLE) or from_file,
        sources=sources,
    )


def _from_arguments(described: Option, given: Any) -> Any:
    if isinstance(given, bool):
        return described.checked(given, described.flag)
    if not described.many:
        return described.parse(given, described.flag)
    if described.listed:
        return described.parse(",".join(given), described.flag)
    return tuple(described.parse_item(text, described.flag) for text in given)


def _takes_empty(described: Option) -> bool:
    if described.many:
        return True
    if described.kind is not str:
        return False
    try:
        described.checked("", described.variable)
    except ConfigurationError:
        return False
    return True


def _own_variables(environ: Mapping[str, str]) -> dict[str, str]:
    found = {}
    known = {each.variable for each in options()} | {CONFIG_VARIABLE, APPLICATION_VARIABLE}
    for name, text in environ.items():
        if (
            not name.startswith(PREFIX)
            or re.match(r"(?:tcp|udp|sctp)://", text)
            or _SERVICE_LINK.fullmatch(name)
        ):
            continue
        if name not in known:
            raise ConfigurationError(f"unknown environment variable {name}{_hint(name, known)}")
        found[name] = text
    return found


def _read_file(name: str) -> dict[str, Any]:
    try:
        with open(name, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigurationError(f"--config {name}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{name}: not TOML: {error}") from error


def _hint(variable: str, known: Iterable[str]) -> str:
    """As for the option of that name, which may be another server's."""
    flag = "--" + variable.removeprefix(PREFIX).lower().replace("_", "-")
    variables = {each.flag: each.variable for each in options()}
    return elsewhere.hint(flag, variables) or elsewhere.did_you_mean(variable, known)
