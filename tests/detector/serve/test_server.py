"""`npr serve` as a process on a loopback port: what it says, and how it ends."""

import json
import signal
import socket
import sys
import threading

import pytest

from detector.cli import main
from tests import needs
from tests.detector.serve.packages import needed
from tests.detector.serve.process import running

needed()
httpx = pytest.importorskip("httpx")


@pytest.mark.slow
def test_sigterm_ends_what_was_begun(weights, file_of):
    """The first file of a batch waits for others, longer than the test, until the signal says that none will come."""
    data = file_of()
    with running(weights, "--delay", "3600", "--timeout", "3600") as (process, address):
        assert address.startswith("http://127.0.0.1:")
        answers = []

        def ask():
            answers.append(httpx.post(f"{address}/v1/detect", files=[("files", ("a.png", data))], timeout=600))

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        while "npr_queue_files 3.0" not in httpx.get(f"{address}/metrics").text:
            assert not answers
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200] * 3
        assert process.wait(60) == 0
        assert needs.besides_fallback(process.stderr.read()) == ""
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/livez")


@pytest.mark.slow
def test_a_client_that_goes_away_is_no_longer_waited_for(weights, file_of):
    with running(weights, "--delay", "3600") as (process, address):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{address}/v1/detect", files=[("files", ("a.png", file_of()))], timeout=httpx.Timeout(60, read=0.1)
            )
        figures = ""
        while 'path="/v1/detect",status="499"} 1.0' not in figures:
            figures = httpx.get(f"{address}/metrics").text
        assert "npr_held_bytes 0.0" in figures
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert needs.besides_fallback(process.stderr.read()) == ""


def test_the_token_comes_from_a_file_or_the_environment(weights, tmp_path):
    (tmp_path / "token").write_text("from-file\n")
    with running(weights, "--token-file", str(tmp_path / "token"), environment={"NPR_SERVE_TOKEN": "other"}) as (
        _,
        address,
    ):
        for token, status in (("from-file", 200), ("other", 401)):
            assert httpx.get(f"{address}/version", headers={"Authorization": f"Bearer {token}"}).status_code == status


def test_damaged_forms_leave_nothing_in_the_log(weights):
    with running(weights) as (process, address):
        head = {"Content-Type": "multipart/form-data; boundary=b"}
        answer = httpx.post(f"{address}/v1/detect", content=b"--b\r\nBad header\r\r: x\r\n\r\n", headers=head)
        assert answer.status_code == 422
        process.terminate()
        assert process.wait(60) == 0
        assert needs.besides_fallback(process.stderr.read()) == ""


def test_slow_bodies_are_given_up(weights):
    with running(weights, "--receive-timeout", "0.3") as (_, address):
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as client:
            head = "POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
            client.sendall(head.encode() + b"{")
            with client.makefile() as file:
                answer = file.read()  # to the end: of a body that did not come, nothing more is read
            assert answer.startswith("HTTP/1.1 408 ")
            assert json.loads(answer.split("\n\n")[1])["error"].startswith("the request did not come whole")


@pytest.mark.parametrize(
    ("arguments", "environment", "status", "message"),
    [
        (["--token-file", "{tmp}/none"], {}, 1, "none: No such file"),
        (["--token-file", "{tmp}/empty"], {}, 1, "is empty, it is to hold a token"),
        ([], {"NPR_SERVE_TOKEN": ""}, 1, "a token must be printable"),
        (["--max-files", "100"], {}, 1, "a queue of 64 has no room"),
        (["--port", "{taken}"], {}, 1, "cannot listen on 127.0.0.1, port"),
        (["--host", "192.0.2.1"], {}, 1, "cannot listen on 192.0.2.1"),
        (["--weights", "{tmp}/none"], {}, 1, "none: No such file"),
        (["--queue", "0"], {}, 2, "must be at least 1"),
    ],
)
def test_what_cannot_start_says_why(arguments, environment, status, message, tmp_path, capsys, monkeypatch):
    (tmp_path / "empty").touch()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        places = {"tmp": tmp_path, "taken": taken.getsockname()[1]}
        words = ["serve", "--port", "0", *(argument.format(**places) for argument in arguments)]
        if status == 2:
            with pytest.raises(SystemExit) as ended:
                main(words)
            assert ended.value.code == 2
        else:
            assert main(words) == status
    assert message in capsys.readouterr().err


def test_without_the_packages_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "detector.serve.server", raising=False)
    assert main(["serve"]) == 1
    assert "npr serve needs uvicorn: pip install 'npr-kernels[serve]'" in capsys.readouterr().err


def test_options_mean_what_they_mean_to_npr_detect(weights, file_of, tmp_path, capsys):
    path = tmp_path / "a.jpg"
    path.write_bytes(file_of("JPEG", (60, 44), quality=30))
    options = ["--exact", "--threshold", "0.25", "--no-unsure", "--policy", "centre"]
    with running(weights, *options) as (_, address):
        answer = httpx.post(f"{address}/v1/detect", files=[("files", (str(path), path.read_bytes()))], timeout=60)
    capsys.readouterr()
    assert main(["detect", str(path), "--weights", str(weights), "--json", *options]) == 0
    assert answer.json() == {"results": [json.loads(capsys.readouterr().out)]}
