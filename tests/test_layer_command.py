"""`daphne-like layer stats`: what it prints, and what it refuses. With real layers: end_to_end/test_redis.py."""

import json

import pytest

from daphne_like import cli
from daphne_like.layers import loading
from daphne_like.layers.ipc import IPCChannelLayer

FIGURES = {
    "thumbnails": {
        "messages_count": 940,
        "messages_pending": 17,
        "messages_max_age": 12.44,
        "channel_full_count": 0,
    },
    "http.request": {
        "messages_count": 12,
        "messages_pending": 0,
        "messages_max_age": 0.0,
        "channel_full_count": 3,
    },
}


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    monkeypatch.delenv("DAPHNE_LIKE_LAYER", raising=False)
    loading.forget_layers()
    yield
    loading.forget_layers()


@pytest.fixture
def layer(monkeypatch, tmp_path):
    """The layer of that URL has these figures, and ten thumbnails more at the second look."""
    looks = []

    async def statistics(self):
        looks.append(self)
        figures = {channel: dict(each) for channel, each in FIGURES.items()}
        figures["thumbnails"]["messages_count"] += 10 * (len(looks) - 1)
        return figures

    async def open_and_close(self):
        pass

    monkeypatch.setattr(IPCChannelLayer, "statistics", statistics)
    monkeypatch.setattr(IPCChannelLayer, "open", open_and_close)
    return f"ipc:{tmp_path}/layer.sock"


def test_a_table(layer, capsys):
    assert cli.main(["layer", "stats", "--layer", layer, "--seconds", "0.01"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "channel       per second  pending  oldest, s  refused  sent",
        "http.request         0.0        0        0.0        3    12",
        "thumbnails        1000.0       17       12.4        0   950",
    ]


def test_json_and_one_look(layer, capsys, monkeypatch):
    monkeypatch.setenv("DAPHNE_LIKE_LAYER", layer)
    assert cli.main(["layer", "stats", "--json", "--seconds=0"]) == 0
    assert json.loads(capsys.readouterr().out) == FIGURES


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("", "say what of it"),
        ("list --layer memory:", "say what of it"),
        ("stats", "--layer: name the layer"),
        ("stats --layer memory:", "memory is one process' own"),
        ("stats --layer tests.layers.nobody.Layer", "No module named"),
        ("stats --layer memory: --seconds -1", "--seconds: from 0"),
        ("stats --layer memory: --seconds x", "--seconds: invalid float"),
        ("stats more --layer memory:", "unexpected 'more'"),
        ("stats --layer memory: --jsn", "did you mean --json"),
        ("stats --layer channels.layers.InMemoryChannelLayer", "keeps no statistics"),
    ],
)
def test_what_cannot_be_right_is_one_line(words, complaint, capsys):
    assert cli.main(["layer", *words.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("daphne-like: ")
    assert complaint in line


def test_nothing_to_show(layer, capsys, monkeypatch):
    async def nothing(self):
        return {}

    monkeypatch.setattr(IPCChannelLayer, "statistics", nothing)
    assert cli.main(["layer", "stats", "--layer", layer, "--seconds", "0"]) == 0
    assert capsys.readouterr().out == "no channel has been used\n"
