"""A Starlette application: lifespan state, background tasks, streams, files, WebSockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

HERE = Path(__file__)
done: list[str] = []


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
    yield {"pool": ["opened at startup"]}
    print("pool closed", flush=True)


async def state(request: Request) -> JSONResponse:
    return JSONResponse(request.state.pool)


async def background(request: Request) -> PlainTextResponse:
    async def later() -> None:
        await asyncio.sleep(0.05)
        done.append("mail sent")

    return PlainTextResponse("accepted", background=BackgroundTask(later))


async def finished(request: Request) -> JSONResponse:
    return JSONResponse(done)


async def numbers(request: Request) -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        for number in range(int(request.query_params["to"])):
            yield f"{number}\n"
            await asyncio.sleep(0)

    return StreamingResponse(lines(), media_type="text/plain")


async def endless(request: Request) -> StreamingResponse:
    async def dots() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"." * 1000
                await asyncio.sleep(0.01)
        finally:
            done.append("endless: ended")

    return StreamingResponse(dots())


async def this_file(request: Request) -> FileResponse:
    return FileResponse(HERE)


async def upload(request: Request) -> JSONResponse:
    size = 0
    async for piece in request.stream():
        size += len(piece)
    return JSONResponse(size)


async def form(request: Request) -> JSONResponse:
    async with request.form() as fields:
        return JSONResponse({"name": fields["file"].filename, "size": fields["file"].size})


async def talk(websocket: WebSocket) -> None:
    await websocket.accept(subprotocol="chat.2" if "chat.2" in websocket.scope["subprotocols"] else None)
    try:
        async for text in websocket.iter_text():
            await websocket.send_text(f"{websocket.state.pool[0]}: {text}")
    except WebSocketDisconnect:
        pass
    done.append("talk: ended")


async def denied(websocket: WebSocket) -> None:
    await websocket.send_denial_response(JSONResponse({"why": "no seat"}, 418))


application = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/state", state),
        Route("/background", background),
        Route("/finished", finished),
        Route("/numbers", numbers),
        Route("/endless", endless),
        Route("/file", this_file),
        Route("/upload", upload, methods=["POST"]),
        Route("/form", form, methods=["POST"]),
        WebSocketRoute("/talk", talk),
        WebSocketRoute("/denied", denied),
    ],
)
