"""The server: published files with ranges, and OpenAI's images endpoint over the line of requests."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qsched_runtime import Sampler
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qsched_edge.errors import QSchedError
from qsched_edge.serve.asked import BODY, Asked, asked_of
from qsched_edge.serve.drawing import Drawn, Event, Job, Line, Waiting
from qsched_edge.serve.errors import ApiError
from qsched_edge.serve.published import HEADERS, media_type
from qsched_edge.serve.settings import ServeSettings

NOBODY = Response(status_code=499)  # the client is gone: nothing is sent


class WithHeaders:
    """Adds the headers that every answer has."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, sending)


@dataclass(frozen=True)
class Site:
    """What is served: `files` by the path of their URL, `config` for the page, and a line of requests."""

    sampler: Sampler
    settings: ServeSettings
    files: Mapping[str, Path]
    config: bytes
    line: Line = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "line", Line(self.sampler, self.settings.queue))

    def app(self) -> Starlette:
        routes = [
            Route("/v1/images/generations", self.generations, methods=["POST"]),
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/config.json", self.described, methods=["GET"]),
            Route("/{path:path}", self.file, methods=["GET"]),
        ]
        return Starlette(
            routes=routes,
            middleware=[Middleware(WithHeaders), Middleware(TrustedHostMiddleware, self.settings.hosts, False)],
            exception_handlers={ApiError: refused, HTTPException: refused, Exception: failed},
            lifespan=self.lifespan,
        )

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(self.line.close)

    async def file(self, request: Request) -> Response:
        name = request.path_params["path"] or "index.html"
        path = self.files.get(name)
        if path is None or not path.is_file():
            raise HTTPException(404)
        response = FileResponse(path, stat_result=path.stat(), media_type=media_type(path))
        response.headers["cache-control"] = "no-cache"  # asks again, and gets 304 for what has not changed
        if request.headers.get("if-none-match") == response.headers["etag"]:
            return Response(status_code=304, headers={"etag": response.headers["etag"]})
        return response

    async def described(self, request: Request) -> Response:
        return Response(self.config, media_type="application/json", headers={"cache-control": "no-cache"})

    async def models(self, request: Request) -> Response:
        model = {"id": self.sampler.manifest.name, "object": "model", "created": 0, "owned_by": "qsched-edge"}
        return JSONResponse({"object": "list", "data": [model]})

    async def generations(self, request: Request) -> Response:
        """As OpenAI's: {"created", "data": [{"b64_json"}]}, or server-sent events where `stream` is true."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # other kinds are what a stranger's page may send without asking
            raise ApiError(
                415, f"the body is {kind or 'of no type'}: send application/json", code="unsupported_media_type"
            )
        asked = asked_of(await body_of(request), self.sampler.manifest, self.settings)
        job = self.line.join(asked)
        if asked.stream:
            return StreamingResponse(
                streamed(job), media_type="text/event-stream", headers={"cache-control": "no-store"}
            )
        return await answered(request, job)


async def body_of(request: Request) -> bytes:
    """ApiError 413 for more than a request needs, before it is read where its length is said."""
    found = bytearray()
    if (said := request.headers.get("content-length", "")).isdigit() and len(said) < 20 and int(said) > BODY.bytes:
        raise too_large()
    async for part in request.stream():
        found += part
        if len(found) > BODY.bytes:
            raise too_large()
    return bytes(found)


def too_large() -> ApiError:
    return ApiError(413, f"the body has more than {BODY.bytes} bytes: send a shorter prompt", code="body_too_large")


async def answered(request: Request, job: Job) -> Response:
    """The pictures in one answer; a client that leaves cancels them."""
    drawing = asyncio.ensure_future(finished(job))
    leaving = asyncio.ensure_future(left(request))
    try:
        await asyncio.wait({drawing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return JSONResponse(answer(job.asked, drawing.result())) if drawing.done() else NOBODY
    except QSchedError as error:
        raise drawing_failed(error) from error
    finally:
        for task in (drawing, leaving):
            task.cancel()
        job.cancel()


async def finished(job: Job) -> Drawn:
    async for event in job.events():
        if isinstance(event, Drawn):
            return event
    raise ApiError(500, "the drawing ended without a picture", code="drawing_failed")


async def left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def answer(asked: Asked, drawn: Drawn) -> dict[str, Any]:
    data = [{"b64_json": encoded(png), "seed": seed} for png, seed in zip(drawn.pictures, asked.seeds, strict=True)]
    return {"created": int(time.time()), "output_format": "png", "data": data}


async def streamed(job: Job) -> AsyncIterator[str]:
    """Server-sent events; the names are OpenAI's, but for the line and the steps."""
    try:
        async for event in job.events():
            for message in messages(job.asked, event):
                yield sent(message)
    except QSchedError as error:
        yield sent({"type": "error", **drawing_failed(error).json()})
    except ApiError as error:
        yield sent({"type": "error", **error.json()})


def messages(asked: Asked, event: Event) -> list[dict[str, Any]]:
    if isinstance(event, Waiting):
        return [{"type": "image_generation.queued", "ahead": event.ahead}]
    if isinstance(event, Drawn):
        return [
            {"type": "image_generation.completed", "index": i, **datum}
            for i, datum in enumerate(answer(asked, event)["data"])
        ]
    step = {"type": "image_generation.step", "step": event.i, "steps": event.steps}
    partial = {"type": "image_generation.partial_image", "partial_image_index": event.i}
    return [step, *({**partial, "index": i, "b64_json": encoded(png)} for i, png in enumerate(event.pictures))]


def sent(message: Mapping[str, Any]) -> str:
    return f"event: {message['type']}\ndata: {json.dumps(message)}\n\n"


def encoded(png: bytes) -> str:
    return base64.b64encode(png).decode()


def drawing_failed(error: QSchedError) -> ApiError:
    return ApiError(500, str(error), code="drawing_failed")


async def refused(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        error = ApiError(
            error.status_code, f"{request.method} {request.url.path[:100]}: {error.detail}", code="not_served"
        )
    assert isinstance(error, ApiError)
    return JSONResponse(error.json(), error.status)


async def failed(request: Request, error: Exception) -> Response:
    """A fault of the server; its kind alone is told."""
    if isinstance(error, ClientDisconnect):
        return NOBODY
    return JSONResponse(ApiError(500, f"unexpected {type(error).__name__}", code="server_fault").json(), 500)
