"""daphne_like.importing: what an import string may name, and what is said when it names nothing."""

import itertools
import sys

import pytest

from daphne_like.errors import ConfigurationError, StartupFailed
from daphne_like.importing import check_import_string, import_application

NUMBERS = itertools.count()

APPLICATION = """
async def application(scope, receive, send):
    return "called"
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    """
    Writes files below a directory and gives the name of a package in it; "PKG" in the text is its name.

    The name is new for each test: sys.modules remembers.
    """
    package = f"site_of_test_{next(NUMBERS)}"
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    class Site:
        name = package
        directory = str(tmp_path)

        def write(self, name: str, text: str) -> None:
            path = tmp_path / package / name
            path.parent.mkdir(exist_ok=True)
            (path.parent / "__init__.py").touch()
            path.write_text(text.replace("PKG", package))

        def load(self, rest: str, **options):
            return import_application(f"{package}{rest}", app_dir=str(tmp_path), **options)

        def refusal(self, rest: str, **options) -> str:
            with pytest.raises(ConfigurationError) as caught:
                self.load(rest, **options)
            assert "\n" not in str(caught.value)
            return str(caught.value)

        def failure(self, rest: str, **options) -> StartupFailed:
            with pytest.raises(StartupFailed) as caught:
                self.load(rest, **options)
            assert "\n" not in str(caught.value)
            return caught.value

    yield Site()
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]


# -- found ----------------------------------------------------------------------------------------


async def test_application_is_found_and_called(site):
    site.write("asgi.py", APPLICATION)
    assert await site.load(".asgi:application")({}, None, None) == "called"


async def test_attribute_may_be_dotted(site):
    site.write("asgi.py", APPLICATION + "\nclass Site:\n    app = staticmethod(application)\n")
    assert await site.load(".asgi:Site.app")({}, None, None) == "called"


async def test_factory_is_called_once(site):
    create = "calls = []\ndef create(name='x'):\n    calls.append(name)\n    return application\n"
    site.write("asgi.py", APPLICATION + create)
    assert await site.load(".asgi:create", factory=True)({}, None, None) == "called"
    assert sys.modules[f"{site.name}.asgi"].calls == ["x"]


async def test_asgi_2_application_is_made_asgi_3(site):
    site.write(
        "asgi.py",
        """
        class Application:
            def __init__(self, scope):
                self.scope = scope
            async def __call__(self, receive, send):
                return self.scope["type"]
        """.replace("\n        ", "\n"),
    )
    assert await site.load(".asgi:Application")({"type": "http"}, None, None) == "http"


async def test_object_with_async_call_is_an_application(site):
    """What Django's get_asgi_application() and Starlette's applications are."""
    handler = "class Handler:\n    async def __call__(self, scope, receive, send):\n        return 3\n"
    site.write("asgi.py", handler + "application = Handler()\n")
    assert await site.load(".asgi:application")({}, None, None) == 3


def test_app_dir_is_first_on_the_path(site):
    site.write("asgi.py", APPLICATION)
    site.load(".asgi:application")
    assert sys.path[0] == site.directory
    site.load(".asgi:application")
    assert sys.path.count(site.directory) == 1


def test_path_is_left_alone_without_app_dir(monkeypatch, tmp_path):
    before = sys.path[:]
    with pytest.raises(ConfigurationError):
        import_application("no_such_module_anywhere:app")
    assert sys.path == before


# -- words that name nothing ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("site.asgi", "write module:attribute, such as site.asgi:application"),
        ("", "write module:attribute"),
        (":app", "write module:attribute"),
        ("site:", "write module:attribute"),
        ("site..asgi:app", "write module:attribute"),
        (".asgi:app", "write module:attribute"),
        ("site:app(1)", "write module:attribute"),
        ("site asgi:app", "write module:attribute"),
        ("site/asgi.py:app", "names a file; name the module: site.asgi:app"),
        ("./site/asgi.py", "names a file; name the module: site.asgi:application"),
        ("asgi.py:app", "names a file; name the module: asgi:app"),
        ("site.asgi:make()", "a factory is named as --factory site.asgi:make"),
    ],
)
def test_not_an_import_string(path, said):
    with pytest.raises(ConfigurationError) as caught:
        check_import_string(path)
    assert said in str(caught.value)
    assert repr(path) in str(caught.value)


def test_import_string_is_checked_without_importing():
    assert check_import_string("no.such.module:some.attribute") == ("no.such.module", "some.attribute")


def test_missing_module_suggests_the_one_beside_it(site):
    site.write("asgi.py", APPLICATION)
    said = site.refusal(".asgy:application")
    assert f"no module '{site.name}.asgy' in package '{site.name}'; did you mean 'asgi'?" in said


def test_missing_top_level_module_names_the_directory(site):
    site.write("asgi.py", APPLICATION)
    with pytest.raises(ConfigurationError) as caught:
        import_application(f"{site.name}x.asgi:application", app_dir=site.directory)
    said = str(caught.value)
    assert f"no module '{site.name}x' in {site.directory} or elsewhere on sys.path" in said
    assert f"did you mean '{site.name}'?" in said


def test_module_that_is_no_package(site):
    """`site.asgi:application` with the standard library's `site` in the way is a classic."""
    site.write("asgi.py", APPLICATION)
    said = site.refusal(".asgi.deeper:application")
    assert f"'{site.name}.asgi' is a module, not a package" in said
    assert "asgi.py" in said


def test_missing_attribute_suggests_close_ones(site):
    site.write("asgi.py", APPLICATION)
    said = site.refusal(".asgi:aplication")
    assert f"module '{site.name}.asgi' has no attribute 'aplication'; did you mean 'application'?" in said


def test_missing_attribute_suggests_the_usual_name(site):
    site.write("asgi.py", APPLICATION)
    assert "did you mean 'application'?" in site.refusal(".asgi:server")


def test_missing_attribute_of_an_object(site):
    site.write("asgi.py", "class Site:\n    pass\n")
    said = site.refusal(".asgi:Site.application")
    assert said.endswith(f"'{site.name}.asgi:Site' has no attribute 'application'")


@pytest.mark.parametrize(
    ("text", "described"),
    [("application = None", "None"), ("application = {}", "a dict"), ("application = 1", "an int")],
)
def test_not_callable(text, described, site):
    site.write("asgi.py", text)
    assert site.refusal(".asgi:application").endswith(f"is {described}, not an application")


def test_module_instead_of_application(site):
    site.write("asgi.py", APPLICATION)
    site.write("urls.py", "import PKG.asgi as asgi")
    assert f"is module '{site.name}.asgi', not an application" in site.refusal(".urls:asgi")


def test_wsgi_application(site):
    site.write("wsgi.py", "def application(environ, start_response):\n    return []\n")
    assert "is a WSGI application" in site.refusal(".wsgi:application")


def test_factory_without_the_option(site):
    site.write("asgi.py", "def create():\n    pass\n")
    assert site.refusal(".asgi:create").endswith("if it is a factory, add --factory")


def test_option_without_a_factory(site):
    site.write("asgi.py", APPLICATION + "\nvalue = 1\nasync def create():\n    return application\n")
    assert "needs scope, receive, send" in site.refusal(".asgi:application", factory=True)
    assert "it is an int, not a function" in site.refusal(".asgi:value", factory=True)
    assert "it is an async function" in site.refusal(".asgi:create", factory=True)


def test_factory_that_returns_no_application(site):
    site.write("asgi.py", "def create():\n    pass\n")
    assert "the factory returned None, not an application" in site.refusal(".asgi:create", factory=True)


def test_app_dir_must_exist(tmp_path):
    with pytest.raises(ConfigurationError, match=r"--app-dir .*: there is no such directory"):
        import_application("a:b", app_dir=str(tmp_path / "absent"))


# -- the application's own code raises ------------------------------------------------------------


def frames(failure: StartupFailed) -> list[str]:
    return [line.split('"')[1] for line in failure.details.splitlines() if line.lstrip().startswith('File "')]


def test_traceback_begins_in_the_users_file(site):
    site.write("settings.py", "def read():\n    raise KeyError('SECRET_KEY')\n\nread()\n")
    site.write("asgi.py", "import PKG.settings\n")
    failure = site.failure(".asgi:application")
    assert str(failure) == f"'{site.name}.asgi:application': importing it raised KeyError: 'SECRET_KEY'"
    assert failure.details.startswith("Traceback (most recent call last):\n")
    assert frames(failure)[0].endswith("asgi.py")
    assert frames(failure)[-1].endswith("settings.py")
    assert "importing.py" not in failure.details
    assert failure.exit_code == 3


def test_import_that_fails_inside_is_not_the_module_missing(site):
    site.write("asgi.py", "import no_such_dependency\n")
    failure = site.failure(".asgi:application")
    assert "ModuleNotFoundError: No module named 'no_such_dependency'" in str(failure)
    assert frames(failure)[0].endswith("asgi.py")


def test_sibling_missing_inside_is_not_the_module_missing(site):
    """The missing name begins like the package asked for, but another module was asked for."""
    site.write("asgi.py", "import PKG.setings\n")
    assert f"No module named '{site.name}.setings'" in str(site.failure(".asgi:application"))


def test_syntax_error_shows_the_line(site):
    site.write("asgi.py", "def application(:\n    pass\n")
    failure = site.failure(".asgi:application")
    assert "SyntaxError" in str(failure)
    assert "def application(:" in failure.details


def test_causes_are_shown(site):
    site.write("asgi.py", "try:\n    {}['x']\nexcept KeyError as e:\n    raise RuntimeError('no x') from e\n")
    failure = site.failure(".asgi:application")
    assert "direct cause" in failure.details
    assert "KeyError: 'x'" in failure.details


def test_sys_exit_at_import_is_said(site):
    """A script that parses sys.argv when imported would end the server without a word."""
    site.write("asgi.py", "import sys\nsys.exit(7)\n")
    assert "importing it raised SystemExit: 7" in str(site.failure(".asgi:application"))


def test_factory_that_raises(site):
    site.write("asgi.py", "def create():\n    raise OSError('no database')\n")
    failure = site.failure(".asgi:create", factory=True)
    assert "calling the factory raised OSError: no database" in str(failure)
    assert frames(failure)[0].endswith("asgi.py")


def test_lazy_attribute_that_raises(site):
    site.write("asgi.py", "def __getattr__(name):\n    raise ImportError('not today')\n")
    assert "reading 'application' raised ImportError: not today" in str(site.failure(".asgi:application"))
