"""The routes: what is asked where, and how an answer looks."""

from __future__ import annotations

import base64
import hmac
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from importlib import resources
from time import monotonic
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from detector.facts import as_lines
from detector.image_formats import readable_formats
from detector.serve import metrics, schema
from detector.serve.bodies import FIELD
from detector.serve.refusal import Refusal
from detector.serve.service import Answer, ClientGone, Service

_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

_PAGE = {"": "text/html", "page.css": "text/css", "page.js": "text/javascript"}

_BEARER = HTTPBearer(auto_error=False, description="of --token-file or NPR_SERVE_TOKEN")

# Nobody receives it; it counts requests whose client has gone.
_GONE = 499

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": schema.Error, "description": text}
    for status, text in {
        401: "the token is missing or wrong",
        408: "the request did not come whole in time",
        413: "too many bytes, files or pixels",
        415: "the file is no image of a format that is decoded, or the request neither a form nor JSON",
        422: "the request, or its one file, is damaged",
        429: "too much waits already; the header Retry-After says when to try again",
        503: "the service is starting or ending, or did not come to it in time",
        504: "scoring took too long",
    }.items()
}


def create_app(service: Service) -> FastAPI:
    """The service as an ASGI application; starts and stops it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    def authorise(sent: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]) -> None:
        wanted = (service.settings.token or "").encode()
        if sent is None or not hmac.compare_digest(sent.credentials.encode("utf-8", "surrogateescape"), wanted):
            raise HTTPException(401, "the token is missing or wrong", {"WWW-Authenticate": "Bearer"})

    closed: dict[str, Any] = {"dependencies": [Depends(authorise)]} if service.settings.token is not None else {}
    app = FastAPI(
        title="npr serve",
        version=service.judge.identity["versions"]["npr-kernels"],
        description="Verdicts on whether images are generated: the answers of `npr detect --json`.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(_Observed, metrics=service.metrics)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(ClientGone, _nobody)
    app.add_exception_handler(ClientDisconnect, _nobody)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _failed)
    _add_questions(app, service, closed)
    _add_states(app, service, closed)
    _add_page(app)
    return app


def _add_questions(app: FastAPI, service: Service, closed: dict[str, Any]) -> None:
    @app.post(
        "/v1/detect",
        summary="Verdicts on files",
        description="Of one file that cannot be scored the status tells why; of several, its result has an error.",
        response_model=schema.Results,
        responses=_REFUSALS,
        openapi_extra=_body(single=False),
        **closed,
    )
    async def detect(request: Request, facts: bool = False) -> Response:
        answers = await service.ask(request, facts=facts)
        return JSONResponse({"results": [_line(service, answer) for answer in answers]})

    @app.post(
        "/v1/explain",
        summary="A verdict on one file, with pictures and facts",
        response_model=schema.Explanation,
        responses=_REFUSALS,
        openapi_extra=_body(single=True),
        **closed,
    )
    async def explain(request: Request) -> Response:
        (answer,) = await service.ask(request, facts=True, drawn=True)
        pictures = [
            {
                "name": picture.name,
                "text": picture.text,
                "png": base64.b64encode(picture.png).decode(),
                "region": picture.region,
            }
            for picture in answer.pictures or ()
        ]
        facts = [] if answer.facts is None else as_lines(answer.facts)
        return JSONResponse({"result": _line(service, answer), "facts": facts, "pictures": pictures})


def _add_states(app: FastAPI, service: Service, closed: dict[str, Any]) -> None:
    state: dict[int | str, dict[str, Any]] = {503: {"model": schema.State, "description": "it is not"}}
    refused: dict[int | str, dict[str, Any]] = {401: _REFUSALS[401]} if closed else {}

    @app.get("/livez", summary="Whether the service runs", response_model=schema.State, responses=state)
    async def livez() -> Response:
        broken = service.state == "broken"
        return JSONResponse({"state": "broken" if broken else "alive"}, 503 if broken else 200)

    @app.get("/readyz", summary="Whether it takes requests", response_model=schema.State, responses=state)
    async def readyz() -> Response:
        return JSONResponse({"state": service.state}, 200 if service.state == "ready" else 503)

    @app.get(
        "/metrics",
        summary="Figures for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **refused},
        **closed,
    )
    async def figures() -> Response:
        return Response(service.metrics.text(), media_type=metrics.CONTENT_TYPE)

    @app.get(
        "/version",
        summary="What gives the scores, and what is taken",
        response_model=schema.Version,
        responses=refused,
        **closed,
    )
    async def version() -> Response:
        limits = {name: getattr(service.settings, name) for name in schema.Limits.model_fields if name != "formats"}
        limits["formats"] = list(readable_formats())
        return JSONResponse(service.judge.identity | {"threshold": service.judge.threshold, "limits": limits})


def _add_page(app: FastAPI) -> None:
    def route(name: str, kind: str) -> Callable[[], Coroutine[Any, Any, Response]]:
        content = (resources.files("detector.serve") / "page" / (name or "page.html")).read_bytes()

        async def page() -> Response:
            return Response(content, media_type=f"{kind}; charset=utf-8")

        return page

    for name, kind in _PAGE.items():
        app.add_api_route(f"/{name}", route(name, kind), methods=["GET"], include_in_schema=False)


def _line(service: Service, answer: Answer) -> dict[str, Any]:
    return service.judge.as_line(answer.detection, answer.facts)


def _body(*, single: bool) -> dict[str, Any]:
    """Of OpenAPI: a form or JSON. FastAPI's own parameters for files would write them to disk."""
    file = {"type": "string", "contentMediaType": "application/octet-stream", "description": "an image file"}
    files = {"type": "array", "items": file, "minItems": 1} | ({"maxItems": 1} if single else {})
    form = {"type": "object", "properties": {FIELD: files}, "required": [FIELD], "additionalProperties": False}
    batch = schema.inlined(schema.Batch)
    if single:
        batch["properties"]["files"]["maxItems"] = 1
    content = {"multipart/form-data": {"schema": form}, "application/json": {"schema": batch}}
    return {"requestBody": {"required": True, "content": content}}


class _Observed:
    """Counts and times requests, and gives every answer the headers that it is to have."""

    def __init__(self, app: ASGIApp, metrics: metrics.Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = monotonic(), 500

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    *((name.encode(), value.encode()) for name, value in _HEADERS.items()),
                ]
            await send(message)

        try:
            await self._app(scope, receive, observed)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.requests.labels(path, method, str(status)).inc()
            self._metrics.seconds.labels(path).observe(monotonic() - begun)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    body = {"error": error.reason} | ({} if error.path is None else {"path": error.path})
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.unread:
        headers["Connection"] = "close"
    return JSONResponse(body, error.status, headers)


async def _nobody(_: Request, error: Exception) -> Response:
    return Response(status_code=_GONE)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return JSONResponse({"error": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"}, 422)


async def _failed(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the service failed; its log says how"}, 500)
