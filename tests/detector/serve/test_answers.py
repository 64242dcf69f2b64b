"""What the service says of files is what `npr detect --json` says of them, word for word and bit for bit."""

import base64
import io
import json
import threading

import numpy as np
import pytest
from PIL import Image

from detector.cli import main
from detector.explain import local_logits
from detector.facts import as_lines, read_facts
from detector.serve.pictures import draw
from tests.detector.serve.packages import needed
from tests.detector.serve.waiting import wait_for

needed()


@pytest.fixture
def files(tmp_path, file_of):
    """Images of several formats and sizes, one of more than a megapixel, and some that are none; by path."""
    content = {
        "a.png": file_of(),
        "b.jpg": file_of("JPEG", (61, 47), quality=30),
        "c d ü.webp": file_of("WEBP", (40, 30)),
        "large.jpg": file_of("JPEG", (2400, 2000)),
        "same.png": file_of(),
        "turned.jpg": file_of("JPEG", (50, 20), exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"),
        "cut.png": file_of()[:900],
        "text.png": b"no image",
        "empty.jpg": b"",
    }
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    return {str(tmp_path / name): data for name, data in content.items()}


def lines_of(capsys, weights, files, *more):
    capsys.readouterr()
    main(["detect", *files, "--weights", str(weights), "--json", *more])
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def form(files):
    return [("files", (path, data)) for path, data in files.items()]


def batch(files):
    return {"files": [{"name": path, "content": base64.b64encode(data).decode()} for path, data in files.items()]}


@pytest.mark.parametrize("facts", [False, True])
def test_as_npr_detect(files, weights, serve, capsys, facts):
    expected = lines_of(capsys, weights, files, *["--facts"] * facts)
    client, _ = serve()
    for body in ({"files": form(files)}, {"json": batch(files)}):
        answer = client.post("/v1/detect", params={"facts": facts}, **body)
        assert answer.status_code == 200
        assert answer.json()["results"] == expected
    assert [line.get("read", 1) < 1 for line in expected] == [path.endswith("large.jpg") for path in files]
    assert sum("error" in line for line in expected) == 3


def test_each_file_alone_has_the_same_answer_or_a_status(files, weights, serve, capsys):
    client, _ = serve()
    statuses = {}
    for (path, data), line in zip(files.items(), lines_of(capsys, weights, files), strict=True):
        answer = client.post("/v1/detect", files=form({path: data}))
        statuses[path.rsplit("/")[-1]] = answer.status_code
        assert answer.json() == ({"results": [line]} if "score" in line else line)
    assert {name: status for name, status in statuses.items() if status != 200} == {
        "cut.png": 422, "text.png": 415, "empty.jpg": 422,
    }  # fmt: skip


def test_requests_side_by_side_get_their_own_answers_in_order(files, weights, serve, capsys):
    """Each thread asks for the files in an order of its own, some of them together."""
    good = {path: data for path, data in files.items() if not path.endswith(("cut.png", "text.png", "empty.jpg"))}
    expected = dict(zip(good, lines_of(capsys, weights, good), strict=True))
    client, _ = serve(delay=0.05)
    wrong = []

    def ask(number):
        paths = list(good)[number % len(good) :] + list(good)[: number % len(good)]
        for some in (paths[:3], paths[3:4], paths[4:]):
            results = client.post("/v1/detect", files=form({path: good[path] for path in some})).json()["results"]
            wrong.extend([path for path, line in zip(some, results, strict=True) if line != expected[path]])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_files_of_several_requests_go_together(serve, file_of):
    """They wait for the fourth, however long it takes."""
    client, service = serve(delay=3600, batch_size=4, timeout=3600)
    data = file_of()
    asked = [threading.Thread(target=client.post, args=("/v1/detect",), kwargs={"files": form(some)}) for some in (
        {"a": data}, {"b": data, "c": data}, {"d": data},
    )]  # fmt: skip
    for thread in asked:
        thread.start()
    for thread in asked:
        thread.join()
    value = service.metrics.registry.get_sample_value
    wait_for(lambda: value("npr_batch_files_count"))
    assert (value("npr_batch_files_count"), value("npr_batch_files_sum")) == (1, 4)


def test_explain(serve, judge, weights, capsys, tmp_path, file_of):
    data = file_of("JPEG", (90, 70))
    (tmp_path / "a.jpg").write_bytes(data)
    path = str(tmp_path / "a.jpg")
    (expected,) = lines_of(capsys, weights, [path], "--facts")
    client, _ = serve()
    answer = client.post("/v1/explain", files=form({path: data})).json()
    assert answer["result"] == expected
    assert answer["facts"] == as_lines(read_facts(data))
    assert answer["facts"][0].startswith("JPEG, 90x70")
    assert [picture["name"] for picture in answer["pictures"]] == ["image", "activation", "residual", "spectrum"]
    shown = {p["name"]: Image.open(io.BytesIO(base64.b64decode(p["png"]))) for p in answer["pictures"]}
    assert (np.asarray(shown["image"]) == np.asarray(Image.open(io.BytesIO(data)))).all()
    for picture in answer["pictures"]:
        assert picture["text"]
    assert client.post("/v1/explain", files=form({"a": data, "b": data})).status_code == 422
    assert client.post("/v1/explain", files=form({"a": data[:200]})).json()["error"].startswith("is damaged")


def test_the_map_is_red_where_the_evidence_is_positive(judge, rng):
    import torch

    image = torch.from_numpy(rng.integers(0, 256, (3, 2100, 70), dtype=np.uint8))
    pictures = {picture.name: picture for picture in draw(judge.model, image)}
    left, top, width, height = pictures["activation"].region
    assert (left, top) == (0, 0)  # the middle, in steps of 64
    assert height == 2048
    logits = local_logits(judge.model, image[:, :2048]).numpy()
    colours = np.asarray(Image.open(io.BytesIO(pictures["activation"].png))).astype(int)
    assert colours.shape == (*logits.shape, 4)
    assert (height, width) == tuple(judge.model.feature_stride * side for side in logits.shape)  # beyond the 70 pixels
    assert width > 70
    clear = np.abs(logits) > 0.1 * np.abs(logits).max()
    assert (np.sign(colours[..., 0] - colours[..., 2])[clear] == np.sign(logits)[clear]).all()
    assert Image.open(io.BytesIO(pictures["image"].png)).size == (24, 700)  # three to one, rounded up
