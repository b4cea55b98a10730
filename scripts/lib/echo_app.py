"""The application behind the Autobahn fuzzing client: whatever a WebSocket client says is said back."""


async def application(scope, receive, send):
    if scope["type"] != "websocket":
        # In lifespan "auto" mode this means that there is no lifespan; nothing asks for HTTP here.
        raise ValueError(f"no {scope['type']} here")
    while (message := await receive())["type"] != "websocket.disconnect":
        if message["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        elif message.get("text") is not None:
            await send({"type": "websocket.send", "text": message["text"]})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})
