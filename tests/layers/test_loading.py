"""From words to a layer."""

import importlib.metadata
import os
import subprocess
import sys

import pytest

from daphne_like import layers
from daphne_like.errors import ConfigurationError
from daphne_like.layers import loading
from daphne_like.layers.base import BaseChannelLayer
from daphne_like.layers.foreign import ForeignLayer
from daphne_like.layers.ipc import IPCChannelLayer
from daphne_like.layers.loading import ChannelLayer, allow_memory, forget_layers, open_layer
from daphne_like.layers.memory import MemoryChannelLayer


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No layers of other tests, and nothing said in the environment."""
    monkeypatch.delenv(loading.ENVIRONMENT, raising=False)
    forget_layers()
    yield
    allow_memory(False)
    forget_layers()


class Plain:
    """A third party's layer: no base class of ours."""

    extensions = ("groups",)

    def __init__(self, hosts=None, expiry=60, **options):
        if options:
            raise TypeError(f"unexpected {sorted(options)}")
        self.hosts = hosts
        self.expiry = expiry


class Own(BaseChannelLayer):
    """A third party's that builds on ours."""


# -- URLs ------------------------------------------------------------------------------------------


def test_memory():
    layer = open_layer("memory:?capacity=7&expiry=1.5")
    assert isinstance(layer, MemoryChannelLayer)
    assert (layer.capacity, layer.expiry) == (7, 1.5)


@pytest.mark.parametrize("form", ["ipc:{}", "ipc://{}"])
def test_ipc(form, tmp_path):
    layer = open_layer(
        form.format(tmp_path / "a.sock") + "?mode=660&capacity=7&send_timeout=2&group_expiry=9"
    )
    assert isinstance(layer, IPCChannelLayer)
    assert (layer.path, layer.mode) == (str(tmp_path / "a.sock"), 0o660)
    assert (layer.capacity, layer.send_timeout, layer.group_expiry) == (7, 2, 9)


def test_ipc_path_of_any_letters(tmp_path):
    assert open_layer(f"ipc:{tmp_path}/a%20b%3F").path == f"{tmp_path}/a b?"


def test_ipc_path_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_layer("ipc:run/a.sock").path == str(tmp_path / "run/a.sock")


def test_options_go_before_the_query(tmp_path):
    layer = open_layer(f"ipc:{tmp_path}/s?capacity=7", capacity=8, channel_capacity={"a*": 1})
    assert (layer.capacity, layer.get_capacity("abc")) == (8, 1)


def test_dotted_path():
    layer = open_layer(f'{__name__}.Plain?hosts=["redis://localhost:1"]&expiry=5')
    assert isinstance(layer, ForeignLayer)
    assert layer.layer.hosts == ["redis://localhost:1"]
    assert (layer.expiry, layer.extensions) == (5, ["groups"])
    assert open_layer(f"{__name__}.Plain?hosts=text").layer.hosts == "text"
    assert isinstance(open_layer(f"{__name__}.Own"), Own)


def test_entry_point(monkeypatch):
    point = importlib.metadata.EntryPoint("carrier", f"{__name__}:carrier", loading.ENTRY_POINTS)
    points = importlib.metadata.EntryPoints([point])
    monkeypatch.setattr(loading.metadata, "entry_points", lambda **wanted: points.select(**wanted))
    layer = open_layer("carrier://pigeon?fast=1", expiry=3)
    assert layer.layer.hosts == ["carrier://pigeon?fast=1"]
    assert layer.expiry == 3
    with pytest.raises(ConfigurationError, match="there are memory, ipc, redis, carrier, and dotted paths"):
        open_layer("smoke://signal")


def carrier(url, **options):
    return Plain(hosts=[url], **options)


WRONG = [
    ("ipc:", "write ipc:/path/of/a.sock"),
    ("ipc:/run/", "write ipc:/path/of/a.sock"),
    ("ipc://host/run/s", "write ipc:/path/of/a.sock"),
    ("ipc:/" + "x" * 120, "at most"),
    ("ipc:/s?mode=rw", "mode=rw should be a file mode such as 660"),
    ("ipc:/s?mode=777", "mode=777 should be a file mode such as 660"),
    ("ipc:/s?mode=060", "mode=060 should be a file mode such as 660"),
    ("ipc:/s?capacity=many", "capacity=many should be a number of messages"),
    ("ipc:/s?capacity=0", "capacity=0 should be a number of messages"),
    ("ipc:/s?expiry=-1", "expiry=-1 should be seconds"),
    ("ipc:/s?expiry=nan", "expiry=nan should be seconds"),
    ("ipc:/s?colour=red", "no option 'colour'; there are expiry, group_expiry, capacity, mode, send_timeout"),
    ("ipc:/s?mode", "bad query field"),
    ("memory:?mode=660", "no option 'mode'"),
    ("redis://localhost?capacity=many", "capacity=many should be a number of messages"),
    ("redis://user:secret@localhost?prefix=", "'redis://user:***@localhost': prefix= should be"),
    ("", "write memory:, ipc:"),
    ("nonsense", "write memory:, ipc:"),
    ("no.such.module.Class", "No module named 'no'"),
    ("json.NoSuchClass", "has no attribute 'NoSuchClass'"),
    ("json.__name__", "is no class"),
    (f"{__name__}.Plain?colour=1", "unexpected ['colour']"),
]


@pytest.mark.parametrize(("url", "reason"), WRONG)
def test_words_that_name_no_layer(url, reason):
    with pytest.raises(ConfigurationError) as raised:
        open_layer(url)
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


def test_options_that_a_layer_does_not_take():
    with pytest.raises(ConfigurationError, match="hosts"):
        open_layer("memory:", hosts=["localhost"])


# -- one object per process ------------------------------------------------------------------------


def test_who_names_the_same_url_gets_the_same_object(tmp_path, caplog):
    layer = open_layer(f"ipc:{tmp_path}/s?capacity=7")
    os.symlink(tmp_path, tmp_path / "link")
    assert open_layer(f"ipc:{tmp_path}/s") is layer
    assert open_layer(f"ipc://{tmp_path}/link/s", expiry=1) is layer
    assert caplog.messages == ["layer is open already, with other options"]
    assert open_layer(f"ipc:{tmp_path}/other") is not layer
    assert open_layer("memory:") is open_layer("memory:")
    assert open_layer("memory:apart") is not open_layer("memory:")


# -- CHANNEL_LAYERS --------------------------------------------------------------------------------


def test_config_goes_before_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("DAPHNE_LIKE_LAYER", f"ipc:{tmp_path}/environment")
    assert ChannelLayer(url=f"ipc:{tmp_path}/config").path == f"{tmp_path}/config"
    assert ChannelLayer(capacity=5).path == f"{tmp_path}/environment"
    assert ChannelLayer().capacity == 5


def test_the_worker_s_layer_is_the_site_s(tmp_path, monkeypatch):
    monkeypatch.setenv("DAPHNE_LIKE_LAYER", f"ipc:{tmp_path}/s?mode=660")
    assert ChannelLayer() is open_layer(f"ipc:{tmp_path}/s?mode=660")


def test_memory_in_the_embedded_server():
    allow_memory()
    assert isinstance(ChannelLayer(), MemoryChannelLayer)
    assert ChannelLayer() is open_layer("memory:")


def test_memory_under_tests_is_everybody_s_own():
    first, second = ChannelLayer(), ChannelLayer(capacity=3)
    assert isinstance(first, MemoryChannelLayer)
    assert first is not second
    assert second.capacity == 3


@pytest.mark.parametrize(
    "program",
    [
        ["-c", "from daphne_like.layers import ChannelLayer; ChannelLayer()"],
        # pytest started it, but it runs no tests.
        ["-c", "import unittest; from daphne_like.layers import ChannelLayer; ChannelLayer()"],
    ],
)
def test_elsewhere_memory_is_a_mistake(program):
    done = subprocess.run([sys.executable, *program], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    for word in ("ConfigurationError", "CONFIG", "DAPHNE_LIKE_LAYER", "embedded server and under tests"):
        assert word in done.stderr


TEST_CASE = """
import unittest
from daphne_like.layers import ChannelLayer
class Test(unittest.TestCase):
    def test(self):
        ChannelLayer()
"""

DJANGO = """
from django.conf import settings
settings.configure()
from django.test.utils import setup_test_environment
setup_test_environment()
from daphne_like.layers import ChannelLayer
ChannelLayer()
"""


def test_memory_under_the_other_test_runners(tmp_path):
    pytest.importorskip("django")
    (tmp_path / "test_it.py").write_text(TEST_CASE)
    (tmp_path / "with_django.py").write_text(DJANGO)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
        "PYTHONPATH": os.getcwd(),
    }
    for program in (["-m", "unittest", "test_it"], ["with_django.py"]):
        done = subprocess.run(
            [sys.executable, *program],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
            env=environment,
        )
        assert done.returncode == 0, done.stderr


def test_channels_finds_it():
    """The name that sites write."""
    assert layers.ChannelLayer is ChannelLayer
