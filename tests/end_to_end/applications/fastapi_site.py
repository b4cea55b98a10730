"""A FastAPI application as its tutorial writes them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import BackgroundTasks, Depends, FastAPI, Request, UploadFile, WebSocket
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel

done: list[str] = []


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, str]]:
    yield {"model": "loaded"}
    print("model unloaded", flush=True)


application = FastAPI(lifespan=lifespan)


class Item(BaseModel):
    name: str
    price: float


async def session() -> AsyncIterator[str]:
    yield "session"
    done.append("session closed")


@application.get("/")
async def read_state(request: Request) -> dict[str, str]:
    return {"model": request.state.model}


@application.post("/items/{number}")
async def create_item(number: int, item: Item) -> dict[str, object]:
    return {"number": number, "name": item.name, "price": item.price}


@application.get("/in-a-thread")
def plain_function(using: Annotated[str, Depends(session)]) -> str:
    return using


@application.get("/background")
async def background(tasks: BackgroundTasks) -> str:
    tasks.add_task(done.append, "task done")
    return "accepted"


@application.get("/done")
async def read_done() -> list[str]:
    return done


@application.get("/stream")
async def stream() -> StreamingResponse:
    def lines() -> Iterator[bytes]:
        for number in range(1000):
            yield b"%d\n" % number

    return StreamingResponse(lines())


@application.get("/file")
async def file() -> FileResponse:
    return FileResponse(Path(__file__), filename="site.py")


@application.post("/upload")
async def upload(file: UploadFile) -> dict[str, object]:
    return {"name": file.filename, "size": len(await file.read())}


@application.websocket("/echo")
async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    async for message in websocket.iter_json():
        await websocket.send_json({"you said": message})
