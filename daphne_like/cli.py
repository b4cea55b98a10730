"""
The command line: `daphne-like APPLICATION`, `... worker APPLICATION`, `... layer stats` and `... settings`.

`worker`, `layer` and `settings` are commands only as the first word. What the rest comes to:

    APP                  one process
    APP --layer URL      one process; the layer is what CHANNEL_LAYERS gets
    APP --workers N      a server and N workers of its own, and any others that join its layer
    --layer URL          a server without an application: a relay for the workers that join
    worker APP --layer   such a worker

Flags, their arguments and their help come from `settings.options()`; nothing about an option is said
here. Daphne's spellings hold: `--websocket_timeout` and `--websocket-timeout` are one flag, and so for
every other.

Whatever is wrong with the words (exit code 2) or with starting (3) is one line on stderr, without a
traceback of ours. A traceback out of the application's own module is shown above that line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any, NoReturn

from . import elsewhere
from .configuration import Configuration, resolve
from .errors import ConfigurationError
from .options import Option
from .reporting import reporting
from .settings import GROUPS, options

__all__ = ["main", "settings_as_markdown", "settings_as_toml"]

PROGRAM = "daphne-like"


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command line *argv* (sys.argv without the program's name) and return the exit code.

    0 after a graceful stop, 2 for words that cannot be right, 3 where starting failed.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["settings"]:
        return reporting(lambda: _print_settings(words[1:]))
    if words[:1] == ["worker"]:
        return reporting(lambda: _work(words[1:]))
    if words[:1] == ["layer"]:
        return reporting(lambda: _look_at_layer(words[1:]))
    return reporting(lambda: _serve(words))


def _serve(words: list[str]) -> int:
    # What --help does not need is imported once it is needed: Twisted alone takes 0.2 s.
    found = _read(words, _parser())
    settings = found.settings
    if found.application is not None:
        _check_application(found.application)
    elif settings.workers or settings.reload:
        raise ConfigurationError(
            f"{'--workers' if settings.workers else '--reload'}: name the application that workers run"
        )
    elif settings.layer is None:
        raise ConfigurationError(
            "name the application, such as site.asgi:application (--help shows the options); "
            "without one, --layer says where workers join"
        )
    from . import run

    return run.run(settings, found.application)


def _work(words: list[str]) -> int:
    parser = _parser(
        usage=f"{PROGRAM} worker APPLICATION --layer URL [options]",
        description="Run the ASGI application that APPLICATION names for the server at that layer.",
    )
    found = _read(words, parser)
    if found.application is None:
        raise ConfigurationError("name the application, such as site.asgi:application")
    if found.settings.layer is None:
        raise ConfigurationError("--layer: name the layer of the server, such as ipc:/run/site.sock")
    _check_application(found.application)
    from . import worker_process

    return worker_process.run(found.settings, found.application)


def _look_at_layer(words: list[str]) -> int:
    parser = _Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} layer stats --layer URL [--json] [--seconds N]",
        description="Print how many messages the channels of that layer have had, and hold.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--layer", metavar="URL", help="such as redis://10.0.0.1:6379 or ipc:/run/site.sock")
    parser.add_argument("--config", metavar="FILE", help="read --layer from this TOML file")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--seconds", metavar="N", type=float, help="time over which messages per second are counted [1]"
    )
    arguments = _known(words, parser)
    as_json, seconds = arguments.pop("json", False), arguments.pop("seconds", 1.0)
    if arguments.pop("application", None) != "stats":
        raise ConfigurationError("layer: say what of it: daphne-like layer stats --layer URL")
    if not 0 <= seconds < 3600:
        raise ConfigurationError("--seconds: from 0 to an hour")
    layer = _resolved(arguments).settings.layer
    if layer is None:
        raise ConfigurationError("--layer: name the layer, such as ipc:/run/site.sock")
    from .layer_command import read_statistics

    return _print(read_statistics(layer, seconds, as_json=as_json) + "\n")


def _check_application(application: str) -> None:
    from .importing import check_import_string

    check_import_string(application)


def _print_settings(words: list[str]) -> int:
    parser = _parser(
        usage=f"{PROGRAM} settings [--markdown] [options]",
        description="Print the settings that these options, the environment and the file come to, as TOML.",
    )
    parser.add_argument(
        "--markdown", action="store_true", help="print the reference page of all settings instead"
    )
    arguments = _known(words, parser)
    as_markdown = arguments.pop("markdown", False)
    return _print(settings_as_markdown() if as_markdown else settings_as_toml(_resolved(arguments)))


def _print(text: str) -> int:
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        # `daphne-like settings | head`: the reader has what it wanted. Python would complain once more
        # while flushing stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


# -- words ----------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """argparse, but an error is an exception with one line instead of a usage page and an exit."""

    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(message.removeprefix("argument "))


_ABOUT = "Serve the ASGI application that APPLICATION (module:attribute) names, over HTTP/1.1 and WebSocket."


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(_version())
        parser.exit()


def _parser(usage: str = f"{PROGRAM} APPLICATION [options]", description: str = _ABOUT) -> _Parser:
    parser = _Parser(
        prog=PROGRAM,
        usage=usage,
        description=description,
        epilog="Every option may also stand in the environment (DAPHNE_LIKE_MAX_HEAD_SIZE=64k) or in a TOML "
        "file (max_head_size = 65536). `daphne-like settings` shows what they come to; `daphne-like worker "
        "APPLICATION --layer URL` is a worker for a server that runs already; `daphne-like layer stats --layer "
        "URL` shows what its channels hold.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32),
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print versions and exit")
    parser.add_argument(
        "--config", metavar="FILE", help="read settings from this TOML file (or $DAPHNE_LIKE_CONFIG)"
    )
    groups = {name: parser.add_argument_group(name, about) for name, about in GROUPS.items()}
    for each in options():
        _add(groups[each.group], each)
    return parser


def _add(group: argparse._ArgumentGroup, described: Option) -> None:
    text = f"{described.help} {_default_note(described)}".strip().replace("%", "%%")
    if described.kind is bool:
        group.add_argument(*described.flags, dest=described.name, action="store_const", const=True, help=text)
    else:
        group.add_argument(
            *described.flags,
            dest=described.name,
            action="append" if described.many else "store",
            metavar=_metavar(described),
            help=text,
        )
    if described.off_flag:
        group.add_argument(
            described.off_flag,
            dest=described.name,
            action="store_const",
            const=described.off_value,
            # A flag that only says the default is there to overrule a file; the help need not show it.
            help=argparse.SUPPRESS if described.default == described.off_value else _off_help(described),
        )


def _metavar(described: Option) -> str:
    if described.choices:
        return "{" + ",".join(described.choices) + "}"
    return described.metavar or {"seconds": "SECONDS", "bytes": "BYTES"}.get(described.unit, "N")


def _off_help(described: Option) -> str:
    return (
        f"the opposite of {described.flag}" if described.kind is bool else f'the same as {described.flag} ""'
    )


def _default_note(described: Option) -> str:
    shown = described.text(described.default)
    return f"[{shown}]" if shown and described.kind is not bool else ""


def _read(words: list[str], parser: _Parser) -> Configuration:
    return _resolved(_known(words, parser))


def _resolved(arguments: dict[str, Any]) -> Configuration:
    application = arguments.pop("application", None)
    config = arguments.pop("config", None)
    return resolve(arguments, application=application, config=config)


def _known(words: list[str], parser: _Parser) -> dict[str, Any]:
    """
    The options in *words* by field's name, and "application" where it is there.

    The application is taken from what argparse leaves over: as an optional positional, argparse before
    Python 3.12 would miss it behind an option.
    """
    namespace, left = parser.parse_known_args(_spelt_with_dashes(words))
    arguments = vars(namespace)
    only_names = False
    for word in left:
        if word == "--" and not only_names:
            only_names = True
        elif word.startswith("-") and not only_names:
            flag = word.partition("=")[0]
            ours = parser._option_string_actions
            hint = elsewhere.hint(flag, {each: each for each in ours})
            hint = hint or elsewhere.did_you_mean(flag, ours, cutoff=0.7)
            raise ConfigurationError(f"unknown option {flag}{hint}")
        elif "application" in arguments:
            raise ConfigurationError(f"unexpected {word!r}: the application is {arguments['application']!r}")
        else:
            arguments["application"] = word
    return arguments


def _spelt_with_dashes(words: list[str]) -> list[str]:
    """`--websocket_timeout` as `--websocket-timeout`; what follows a lone `--` is left alone."""
    end = words.index("--") if "--" in words else len(words)
    spelt = []
    for word in words[:end]:
        flag, equals, value = word.partition("=")
        spelt.append(flag.replace("_", "-") + equals + value if word.startswith("--") else word)
    return spelt + words[end:]


# -- what is printed ------------------------------------------------------------------------------


def _version() -> str:
    from . import __version__

    parts = [f"{platform.python_implementation()} {platform.python_version()}"]
    for package in ("Twisted", "autobahn", "httptools", "uvloop"):
        try:
            parts.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            parts.append(f"no {package}")
    return f"{PROGRAM} {__version__} ({', '.join(parts)})"


def settings_as_toml(found: Configuration) -> str:
    """The effective settings as a file for --config, each with a comment that says where it came from."""
    lines = []
    if found.application is not None:
        lines += [f"application = {_toml(found.application)}", ""]
    for group in GROUPS:
        lines.append(f"# {group}")
        for each in options():
            if each.group != group:
                continue
            value = getattr(found.settings, each.name)
            source = found.sources.get(each.name)
            line = f"# {each.name} is not set" if value is None else f"{each.name} = {_toml(value, each)}"
            lines.append(f"{line}  # {source}" if source else line)
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


def _toml(value: Any, described: Option | None = None) -> str:
    if described is not None and described.unit == "octal":
        return f"0o{value:o}"
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, float):
        return repr(value)
    # JSON's strings, numbers and booleans are TOML's, but for DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def settings_as_markdown() -> str:
    """docs/reference/settings.md."""
    return "\n".join(_markdown_lines()) + "\n"


def _markdown_lines() -> Iterator[str]:
    yield "# Settings"
    yield ""
    yield "<!-- Made by `daphne-like settings --markdown` from daphne_like/settings.py; a test compares. -->"
    yield ""
    yield from _INTRODUCTION.strip().splitlines()
    for group, about in GROUPS.items():
        yield ""
        yield f"## {group}"
        yield ""
        yield about
        for each in options():
            if each.group == group:
                yield ""
                yield from _markdown_of(each)


_INTRODUCTION = """
Each setting is a flag, an environment variable, a key of a TOML file and a field of
`daphne_like.settings.Settings`. The command line wins over the environment, the environment over the file,
the file over the default; a list replaces the list of the source below it. [Command line](command-line.md)
tells how each source is written.

Times are seconds, sizes are bytes. On the command line, in the environment and in quotes in the file, a size
may end in `k`, `m` or `g` (powers of 1024).
"""


def _markdown_of(described: Option) -> Iterator[str]:
    argument = "" if described.kind is bool else f" {_metavar(described)}"
    spellings = [f"`{flag}{argument}`" for flag in described.flags]
    if described.off_flag:
        spellings.append(f"`{described.off_flag}`")
    yield f"### `{described.name}`"
    yield ""
    yield f"{', '.join(spellings)}; `{described.variable}`. Default: {_markdown_default(described)}."
    yield ""
    yield described.help + (f" 0: {described.zero}." if described.zero else "")
    yield ""
    yield f"*Why:* {described.why}"


def _markdown_default(described: Option) -> str:
    if described.default is None or described.default == ():
        return "none"
    if described.default == "":
        return "empty"
    shown = f"`{described.text(described.default)}`"
    if described.unit == "bytes":
        shown += f" ({described.default:,} bytes)"
    if described.unit == "seconds":
        shown += " s"
    return shown
