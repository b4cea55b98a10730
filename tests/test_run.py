"""daphne_like.run: the embedded server, its channel layer, and who may use it from outside."""

import asyncio

from daphne_like.layers.loading import open_layer
from tests.end_to_end.clients import fetch
from tests.end_to_end.processes import complaint_of, serving

APPLICATION = """
import asyncio, os
from daphne_like.layers.loading import ChannelLayer

layer = ChannelLayer()

async def application(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"] == "/news":
        body = (await layer.receive("news"))["text"]
    else:
        await layer.send("own", {"type": "x", "text": "to myself"})
        body = (await layer.receive("own"))["text"] + " " + str(os.environ.get("DAPHNE_LIKE_LAYER"))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body.encode()})
"""


def words(directory, *more):
    (directory / "site_with_layer.py").write_text(APPLICATION)
    return ("-p", "0", "--app-dir", str(directory), *more, "site_with_layer:application")


def test_embedded_server_means_memory_where_nothing_is_said(tmp_path):
    with serving(*words(tmp_path)) as server:
        assert fetch(server.port).text == "to myself None"


def test_layer_of_an_embedded_server_can_be_joined_from_outside(tmp_path):
    layer = f"ipc:{tmp_path}/s"

    async def send():
        sender = open_layer(layer)
        await sender.send("news", {"type": "x", "text": "from outside"})
        await sender.close()

    with serving(*words(tmp_path, "--layer", layer)) as server:
        assert fetch(server.port).text == f"to myself {layer}"
        asyncio.run(send())
        assert fetch(server.port, "/news").text == "from outside"
    assert not (tmp_path / "s").exists()


def test_layer_that_cannot_be_hosted_ends_the_start(tmp_path):
    (tmp_path / "s").write_text("precious")
    code, lines = complaint_of(*words(tmp_path, "--layer", f"ipc:{tmp_path}/s"))
    assert code == 3
    assert lines[-1].startswith("daphne-like: --layer: cannot listen on ipc:")
    assert (tmp_path / "s").read_text() == "precious"


def test_layer_in_words_that_mean_nothing(tmp_path):
    code, lines = complaint_of(*words(tmp_path, "--layer", "no.such.Layer"))
    assert code == 2
    assert "layer 'no.such.Layer'" in lines[-1]
