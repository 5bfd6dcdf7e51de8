"""Checkpoints in buckets and on web servers: a server that speaks S3, and one of plain folders."""

import functools
import http.server
import sys
import threading

import pytest
import torch

from sourcetrace.checkpoints.folder import CheckpointFolder
from sourcetrace.checkpoints.places.fetched import fetch
from sourcetrace.checkpoints.places.filesystems import FileSystemSource
from sourcetrace.errors import InputError
from tests.checkpoints.test_folder import checkpoint

# Of botocore, aiobotocore and moto's server, and of sockets that s3fs leaves to the collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def endpoint():
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint, monkeypatch):
    """A client of a bucket with two checkpoints and what else lies beside them."""
    boto3 = pytest.importorskip("boto3")
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": endpoint,
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="trainings")
    yield client
    for one in client.list_objects_v2(Bucket="trainings").get("Contents", []):
        client.delete_object(Bucket="trainings", Key=one["Key"])
    client.delete_bucket(Bucket="trainings")


def put(client, tmp_path, **files):
    for name, step in files.items():
        torch.save(checkpoint(step), tmp_path / "a.pt")
        client.put_object(
            Bucket="trainings", Key=f"run/{name}.pt", Body=(tmp_path / "a.pt").read_bytes()
        )


def fetched(address, tmp_path, **options):
    source = FileSystemSource(address, options)
    place = fetch(source, str(tmp_path / "cache"))
    return place, sorted(one.name for one in place.parent.glob(f"{place.name}/**/*"))


def test_a_bucket_is_read_and_read_again_where_it_changed(bucket, tmp_path):
    put(bucket, tmp_path, step_1=1, step_2=2)
    bucket.put_object(Bucket="trainings", Key="run/log.txt", Body=b"x")
    bucket.put_object(Bucket="trainings", Key="run-2/step_9.pt", Body=b"x")
    folder, names = fetched("s3://trainings/run", tmp_path)
    assert names == ["step_1.pt", "step_2.pt"]
    digests = CheckpointFolder(folder).file_digests()
    kept = (folder / "step_1.pt").stat().st_mtime_ns
    put(bucket, tmp_path, step_2=3)  # as many bytes
    bucket.delete_object(Bucket="trainings", Key="run/log.txt")
    assert fetched("s3://trainings/run/", tmp_path)[1] == names
    assert fetched("s3://trainings/run", tmp_path) == (folder, names)
    now = CheckpointFolder(folder).file_digests()
    assert [now[name] == digests[name] for name in names] == [True, False]
    assert (folder / "step_1.pt").stat().st_mtime_ns == kept


def test_a_file_of_a_bucket_is_one_checkpoint(bucket, tmp_path):
    put(bucket, tmp_path, step_1=1, step_2=2)
    place, _ = fetched("s3://trainings/run/step_2.pt", tmp_path)
    assert place.is_file()
    assert [one.name for one in place.parent.iterdir()] == ["step_2.pt"]


def test_credentials_may_come_from_the_options_and_are_never_said(
    bucket, endpoint, tmp_path, monkeypatch
):
    put(bucket, tmp_path, step_1=1)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name)
    options = {"key": "AKIAOWN", "secret": "s3cr3t-word", "endpoint_url": endpoint}
    assert fetched("s3://trainings/run", tmp_path, **options)[1] == ["step_1.pt"]
    with pytest.raises(InputError) as caught:
        fetched("s3://not-there/run", tmp_path, **options)
    assert "s3cr3t" not in str(caught.value)
    with pytest.raises(InputError, match=r"cannot be read: .*\*\*\*") as caught:
        fetched("s3://trainings/run", tmp_path, **{**options, "endpoint_url": "s3cr3t-place"})
    assert "s3cr3t" not in str(caught.value)


def test_names_of_a_bucket_stay_in_the_cache(bucket, tmp_path):
    bucket.put_object(Bucket="trainings", Key="run/../../../evil.pt", Body=b"x")
    put(bucket, tmp_path, step_1=1)
    with pytest.raises(InputError, match="outside the folder"):
        fetched("s3://trainings/run", tmp_path)
    assert not list(tmp_path.rglob("evil.pt"))


def test_a_server_that_is_away_and_a_bucket_that_is_not_there_end_in_a_paragraph(
    bucket, tmp_path, monkeypatch
):
    with pytest.raises(InputError, match=r"checkpoints: .*s3://no-such-bucket/run"):
        fetched("s3://no-such-bucket/run", tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(InputError, match=r"cannot be read: .* AWS_ENDPOINT_URL_S3"):
        fetched("s3://trainings/run", tmp_path)


def test_a_missing_library_is_named_by_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(InputError, match=r"pip install 'sourcetrace\[s3\]'"):
        FileSystemSource("s3a://trainings/run", {})  # not imported by another test
    with pytest.raises(InputError, match=r"needs a library that is not installed.*gcsfs"):
        FileSystemSource("gs://trainings/run", {})


def test_an_unknown_scheme_is_refused_without_its_password():
    with pytest.raises(InputError, match=r"foo://\*\*\*@host/run begins with foo:"):
        FileSystemSource("foo://user:word@host/run", {})


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def web(tmp_path):
    (tmp_path / "web/run").mkdir(parents=True)
    handler = functools.partial(_Quiet, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", tmp_path / "web/run"
        server.shutdown()


def test_a_web_server_that_lists_its_folders_is_read(web, tmp_path):
    address, folder = web
    for step in (1, 2):
        torch.save(checkpoint(step), folder / f"step_{step}.pt")
    (folder / "log.txt").write_text("x")
    assert fetched(f"{address}/run", tmp_path)[1] == ["step_1.pt", "step_2.pt"]
    (folder / "later/on").mkdir(parents=True)
    torch.save(checkpoint(3), folder / "later/on/step_3.pt")
    place, names = fetched(f"{address}/run", tmp_path)
    assert "step_3.pt" in names
    assert (place / "later/on/step_3.pt").is_file()
    place, _ = fetched(f"{address}/run/step_2.pt", tmp_path)
    assert place.read_bytes() == (folder / "step_2.pt").read_bytes()
    (folder / "index.html").write_text("no listing")
    with pytest.raises(InputError, match=r"nothing that is read lies at|cannot be listed"):
        fetched(f"{address}/run", tmp_path)


def test_a_web_server_that_is_away_is_said_to_be(tmp_path):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Quiet) as server:
        port = server.server_port
    with pytest.raises(InputError, match=r"the server of http://.*/run/\?\*\*\* did not answer"):
        fetched(f"http://127.0.0.1:{port}/run/?sig=SIGNED", tmp_path)


class _Endless(_Quiet):
    protocol_version = "HTTP/1.1"
    sent = 0

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()

    def do_GET(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for _ in range(200):
                self.wfile.write(b"%x\r\n" % 2**20 + bytes(2**20) + b"\r\n")
                type(self).sent += 1
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True


def test_a_server_that_sends_more_than_it_said_is_stopped(tmp_path):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Endless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(InputError, match=r"step_1\.pt is longer than the 100 bytes"):
            fetched(f"http://127.0.0.1:{server.server_port}/step_1.pt", tmp_path)
        server.shutdown()
    assert _Endless.sent < 100
    assert not list(tmp_path.rglob("step_1.pt"))
