"""What goes in and comes out, for OpenAPI and for checking what goes in."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

MAX_NAME = 1024
"""Characters of a file's name."""


def _decoded(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError("must be a string of base64")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"is not base64 ({error})") from error


_PATTERN = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"

Base64 = Annotated[
    bytes,
    BeforeValidator(_decoded),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "minLength": 4, "pattern": _PATTERN}),
]


class File(BaseModel):
    """An image file."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1, max_length=MAX_NAME, description="takes the place of the path in the answer")
    content: Base64 = Field(description="the file's bytes")


class Batch(BaseModel):
    """Several image files as JSON."""

    model_config = ConfigDict(extra="forbid")
    files: list[File] = Field(min_length=1)


class Reason(BaseModel):
    """Why a verdict is withheld."""

    code: str
    text: str


class Result(BaseModel):
    """What `npr detect --json` says of a file: a score and what it rests on, or the error."""

    model_config = ConfigDict(extra="allow")
    path: str
    score: float | None = Field(None, ge=0, le=1)
    verdict: Literal["real", "fake", "unsure"] | None = None
    width: int | None = Field(None, description="of the upright image, in pixels")
    height: int | None = None
    threshold: float | None = None
    llr: float | None = Field(None, description="log10 likelihood ratio of fake over real")
    sha256: str | None = Field(None, description="of the file")
    read: float | None = Field(None, description="the share of the image that was read")
    interval: tuple[float, float] | None = Field(None, description="where the whole image's score lies")
    exact: bool | None = None
    reasons: list[Reason] | None = None
    model: str | None = Field(None, description="SHA-256 of the checkpoint")
    decoder: str | None = None
    versions: dict[str, str] | None = None
    facts: dict[str, Any] | None = None
    error: str | None = None


class Results(BaseModel):
    """In the order of the files."""

    results: list[Result]


class PictureOut(BaseModel):
    """A picture that explains a verdict."""

    name: Literal["image", "activation", "residual", "spectrum"]
    text: str = Field(description="what it shows")
    png: str = Field(description="the file, as base64")
    region: tuple[int, int, int, int] | None = Field(None, description="left, top, width, height in the image")


class Explanation(BaseModel):
    """A verdict with what may explain it."""

    result: Result
    facts: list[str] = Field(description="what the file says of its making, in lines for people")
    pictures: list[PictureOut]


class Error(BaseModel):
    """Why there is no answer."""

    error: str
    path: str | None = Field(None, description="the file that it is about")


class State(BaseModel):
    """Whether the service is there."""

    state: str


class Limits(BaseModel):
    """What the service takes."""

    max_file_bytes: int
    max_request_bytes: int
    max_files: int
    max_pixels: int
    timeout: float
    formats: list[str]


class Version(BaseModel):
    """What gives the scores, as each result says it, and what the service takes."""

    model_config = ConfigDict(extra="allow")
    model: str
    decoder: str
    versions: dict[str, str]
    threshold: float
    limits: Limits


def inlined(model: type[BaseModel]) -> dict[str, Any]:
    """The model's JSON schema without references, for a place that has no definitions beside it."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolved(node: Any) -> Any:
        if isinstance(node, dict):
            name = node.get("$ref", "").removeprefix("#/$defs/")
            return resolved(definitions[name]) if name else {key: resolved(value) for key, value in node.items()}
        return [resolved(value) for value in node] if isinstance(node, list) else node

    return resolved(schema)
