"""A small detector behind a service, in this process; and files to ask it of."""

from __future__ import annotations

import io
import warnings
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from detector.commands.lines import as_line, identity_of
from detector.evaluation import threshold_of
from detector.models import load_checkpoint
from detector.serve.judge import Judge
from detector.serve.settings import Settings
from detector.verdicts import INTERVAL_CONFIDENCE


@pytest.fixture(scope="session")
def judge(weights):
    """What `npr serve --weights` makes of the checkpoint."""
    model = load_checkpoint(weights).eval()
    identity = identity_of(weights, None, INTERVAL_CONFIDENCE)
    return Judge(
        model=model.for_inference(),
        preprocessing=model.preprocessing,
        threshold=threshold_of(model),
        unsure=True,
        exact=False,
        confidence=INTERVAL_CONFIDENCE,
        batch_size=16,
        workers=2,
        identity=identity,
        as_line=lambda detection, facts: as_line(detection, identity, facts),
    )


@pytest.fixture
def serve(judge):
    """Starts a service with other settings than the default ones, and gives a client and the service."""
    from detector.serve.app import create_app
    from detector.serve.service import Service

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # starlette would rather have a later httpx
        from starlette.testclient import TestClient

    clients = []

    def start(detect=None, **settings):
        service = Service(judge, replace(Settings(), **settings))
        if detect is not None:
            service.scorer._detect = detect(judge.detect)
        client = TestClient(create_app(service), raise_server_exceptions=False)
        clients.append(client.__enter__())
        return client, service

    yield start
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def file_of(rng):
    """Makes the bytes of an image of noise."""

    def make(kind="PNG", size=(40, 30), **options):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(file, kind, **options)
        return file.getvalue()

    return make
