from __future__ import annotations

import email.utils
import gzip
import os
import socket
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from blosam.pacs.access import Access, Token
from blosam.pacs.errors import AccessRefused, ArchiveError, Unreachable
from blosam.pacs.session import ArchiveSession, retry_after, waiting_time

SECRET_PATH = "/studies/1.2.3.4.5"  # stands for an identifier, which no message may hold


@pytest.fixture
def session(small_archive):
    waits: list[float] = []

    def make(**options) -> ArchiveSession:
        made = ArchiveSession(Access(small_archive.url, **{"retries": 3, **options}), waits.append)
        made.waits = waits
        return made

    return make


def get(session: ArchiveSession, path: str = "/studies"):
    return session.get(session.access.url + path)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_passing_troubles_are_repeated(small_archive, session, fault, status):
    small_archive.faults = [fault("GET", status=status, times=2)]
    made = session()
    assert get(made).json() == []
    assert small_archive.asked("GET") == 3
    assert 0.5 <= made.waits[0] <= 1.5
    assert 1.0 <= made.waits[1] <= 3.0


@pytest.mark.parametrize("status", [400, 404, 409, 500])
def test_other_answers_are_handed_on_at_once(small_archive, session, fault, status):
    small_archive.faults = [fault("GET", status=status, times=9)]
    assert get(session()).status_code == status
    assert small_archive.asked("GET") == 1


@pytest.mark.parametrize(("status", "word"), [(401, "who you are"), (403, "does not allow")])
def test_refused_access_is_one_clear_line(small_archive, session, fault, status, word):
    small_archive.faults = [fault("GET", status=status, times=9)]
    with pytest.raises(AccessRefused, match=rf"{word}.*HTTP {status}.*--token-file FILE") as caught:
        get(session(), SECRET_PATH)
    assert small_archive.asked("GET") == 1
    assert "\n" not in str(caught.value)
    assert "1.2.3" not in str(caught.value)


def test_retry_after_is_heeded(small_archive, session, fault):
    small_archive.faults = [fault("GET", status=429, headers={"Retry-After": "17"})]
    made = session()
    get(made)
    assert made.waits == [17.0]


def test_retry_after_as_date_and_nonsense():
    assert 28 < retry_after(email.utils.formatdate(time.time() + 30, usegmt=True)) <= 31
    assert retry_after(email.utils.formatdate(time.time() - 30, usegmt=True)) == 0
    assert retry_after("soon") is None
    assert retry_after(None) is None
    assert waiting_time(0, 1.0, 1e9) == 300.0


def test_waits_double_up_to_a_limit_and_differ():
    first = {waiting_time(0, 1.0) for _ in range(50)}
    assert len(first) > 40
    assert min(first) >= 0.5
    assert max(first) <= 1.5
    assert 16 <= waiting_time(5, 1.0) <= 48
    assert waiting_time(30, 1.0) <= 90


def test_lost_connections_are_repeated(small_archive, session, fault):
    small_archive.faults = [fault("GET", close=True, times=2)]
    assert get(session()).ok
    assert small_archive.asked("GET") == 3


def test_lost_connection_in_a_post_repeats_the_same_body(small_archive, session, fault, radiographs):
    small_archive.faults = [fault("POST", close=True)]
    (path,) = radiographs(1)
    body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + path.read_bytes() + b"\r\n--b--"
    answer = session().post(small_archive.url + "/studies", data=body, headers={"Content-Type": "x; boundary=b"})
    assert answer.ok
    assert small_archive.asked("POST") == 2
    assert small_archive.kinds() == {"DX": 1}


def test_server_that_is_down():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    waits: list[float] = []
    session = ArchiveSession(Access(url, retries=2), waits.append)
    with pytest.raises(Unreachable, match="connection refused, also after 2 retries") as caught:
        session.get(url + SECRET_PATH)
    assert len(waits) == 2
    assert "1.2.3" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_broken_multipart_is_repeated_then_refused(small_archive, session, fault, radiographs):
    (path,) = radiographs(1)
    small_archive.add(path)
    (uid,) = small_archive.files
    small_archive.faults = [fault("GET", cut=40, times=1)]
    where = f"/studies/1/series/2/instances/{uid}"
    assert get(session(), where).content.endswith(b"--limit--\r\n")
    assert small_archive.asked("GET") == 2
    small_archive.faults = [fault("GET", cut=40, times=9)]
    with pytest.raises(Unreachable, match="broke off"):
        get(session(), where)


def test_body_shorter_than_announced_is_repeated(small_archive, session, fault):
    small_archive.faults = [fault("GET", cut=1, headers={"Content-Length": "2", "Connection": "close"})]
    made = session(read_timeout=0.5)
    assert get(made).json() == []
    assert small_archive.asked("GET") == 2


def test_silent_server_runs_into_the_timeout(small_archive, session, fault):
    small_archive.faults = [fault("GET", drip=1.0, times=9)]
    start = time.monotonic()
    with pytest.raises(Unreachable, match="connection fails|no answer in time"):
        get(session(read_timeout=0.1, retries=1))
    assert time.monotonic() - start < 5


def test_dripping_server_runs_into_the_limit_of_the_whole(small_archive, session, fault, radiographs):
    small_archive.add(*radiographs(1))
    small_archive.faults = [fault("GET", drip=0.05, times=9)]
    start = time.monotonic()
    with pytest.raises(Unreachable, match="takes too long|no answer in time"):
        session(read_timeout=0.08, retries=0).get(small_archive.url + "/studies")
    assert time.monotonic() - start < 6  # the whole answer takes 20 s


def test_connection_is_kept_between_requests(small_archive, session):
    made = session()
    for _ in range(3):
        get(made)
    assert len(small_archive.clients) == 1


def test_compressed_answers(small_archive, session, fault):
    small_archive.faults = [
        fault("GET", status=200, headers={"Content-Encoding": "gzip"}, answer=gzip.compress(b"[1, 2]"))
    ]
    assert get(session()).json() == [1, 2]


def test_endless_answer_is_stopped(small_archive, session, radiographs, monkeypatch):
    monkeypatch.setattr("blosam.pacs.session.MAX_ANSWER", 100)
    small_archive.add(*radiographs(1))
    with pytest.raises(ArchiveError, match="more than"):
        get(session())


def test_redirections_are_not_followed(small_archive, session, fault):
    small_archive.faults = [fault("GET", status=302, headers={"Location": "http://127.0.0.1:1/elsewhere"})]
    with pytest.raises(ArchiveError, match="redirects"):
        get(session())


def test_token_goes_out_and_netrc_and_proxies_do_not(small_archive, session, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login wrong password person\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    get(session(token=Token(text="abc"), headers={"X-Site": "7"}))
    assert small_archive.headers[-1]["Authorization"] == "Bearer abc"
    assert small_archive.headers[-1]["X-Site"] == "7"
    get(session())
    assert "Authorization" not in small_archive.headers[-1]


@pytest.fixture
def tls_server(tmp_path):
    """An https server whose certificate no usual authority has signed: its address and its certificate."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        + ["-keyout", key, "-out", certificate, "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True,
        capture_output=True,
    )

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"[]")

    class Quiet(HTTPServer):
        def handle_error(self, *_: object) -> None:
            pass

    server = Quiet(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{server.server_address[1]}", certificate
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.mark.filterwarnings("ignore:Unverified HTTPS")
def test_certificates_are_verified(tls_server):
    url, certificate = tls_server
    with pytest.raises(Unreachable, match="certificate is not trusted.*--ca-bundle"):
        ArchiveSession(Access(url)).get(url + SECRET_PATH)
    assert ArchiveSession(Access(url, ca_bundle=certificate)).get(url).ok
    assert ArchiveSession(Access(url, insecure=True)).get(url).ok


@pytest.mark.filterwarnings("ignore:Unverified HTTPS")
def test_environment_cannot_change_verification(tls_server, monkeypatch):
    url, certificate = tls_server
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", os.devnull)
    monkeypatch.setenv("CURL_CA_BUNDLE", os.devnull)
    assert ArchiveSession(Access(url, ca_bundle=certificate)).get(url).ok
    assert ArchiveSession(Access(url, insecure=True)).get(url).ok
