"""
From "module:attribute" to an ASGI 3 callable, with errors that say what was not found.

Three kinds of failure, told apart because they are mended in different places:

* The words name nothing (no such module, no such attribute, not callable, an application of another
  interface than the one asked for): ConfigurationError, one line, exit code 2.
* The application's own code raises while it is imported or while its factory runs, an import inside of
  it failing included: StartupFailed, exit code 3, whose `details` are the traceback without our frames
  and importlib's, so that it begins in the user's file.
* It is found, but speaks ASGI 2: no failure; asgiref's shim makes it ASGI 3. Or WSGI: whoever imports says
  what hosts that.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Any, Literal, cast

from asgiref.compatibility import guarantee_single_callable

from .errors import ConfigurationError, StartupFailed
from .typing import ASGIApplication

__all__ = ["check_import_string", "import_application"]


Interface = Literal["auto", "asgi", "wsgi"]


def import_application(
    path: str,
    *,
    factory: bool = False,
    app_dir: str | None = None,
    interface: Interface = "auto",
    host_wsgi: Callable[[Any], ASGIApplication] | None = None,
) -> ASGIApplication:
    """
    The application that *path* names, as ASGI 3.

    Args:
        path: "package.module:attribute"; the attribute may be dotted ("Site.application").
        factory: the attribute is a function without arguments that returns the application.
        app_dir: put first on sys.path before importing; None leaves sys.path alone.
        interface: that the application has; "auto" goes by the parameters it takes.
        host_wsgi: makes a WSGI application ASGI 3; None where only ASGI will do.

    Raises:
        ConfigurationError: nothing of that name is there, or it is no application of that interface.
        StartupFailed: the application's code raised; `details` holds its traceback.
    """
    module_name, attribute = check_import_string(path)
    if app_dir is not None:
        _put_on_path(app_dir)
    found: Any = _import_module(module_name, path)
    walked = module_name
    for name in attribute.split("."):
        separator = ":" if walked == module_name else "."
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ConfigurationError(_no_attribute(path, walked, found, name)) from None
        except Exception as error:  # a module's own __getattr__, a property
            raise _their_failure(path, f"reading {name!r}", error) from error
        walked += separator + name
    if factory:
        found = _call_factory(found, path)
    what = f"{path!r}: the factory returned" if factory else f"{path!r} is"
    if not callable(found):
        raise ConfigurationError(f"{what} {_described(found)}, not an application")
    looks_like_wsgi = _looks_like_wsgi(found)
    if interface == "wsgi" or (interface == "auto" and looks_like_wsgi and host_wsgi is not None):
        if host_wsgi is None:
            raise ConfigurationError(f"{what} to be served as WSGI, which only the command line does")
        if looks_like_wsgi is False:
            raise ConfigurationError(f"{what} no WSGI application; leave --interface wsgi out")
        return host_wsgi(found)
    _check_asgi(found, what, factory)
    return cast(ASGIApplication, guarantee_single_callable(found))  # type: ignore[no-untyped-call]


def check_import_string(path: str) -> tuple[str, str]:
    """
    The module's name and the attribute's, if *path* is an import string; nothing is imported.

    Raises:
        ConfigurationError: saying how it is written.
    """
    module_name, colon, attribute = path.partition(":")
    if module_name.endswith(".py") or "/" in module_name or os.sep in module_name:
        suggested = module_name.removesuffix(".py").replace(os.sep, "/").strip("./").replace("/", ".")
        raise ConfigurationError(
            f"{path!r} names a file; name the module: {suggested}:{attribute or 'application'}"
        )
    if not colon:
        raise ConfigurationError(
            f"{path!r} is no import string: write module:attribute, such as {path or 'site.asgi'}:application"
        )
    if attribute.endswith("()"):  # gunicorn's way to say it
        raise ConfigurationError(f"{path!r}: a factory is named as --factory {path.removesuffix('()')}")
    for dotted in (module_name, attribute):
        if not all(part.isidentifier() for part in dotted.split(".")):
            raise ConfigurationError(
                f"{path!r} is no import string: write module:attribute, such as site.asgi:application"
            )
    return module_name, attribute


def _put_on_path(app_dir: str) -> None:
    if not os.path.isdir(app_dir):
        raise ConfigurationError(f"--app-dir {app_dir}: there is no such directory")
    directory = os.path.abspath(app_dir)
    if directory not in sys.path[:1]:
        sys.path.insert(0, directory)
    importlib.invalidate_caches()


def _import_module(name: str, path: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # "No module named 'site.asgi'" about the module asked for, or a package around it; any other name
        # comes from an import statement inside of the user's code.
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise ConfigurationError(_no_module(path, error.name)) from None
        raise _their_failure(path, "importing it", error) from error
    # A script that parses sys.argv at import calls sys.exit(); that is no reason to stop in silence.
    except (Exception, SystemExit) as error:
        raise _their_failure(path, "importing it", error) from error


def _no_module(path: str, missing: str) -> str:
    parent, _, last = missing.rpartition(".")
    package = sys.modules.get(parent) if parent else None
    if package is None:
        close = difflib.get_close_matches(last, _modules_beside(sys.path[0] if sys.path else "."), n=1)
        where = f" in {os.path.abspath(sys.path[0] or '.')} or elsewhere on sys.path"
    elif not hasattr(package, "__path__"):
        source = getattr(package, "__file__", None)
        return f"{path!r}: {parent!r} is a module, not a package" + (f" ({source})" if source else "")
    else:
        close = difflib.get_close_matches(
            last, [each for folder in package.__path__ for each in _modules_beside(folder)], n=1
        )
        where = f" in package {parent!r}"
    return f"{path!r}: no module {missing!r}{where}" + (f"; did you mean {close[0]!r}?" if close else "")


def _modules_beside(folder: str) -> list[str]:
    try:
        names = os.listdir(folder or ".")
    except OSError:
        return []
    return [name.removesuffix(".py") for name in names if name.endswith(".py") or "." not in name]


def _no_attribute(path: str, walked: str, found: object, name: str) -> str:
    owner = f"module {walked!r}" if isinstance(found, ModuleType) else f"{walked!r}"
    public = [each for each in dir(found) if not each.startswith("_")]
    close = difflib.get_close_matches(name, public, n=3, cutoff=0.6)
    if not close and isinstance(found, ModuleType):
        close = [each for each in ("application", "app", "asgi") if each in public]
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    return f"{path!r}: {owner} has no attribute {name!r}{hint}"


def _call_factory(factory: Any, path: str) -> Any:
    if not callable(factory):
        raise ConfigurationError(f"{path!r}: --factory, but it is {_described(factory)}, not a function")
    required = _required_parameters(factory)
    if required:
        raise ConfigurationError(
            f"{path!r}: --factory, but it needs {', '.join(required)}; a factory is called without arguments"
        )
    try:
        made = factory()
    except (Exception, SystemExit) as error:
        raise _their_failure(path, "calling the factory", error) from error
    if inspect.iscoroutine(made):
        made.close()
        raise ConfigurationError(
            f"{path!r}: --factory, but it is an async function; a factory is a plain one"
        )
    return made


def _looks_like_wsgi(found: Any) -> bool | None:
    """
    Whether it is called with two arguments, as WSGI does; ASGI 3 gives three, and ASGI 2 one.

    None: by its signature it could be either (`*args`, or none that Python knows).
    """
    called = found if inspect.isroutine(found) or inspect.isclass(found) else type(found).__call__
    if inspect.iscoroutinefunction(called):
        return False
    try:
        inspect.signature(found)
    except (TypeError, ValueError):
        return None
    if not _accepts(found, 2):
        return False
    return None if _accepts(found, 3) or _accepts(found, 1) else True


def _check_asgi(found: Any, what: str, factory: bool) -> None:
    required = _required_parameters(found)
    if required is None:
        return
    if _looks_like_wsgi(found):
        raise ConfigurationError(
            f"{what} a WSGI application, not ASGI (Django: the module is asgi, not wsgi); --interface wsgi, or "
            "auto, serves it"
        )
    if not required and not factory and not _accepts(found, 1) and not _accepts(found, 3):
        raise ConfigurationError(f"{what} a function without parameters; if it is a factory, add --factory")


def _required_parameters(function: Any) -> list[str] | None:
    """Names of the parameters that a call must give; None where Python cannot tell."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in parameters if each.default is each.empty and each.kind not in optional]


def _accepts(function: Any, count: int) -> bool:
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    return True


def _described(value: object) -> str:
    if value is None:
        return "None"
    if isinstance(value, ModuleType):
        return f"module {value.__name__!r}"
    name = type(value).__qualname__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _their_failure(path: str, doing: str, error: BaseException) -> StartupFailed:
    last = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    return StartupFailed(f"{path!r}: {doing} raised {last}", details=_their_traceback(error))


def _their_traceback(error: BaseException) -> str:
    """The traceback of *error* and its causes from the first frame on that is the user's."""
    described = traceback.TracebackException.from_exception(error.with_traceback(_without_ours(error)))
    return "".join(described.format()).rstrip("\n")


def _without_ours(error: BaseException) -> TracebackType | None:
    frame = error.__traceback__
    while frame is not None:
        source = frame.tb_frame.f_code.co_filename
        if source not in (__file__, importlib.__file__) and not source.startswith("<frozen importlib"):
            break
        frame = frame.tb_next
    return frame
