"""Scans of an object store, and what becomes of them when it does not answer."""

import socket
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from urllib.parse import quote, unquote

import pytest

from detector.cli import main
from detector.scan.seen import Seen
from tests.detector.scan.packages import needed
from tests.detector.scan.rows import as_line, rows_of, told
from tests.detector.scan.store import PAGE, serving

pa, pq, _, listing, locations = needed(
    "pyarrow", "pyarrow.parquet", "pyarrow._s3fs", "detector.scan.listing", "detector.scan.locations"
)


@pytest.fixture
def store():
    with serving() as store:
        yield store


def listed(*uris, **options):
    sources = listing.find_sources(uris, options.pop("column", "path"), options.pop("carried", ()))
    blocks = listing.blocks_of(sources, 3, Seen())
    return [tuple(row.values()) for block in blocks for row in block.to_pylist()]


def read(uri):
    sizes = []
    data = locations.read_uri(uri, sizes.append)
    assert sizes == [len(data)]
    return data


def test_names_are_quoted_and_keep_what_is_for_the_client(store, rng):
    """Page by page; a folder's address with and without a stroke."""
    names = sorted(f"a b/{number}/é+&%41#?=.png" for number in range(rng.integers(PAGE, 4 * PAGE)))
    store.objects = {name: name.encode() for name in [*names, "a b/1.txt", "a b.png", "other/1.png"]}
    found = listed(store.uri("a%20b"), store.uri("a%20b/"))
    assert found == [(store.uri(quote(name)), None) for name in names]
    assert [read(uri).decode() for uri, _ in found] == names
    assert read(store.uri("a b/0/é+&%2541#%3F=.png")).decode() == names[0]


def test_manifests_in_the_store(store):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"path": ["a", "b"], "key": [1, 2]}), sink)
    store.objects = {"x/m.parquet": sink.getvalue().to_pybytes(), "x/m.CSV": b"path,key\nc,3\n"}
    assert listed(store.uri("x/m.parquet"), carried=["key"]) == [("a", None, 1), ("b", None, 2)]
    assert listed(store.uri("x/m.CSV"), carried=["key"]) == [("c", None, "3")]
    with pytest.raises(OSError, match=r"none\.csv\?.* cannot be read \(.*does not exist"):
        listed(store.uri("none.csv"))


def test_what_is_not_there_or_not_given_is_a_row(store):
    other = store.uri("a.png").replace("bucket", "other")
    assert listed(store.uri("none.png"), other) == [(store.uri("none.png"), None), (other, None)]
    ((_, error),) = listed(store.uri("a.png") + "&nonsense=1")
    assert error.startswith("cannot be read (Unexpected query parameter in S3 URI: 'nonsense'")
    for uri, error in ((store.uri("none.png"), "does not exist"), (other, "does not exist")):
        with pytest.raises(locations.UnreachableError, match=rf"^cannot be read \(.*{error}"):
            read(uri)
    store.answers, store.refusal = 0, HTTPStatus.FORBIDDEN
    with pytest.raises(locations.UnreachableError, match=r"^cannot be read \(.*ACCESS_DENIED"):
        read(store.uri("a.png"))
    with pytest.raises(locations.StoreError, match=r"^s3://.* cannot be read \(.*ACCESS_DENIED"):
        listed(store.uri("a"))


def test_a_token_that_has_expired_is_no_row(store):
    store.answers, store.refusal = 0, HTTPStatus.BAD_REQUEST
    with pytest.raises(locations.StoreError, match=r"^s3://.* cannot be read \("):
        read(store.uri("a.png"))


@pytest.mark.slow
def test_a_store_that_does_not_answer_is_no_row(store):
    """Its client tries for some seconds, here side by side."""
    store.answers = 0

    def refused(uri):
        with pytest.raises(locations.StoreError, match=r"^s3://.* cannot be read \("):
            read(uri)
        return uri

    with socket.socket() as nobody, ThreadPoolExecutor() as pool:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        gone = store.uri("a.png").replace(f":{store.server_port}&", f":{nobody.getsockname()[1]}&")
        uris = [store.uri("a.png"), gone]
        assert list(pool.map(refused, uris)) == uris


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_scan_whose_store_goes_away_and_comes_back(pictures, store, tmp_path, scan, detect, weights, capsys, rng):
    files = {str(path.relative_to(pictures)): path for path in pictures.rglob("*.*")}
    store.objects = {f"in/{name}": path.read_bytes() for name, path in files.items()}
    arguments = [store.uri("in"), store.uri("in/none.png"), "--out", str(tmp_path / "out"), "--block-size", "2"]
    store.answers = int(rng.integers(0, 2 * len(files)))  # of two for each object, and those that list
    assert main(["scan", *arguments, "--weights", str(weights)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("npr: error: s3://")
    assert "cannot be read (" in line
    store.answers = float("inf")
    scan(*arguments)

    def local(uri):
        return str(pictures / unquote(uri.partition("?")[0]).removeprefix("s3://key:secret@bucket/in/"))

    rows = [row | {"path": local(row["path"])} for row in rows_of(tmp_path / "out")]
    wanted = detect(pictures)
    assert sorted(row["path"] for row in rows) == sorted([*wanted, str(pictures / "none.png")])
    found = {row["path"]: as_line(row) for row in rows}
    assert "does not exist" in found.pop(str(pictures / "none.png"))["error"]
    assert found == {path: told(line) for path, line in wanted.items()}
