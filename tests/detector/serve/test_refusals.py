"""Requests that get no verdict: each has its status and a sentence, and none harms the next."""

import base64
import hashlib
import json
import threading
from dataclasses import replace

import pytest

from detector.serve.settings import Settings
from tests.detector.serve.packages import needed
from tests.detector.serve.waiting import wait_for

needed()


def form(**files):
    return [("files", item) for item in files.items()]


def error(answer, status, *words):
    assert answer.status_code == status, answer.text
    assert set(answer.json()) <= {"error", "path"}
    for word in words:
        assert word in answer.json()["error"]


@pytest.mark.parametrize("path", ["/v1/detect", "/v1/explain"])
def test_too_large(serve, file_of, path):
    data = file_of(size=(64, 64))
    client, service = serve(max_file_bytes=len(data), max_request_bytes=3 * len(data), max_files=3, max_pixels=64 * 64)
    assert client.post(path, files=form(a=data)).status_code == 200
    answer = client.post(path, files=form(a=data + b"\0"))
    error(answer, 413, f"has more than {len(data)} bytes")
    assert answer.json()["path"] == "a"
    error(client.post(path, files=form(a=data, b=data, c=data)), 413, f"has more than {3 * len(data)} bytes")
    error(client.post(path, files=form(a=b"1", b=b"2", c=b"3", d=b"4")), 413, "more than 3 files")
    error(client.post(path, files=form(a=file_of("GIF", (65, 64)))), 413, "too many pixels, 65x64", "4096")
    content = base64.b64encode(data).decode()
    error(client.post(path, json={"files": [{"name": "a", "content": content}] * 4}), 413)
    encoded = base64.b64encode(data + b"\0").decode()
    error(client.post(path, json={"files": [{"name": "a", "content": encoded}]}), 413, "has more than")
    assert client.post(path, files=form(a=data)).status_code == 200
    assert service.allowance.held == 0


def test_a_bomb_is_refused_before_it_is_decoded(serve):
    header = b"P6 60000 60000 255\n"
    client, service = serve()
    error(client.post("/v1/detect", files=form(bomb=header)), 413, "too many pixels")
    assert service.metrics.registry.get_sample_value("npr_batch_files_count") == 0


@pytest.mark.parametrize(
    ("head", "body", "status", "word"),
    [
        ("text/plain", b"x", 415, "must be of multipart/form-data or application/json"),
        ("", b"", 415, "must be of"),
        ("multipart/form-data", b"x", 422, "names no boundary"),
        ("multipart/form-data; boundary=b", b"", 422, "ends early"),
        ("multipart/form-data; boundary=b", b"nonsense", 422, "damaged"),
        ("multipart/form-data; boundary=b", b"--b--\r\n", 422, ""),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nP6',
            422,
            "ends early",
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="files"\r\n\r\nP6\r\n--b--\r\n',
            422,
            "must be a file with a name",
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="other"; filename="a"\r\n\r\nP6\r\n--b--\r\n',
            422,
            "of the field 'files'",
        ),
        ("application/json", b"", 422, "EOF"),
        ("application/json", b"[]", 422, "object"),
        ("application/json", b'{"files": []}', 422, "files"),
        ("application/json", b'{"files": [{"name": "a"}]}', 422, "files.0.content"),
        ("application/json", b'{"files": [{"name": "a", "content": "*"}]}', 422, "base64"),
        ("application/json", b'{"files": [{"name": "a", "content": 3}]}', 422, "base64"),
        ("application/json", b'{"files": [{"name": "", "content": "AAAA"}]}', 422, "files.0.name"),
        ("application/json", b'{"files": [{"name": "\\ud800", "content": "AAAA"}]}', 422, ""),
        ("application/json", b'{"files": [], "more": 1}', 422, ""),
    ],
)
def test_requests_that_are_none(serve, head, body, status, word):
    client, _ = serve()
    error(client.post("/v1/detect", content=body, headers={"content-type": head}), status, word)


def test_wrong_parameters_and_places(serve, file_of):
    client, _ = serve()
    error(client.post("/v1/detect?facts=perhaps", files=form(a=file_of())), 422, "facts")
    error(client.get("/v1/detect"), 405)
    error(client.get("/nowhere"), 404)


def test_the_token(serve, file_of):
    client, _ = serve(token="secret-1")
    data = file_of()
    for headers in ({}, {"Authorization": "Bearer secret-2"}, {"Authorization": "Basic secret-1"}):
        for answer in (
            client.post("/v1/detect", files=form(a=data), headers=headers),
            client.post("/v1/explain", files=form(a=data), headers=headers),
            client.get("/metrics", headers=headers),
            client.get("/version", headers=headers),
        ):
            error(answer, 401, "token")
            assert answer.headers["www-authenticate"] == "Bearer"
    assert [client.get(path).status_code for path in ("/livez", "/readyz", "/", "/openapi.json")] == [200] * 4
    headers = {"Authorization": "Bearer secret-1"}
    assert client.post("/v1/detect", files=form(a=data), headers=headers).status_code == 200
    assert client.get("/version", headers=headers).status_code == 200
    error(client.get("/version", headers={"Authorization": "Bearer s\xfc".encode("latin-1")}), 401)


class Held:
    """Stands before a detector and holds each batch until it is let go."""

    def __init__(self):
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, detect):
        def held(files):
            for detection in detect(files):
                self.begun.release()
                assert self.go.acquire(timeout=60)
                yield detection

        return held


def in_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    return thread, found


def test_what_does_not_fit_into_the_line_is_refused_with_a_time(serve, file_of):
    held = Held()
    client, service = serve(held, queue=2, max_files=2, batch_size=1, delay=0)
    data = file_of()
    ask = [in_thread(lambda: client.post("/v1/detect", files=form(a=data)))]
    assert held.begun.acquire(timeout=60)
    ask += [in_thread(lambda: client.post("/v1/detect", files=form(b=data)))]
    wait_for(lambda: service.scorer.waiting == 1)
    answer = client.post("/v1/detect", files=form(c=data, d=data))  # all of a request or nothing
    error(answer, 429, "more files wait")
    assert int(answer.headers["retry-after"]) >= 1
    ask += [in_thread(lambda: client.post("/v1/detect", files=form(c=data)))]
    wait_for(lambda: service.scorer.waiting == 2)
    error(client.post("/v1/detect", files=form(d=data)), 429)
    held.go.release(3)
    for thread, found in ask:
        thread.join()
        assert found[0].status_code == 200
    held.go.release()
    assert client.post("/v1/detect", files=form(a=data)).status_code == 200


def test_uploads_beyond_the_memory_for_them_are_refused(serve, file_of):
    data = file_of(size=(100, 100))
    held = Held()
    room = 5 * len(data) // 2 * 2
    client, service = serve(held, max_request_bytes=room // 3, max_held_bytes=room, delay=0)
    body = {"files": form(a=data[: room // 3 - 500])}
    first = in_thread(lambda: client.post("/v1/detect", files=form(a=data)))
    assert held.begun.acquire(timeout=60)
    second = in_thread(lambda: client.post("/v1/detect", files=form(a=data)))
    wait_for(lambda: service.allowance.held > 4 * len(data))
    answer = client.post("/v1/detect", **body)
    error(answer, 429, "as many uploads")
    held.go.release(2)
    for thread, found in (first, second):
        thread.join()
        assert found[0].status_code == 200
    assert service.allowance.held == 0


def test_time_outs(serve, file_of):
    held = Held()
    client, service = serve(held, batch_size=1, delay=0)
    data, timeout, status = file_of(), 0.1, 503
    while status == 503:  # on a busy machine it may not come to it
        service.settings = replace(service.settings, timeout=timeout)
        answer = client.post("/v1/detect", files=form(a=data))
        status, timeout = answer.status_code, 2 * timeout
    error(answer, 504, "scoring took longer than")
    assert held.begun.acquire(timeout=60)
    answer = client.post("/v1/detect", files=form(b=data))
    error(answer, 503, "did not come to it within")
    assert answer.headers["retry-after"] == "1"
    service.settings = replace(service.settings, timeout=60)
    held.go.release(2)
    wait_for(lambda: service.scorer.waiting == 0)
    assert client.post("/v1/detect", files=form(c=data)).status_code == 200
    assert held.begun.acquire(timeout=60)
    assert not held.begun.acquire(blocking=False)  # "b" was never begun: nobody waited for it any more
    assert service.allowance.held == 0


def test_a_detector_that_fails_answers_and_goes_on(serve, file_of):
    broken = threading.Event()

    def failing(detect):
        def run(files):
            if broken.is_set():
                next(files)
                raise RuntimeError("out of something")
            return detect(files)

        return run

    client, _ = serve(failing)
    data = file_of()
    broken.set()
    error(client.post("/v1/detect", files=form(a=data, b=data)), 500, "failed")
    broken.clear()
    assert client.post("/v1/detect", files=form(a=data)).status_code == 200
    assert client.get("/livez").json() == {"state": "alive"}


def test_an_ending_service_takes_nothing_more(serve, file_of):
    client, service = serve()
    assert client.get("/readyz").json() == {"state": "ready"}
    service.draining = True
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"state": "ending"})
    assert client.get("/livez").status_code == 200
    answer = client.post("/v1/detect", files=form(a=file_of()))
    error(answer, 503, "the service is ending")
    assert answer.headers["retry-after"]


def test_no_upload_touches_the_disk(serve, file_of, monkeypatch):
    """Frameworks write uploads above a megabyte to temporary files."""
    import tempfile

    for name in ("TemporaryFile", "NamedTemporaryFile", "SpooledTemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, None)
    data = file_of("BMP", (1000, 700))
    assert len(data) > 2_000_000
    client, _ = serve()
    answer = client.post("/v1/detect", files=form(a=data))
    assert answer.json()["results"][0]["sha256"] == hashlib.sha256(data).hexdigest()


def test_states_and_version(serve, judge):
    client, service = serve(max_pixels=12345)
    found = client.get("/version").json()
    assert {name: found[name] for name in judge.identity} == judge.identity
    assert found["threshold"] == judge.threshold
    assert found["limits"]["max_pixels"] == 12345
    assert "JPEG" in found["limits"]["formats"]
    service.ready = False
    assert client.get("/readyz").json() == {"state": "starting"}


def test_metrics(serve, file_of):
    parser = pytest.importorskip("prometheus_client.parser")
    client, service = serve(delay=0)
    client.post("/v1/detect", files=form(a=file_of(), b=b"none"))
    wait_for(lambda: service.metrics.registry.get_sample_value("npr_batch_seconds_count"))  # after the answer
    client.post("/v1/detect", files=form(a=b"none"))
    client.get("/nowhere/1")
    client.get("/nowhere/2")
    samples = {}
    for family in parser.text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            samples[(sample.name, *sorted(sample.labels.items()))] = sample.value
    asked = ("method", "POST"), ("path", "/v1/detect")
    assert samples[("npr_requests_total", *asked, ("status", "200"))] == 1
    assert samples[("npr_requests_total", *asked, ("status", "415"))] == 1
    assert samples["npr_requests_total", ("method", "GET"), ("path", "other"), ("status", "404")] == 2
    assert samples["npr_request_seconds_count", ("path", "/v1/detect")] == 2
    assert samples[("npr_batch_files_sum",)] == 1
    verdicts = {key[1][1]: value for key, value in samples.items() if key[0] == "npr_images_total"}
    assert verdicts.pop("error") == 2
    assert sum(verdicts.values()) == 1
    assert samples[("npr_queue_files",)] == samples[("npr_held_bytes",)] == 0


def test_headers_let_no_other_site_in(serve):
    client, _ = serve()
    for path in ("/", "/page.js", "/page.css", "/livez", "/nowhere"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in client.get("/livez", headers={"Origin": "http://other"}).headers


def test_the_description_is_whole(serve):
    client, _ = serve()
    found = client.get("/openapi.json").json()
    assert set(found["paths"]) == {"/v1/detect", "/v1/explain", "/livez", "/readyz", "/metrics", "/version"}
    for path in ("/v1/detect", "/v1/explain"):
        question = found["paths"][path]["post"]
        assert set(question["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
        assert {"200", "401", "413", "415", "422", "429", "503", "504"} <= set(question["responses"])
    names = set(found["components"]["schemas"])
    references = {part.split('"')[0] for part in json.dumps(found).split("#/components/schemas/")[1:]}
    assert references <= names
    assert "$defs" not in json.dumps(found)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queue": 0}, "queue must be positive"),
        ({"delay": -1}, "delay must not be negative"),
        ({"max_files": 65}, "no room for a request of 65 files"),
        ({"max_held_bytes": 2**26}, "no room for a request of"),
        ({"token": ""}, "a token must be"),
        ({"token": "a\nb"}, "a token must be"),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ValueError, match=message):
        Settings(**settings)
