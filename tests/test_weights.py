"""The registry of base weights, and fetching them from a local web server that misbehaves in known ways."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from blosam import download, weights
from blosam.download import RemoteFile
from blosam.errors import BlosamError
from blosam.networks import BloSam
from blosam.weights import Status
from blosam.weightsio import save_state_dict, state_sha256

CONTENT = bytes(range(256)) * 3000  # 768,000 bytes: several chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT on 127.0.0.1. ``plan`` holds one misbehaviour per request; afterwards all is well.

    A number cuts the connection after that many bytes, a string starting with a digit is an error status.
    """

    daemon_threads = True

    def __init__(self, ranges: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.ranges = CONTENT, ranges
        self.plan: list[object] = []
        self.requests: list[str | None] = []
        self.declare_length = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/sam.pth"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.requests.append(wanted)
        step = server.plan.pop(0) if server.plan else None
        if isinstance(step, str) and step[0].isdigit():
            self.send_error(int(step))
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.ranges else 0
        if start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            first = start + 1 if step == "shifted" else start
            self.send_header("Content-Range", f"bytes {first}-{len(server.content) - 1}/{len(server.content)}")
        if server.declare_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:step] if isinstance(step, int) else body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("BLOSAM_WEIGHTS_URL", raising=False)
    monkeypatch.setenv("BLOSAM_WEIGHTS_DIR", str(tmp_path / "cache"))


def serve(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    yield from serve(Server())


@pytest.fixture
def plain_server() -> Iterator[Server]:
    yield from serve(Server(ranges=False))


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def remote(url: str, tmp_path: Path, size: int = len(CONTENT), sha256: str = SHA256) -> RemoteFile:
    return RemoteFile(url, tmp_path / "cache" / "sam.pth", size, sha256)


def get(file: RemoteFile, **settings: object) -> Path:
    return download.download(file, **({"wait": 0.0, "timeout": 5.0, "retries": 2} | settings))


def one_line(error: BaseException, *words: str) -> None:
    assert "\n" not in str(error)
    for word in words:
        assert word in str(error), str(error)


# --- download -----------------------------------------------------------------------------------------------


def test_fetch_then_nothing_more_to_do(server: Server, tmp_path: Path) -> None:
    file = remote(server.url, tmp_path)
    assert get(file) == file.target
    assert file.target.read_bytes() == CONTENT
    assert not file.part.exists()
    get(file)
    assert server.requests == [None]


@pytest.mark.parametrize("cuts", [[300_000], [1, 100_000, 300_000], [300_000, "503", 200_000, "429"]])
def test_cut_connections_are_resumed(cuts: list[object], server: Server, tmp_path: Path) -> None:
    server.plan = list(cuts)
    file = remote(server.url, tmp_path)
    get(file)
    assert file.target.read_bytes() == CONTENT
    received, expected = 0, [None]
    for cut in cuts:
        received += cut if isinstance(cut, int) else 0
        expected.append(f"bytes={received}-")
    assert server.requests == expected


def test_a_later_fetch_goes_on_where_an_earlier_one_stopped(server: Server, tmp_path: Path) -> None:
    server.plan = [200_000, "500", "500", "500"]
    file = remote(server.url, tmp_path)
    with pytest.raises(BlosamError, match="200,000 bytes are kept") as caught:
        get(file)
    one_line(caught.value, server.url, str(file.target), "by hand", "500")
    assert file.part.read_bytes() == CONTENT[:200_000]
    assert not file.target.exists()
    server.requests.clear()
    server.plan = []
    get(file)
    assert server.requests == ["bytes=200000-"]
    assert file.target.read_bytes() == CONTENT


def test_complete_part_needs_no_connection(tmp_path: Path, closed_port: int) -> None:
    file = remote(f"http://127.0.0.1:{closed_port}/sam.pth", tmp_path)
    file.part.parent.mkdir()
    file.part.write_bytes(CONTENT)
    get(file)
    assert file.target.read_bytes() == CONTENT


def test_server_without_ranges_starts_again(plain_server: Server, tmp_path: Path) -> None:
    plain_server.plan = [300_000]
    file = remote(plain_server.url, tmp_path)
    get(file)
    assert file.target.read_bytes() == CONTENT
    assert plain_server.requests == [None, "bytes=300000-"]


def test_server_without_ranges_that_always_cuts_is_given_up(plain_server: Server, tmp_path: Path) -> None:
    plain_server.plan = [300_000] * 50
    with pytest.raises(BlosamError, match="closed the connection early"):
        get(remote(plain_server.url, tmp_path))
    assert len(plain_server.requests) < 10


@pytest.mark.parametrize("excess", [0, 10])
def test_unusable_part_starts_again(excess: int, server: Server, tmp_path: Path) -> None:
    """Longer than the file here, or longer than the server's (answer 416)."""
    file = remote(server.url, tmp_path)
    file.part.parent.mkdir()
    file.part.write_bytes(b"x" * (len(CONTENT) + excess))
    if excess:
        get(file)
    else:
        with pytest.raises(BlosamError, match="was deleted"):
            get(file)
    get(file)
    assert file.target.read_bytes() == CONTENT


@pytest.mark.parametrize("step", ["416", "shifted"])
def test_refused_or_wrong_range_starts_again(step: str, server: Server, tmp_path: Path) -> None:
    server.plan = [1000, step]
    file = remote(server.url, tmp_path)
    get(file)
    assert server.requests == [None, "bytes=1000-", None]
    assert file.target.read_bytes() == CONTENT


@pytest.mark.parametrize("status", ["403", "404", "410", "401"])
def test_refusal_is_final(status: str, server: Server, tmp_path: Path) -> None:
    server.plan = [status] * 5
    file = remote(server.url, tmp_path)
    with pytest.raises(BlosamError, match=f"refuses it \\({status}") as caught:
        get(file)
    one_line(caught.value, server.url, str(file.target), "BLOSAM_WEIGHTS_URL")
    assert len(server.requests) == 1
    assert not file.target.exists() and not file.part.exists()


def test_offline_names_address_file_and_folder(closed_port: int, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{closed_port}/sam.pth"
    file = remote(url, tmp_path)
    with pytest.raises(BlosamError, match="no connection") as caught:
        get(file)
    one_line(caught.value, url, str(file.target), f"{len(CONTENT):,} bytes", "by hand")
    assert not file.target.exists()


def test_unknown_host_is_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_name(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", no_name)
    with pytest.raises(BlosamError, match="name resolution") as caught:
        get(remote("https://weights.example/sam.pth", tmp_path))
    one_line(caught.value, "by hand")


def test_silent_server_times_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/sam.pth"
        with pytest.raises(BlosamError, match="timed out"):
            get(remote(url, tmp_path), timeout=0.1, retries=1)


def test_retries_wait_longer_every_time(closed_port: int, tmp_path: Path, monkeypatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(download.time, "sleep", waits.append)
    with pytest.raises(BlosamError):
        get(remote(f"http://127.0.0.1:{closed_port}/sam.pth", tmp_path), wait=1.0, retries=4)
    assert waits == [1.0, 2.0, 4.0, 8.0]


def test_corruption_is_deleted_and_named(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"!"
    file = remote(server.url, tmp_path)
    with pytest.raises(BlosamError, match="damaged or another one") as caught:
        get(file)
    one_line(caught.value, server.url, SHA256, hashlib.sha256(server.content).hexdigest(), "Fetch it again")
    assert not file.target.exists() and not file.part.exists()


def test_damaged_file_in_place_is_fetched_again(server: Server, tmp_path: Path) -> None:
    file = remote(server.url, tmp_path)
    file.target.parent.mkdir()
    file.target.write_bytes(CONTENT[:-1] + b"!")
    get(file)
    assert file.target.read_bytes() == CONTENT


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("content", [CONTENT + b"more", b"<html>log in</html>"])
def test_file_of_another_size(content: bytes, declared: bool, server: Server, tmp_path: Path) -> None:
    server.content, server.declare_length = content, declared
    file = remote(server.url, tmp_path)
    with pytest.raises(BlosamError) as caught:
        get(file)
    if declared:
        one_line(caught.value, f"offers {len(content):,} bytes instead of {len(CONTENT):,}")
        assert len(server.requests) == 1
        assert not file.part.exists()
    assert not file.target.exists()


def test_another_size_does_not_cost_what_was_received(server: Server, tmp_path: Path) -> None:
    file = remote(server.url, tmp_path)
    file.part.parent.mkdir()
    file.part.write_bytes(CONTENT[:5000])
    server.content, server.ranges = b"<html>log in</html>", False
    with pytest.raises(BlosamError, match="log-in page"):
        get(file)
    assert file.part.read_bytes() == CONTENT[:5000]


def test_concurrent_fetches_make_one_request(server: Server, tmp_path: Path, caplog) -> None:
    file = remote(server.url, tmp_path)
    with caplog.at_level(logging.WARNING, "blosam"), ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: get(file), range(4)))
    assert results == [file.target] * 4
    assert server.requests == [None]
    assert file.target.read_bytes() == CONTENT


def test_full_disk_is_seen_before_fetching(server: Server, tmp_path: Path, monkeypatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(BlosamError, match="768,000 bytes are still to come, only 1,000 are free") as caught:
        get(remote(server.url, tmp_path))
    one_line(caught.value, "BLOSAM_WEIGHTS_DIR")
    assert server.requests == []


def test_disk_that_fills_up_keeps_what_was_received(server: Server, tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    file = remote(server.url, tmp_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(BlosamError, match="goes on where it stopped") as caught:
            get(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    one_line(caught.value, str(file.part))
    assert file.part.read_bytes() == CONTENT[:100_000]
    get(file)
    assert server.requests == [None, "bytes=100000-"]
    assert file.target.read_bytes() == CONTENT


def test_interrupt_keeps_what_was_received(server: Server, tmp_path: Path, monkeypatch) -> None:
    file = remote(server.url, tmp_path)
    real = download._chunks

    def interrupted(response):
        yield next(real(response))
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "_chunks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        get(file)
    kept = file.part.read_bytes()
    assert 0 < len(kept) < len(CONTENT) and kept == CONTENT[: len(kept)]
    monkeypatch.undo()
    get(file)  # the lock was given back
    assert file.target.read_bytes() == CONTENT


def test_a_folder_in_the_files_place_is_named_and_nothing_is_transferred_twice(server: Server, tmp_path: Path) -> None:
    file = remote(server.url, tmp_path)
    (file.target / "inside").mkdir(parents=True)
    with pytest.raises(BlosamError) as caught:
        get(file)
    one_line(caught.value, str(file.target), "Remove what is in its place")
    (file.target / "inside").rmdir()
    file.target.rmdir()
    before = len(server.requests)
    assert get(file).read_bytes() == CONTENT
    assert len(server.requests) == before


def test_a_link_to_a_shared_copy_is_used_as_it_is(closed_port: int, tmp_path: Path) -> None:
    shared = tmp_path / "shared.pth"
    shared.write_bytes(CONTENT)
    file = remote(f"http://127.0.0.1:{closed_port}/sam.pth", tmp_path)
    file.target.parent.mkdir(parents=True)
    file.target.symlink_to(shared)
    assert get(file) == file.target and file.target.is_symlink()


def test_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(BlosamError, match="cannot write to this folder"):
        get(remote(server.url, tmp_path))


@pytest.mark.parametrize("url", ["file:///etc/passwd", "sam.pth", "ftp://weights.example/sam.pth"])
def test_only_web_addresses(url: str, tmp_path: Path) -> None:
    with pytest.raises(BlosamError, match="https://"):
        get(remote(url, tmp_path))


# --- registry -----------------------------------------------------------------------------------------------


@pytest.fixture
def small_vit_b(monkeypatch: pytest.MonkeyPatch, server: Server) -> Path:
    """Puts CONTENT into the registry in place of vit_b; returns where it belongs."""
    entry = weights.Weights("vit_b", "vit_b", "sam.pth", server.url, len(CONTENT), SHA256)
    monkeypatch.setitem(weights.REGISTRY, "vit_b", entry)
    return entry.path


def test_registry_values() -> None:
    assert list(weights.REGISTRY) == ["tiny", "vit_b", "vit_l", "vit_h"]
    for name, size in {"vit_b": 375_042_383, "vit_l": 1_249_524_607, "vit_h": 2_564_550_879}.items():
        entry = weights.REGISTRY[name]
        assert entry.encoder == name and entry.bytes == size and entry.licence == "Apache-2.0"
        assert entry.url == "https://dl.fbaipublicfiles.com/segment_anything/" + entry.file_name
        assert entry.file_name.startswith(f"sam_{name}_") and entry.file_name.endswith(".pth")
        assert len(bytes.fromhex(entry.sha256)) == 32


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BLOSAM_WEIGHTS_DIR", "~/mine")
    assert weights.cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("BLOSAM_WEIGHTS_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert weights.cache_dir() == tmp_path / "xdg" / "blosam"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert weights.cache_dir() == tmp_path / ".cache" / "blosam"
    assert not (tmp_path / ".cache").exists()


def test_fetch_find_verify_and_remember(small_vit_b: Path, server: Server, monkeypatch) -> None:
    assert weights.find("vit_b") is None and weights.verify("vit_b") is Status.MISSING
    assert weights.fetch("vit_b") == small_vit_b == weights.find("vit_b")
    assert weights.is_verified("vit_b") and weights.verify("vit_b") is Status.OK
    monkeypatch.setattr(download, "_sha256", lambda path: pytest.fail("read the whole file again"))
    weights.fetch("vit_b")
    assert server.requests == [None]


@pytest.mark.parametrize(
    ("content", "status"), [(CONTENT[:-1], Status.WRONG_SIZE), (CONTENT[:-1] + b"!", Status.WRONG_SHA256)]
)
def test_changed_files_are_noticed(content: bytes, status: Status, small_vit_b: Path, server: Server) -> None:
    weights.fetch("vit_b")
    small_vit_b.write_bytes(content)
    os.utime(small_vit_b, ns=(1, 1))
    assert not weights.is_verified("vit_b")
    assert weights.verify("vit_b") is status
    with pytest.raises(BlosamError, match=status.value) as caught:
        weights._require_verified("vit_b")
    one_line(caught.value, str(small_vit_b), "weights fetch vit_b")
    weights.fetch("vit_b")
    assert weights.verify("vit_b") is Status.OK


@pytest.mark.parametrize("note", ["", "[]", "null", "{}", '{"bytes": 1}', "\x00"])
def test_broken_note_means_not_verified(note: str, small_vit_b: Path) -> None:
    weights.fetch("vit_b")
    small_vit_b.with_name("sam.pth.verified").write_text(note)
    assert not weights.is_verified("vit_b")
    assert weights.verify("vit_b") is Status.OK and weights.is_verified("vit_b")


def test_read_only_cache_is_used_without_a_note(small_vit_b: Path, monkeypatch) -> None:
    small_vit_b.parent.mkdir()
    small_vit_b.write_bytes(CONTENT)

    def refuse(*args: object, **kwargs: object) -> None:
        raise BlosamError("cannot write")

    monkeypatch.setattr(weights, "atomic_write", refuse)
    weights._require_verified("vit_b")
    assert os.listdir(small_vit_b.parent) == ["sam.pth"]


def test_mirror(small_vit_b: Path, server: Server, monkeypatch) -> None:
    monkeypatch.setitem(
        weights.REGISTRY,
        "vit_b",
        weights.Weights("vit_b", "vit_b", "sam.pth", "https://weights.example/x.pth", len(CONTENT), SHA256),
    )
    monkeypatch.setenv("BLOSAM_WEIGHTS_URL", f"http://127.0.0.1:{server.server_port}/mirror/")
    assert weights.fetch("vit_b").read_bytes() == CONTENT
    small_vit_b.unlink()
    monkeypatch.setenv("BLOSAM_WEIGHTS_URL", "not a mirror")
    assert weights.fetch("vit_b", url=server.url).read_bytes() == CONTENT


@pytest.mark.parametrize("function", [weights.get, weights.find, weights.fetch, weights.verify, weights.resolve_base])
def test_unknown_names_list_the_known_ones(function) -> None:
    with pytest.raises(BlosamError, match="'vit_x'.*tiny, vit_b, vit_l, vit_h"):
        function("vit_x")


# --- base weights -------------------------------------------------------------------------------------------


def test_resolve_base(small_vit_b: Path, tmp_path: Path) -> None:
    assert weights.resolve_base("vit_b", "random") is None
    with pytest.raises(BlosamError) as caught:
        weights.resolve_base("vit_b")
    one_line(caught.value, str(small_vit_b), "`blosam weights fetch vit_b`", "http://127.0.0.1")
    with pytest.raises(BlosamError, match="no such file") as caught:
        weights.resolve_base("vit_b", tmp_path / "mine.pth")
    one_line(caught.value, str(tmp_path / "mine.pth"), "`blosam weights fetch vit_b`")
    weights.fetch("vit_b")
    assert weights.resolve_base("vit_b") == small_vit_b
    (tmp_path / "mine.pth").touch()
    assert weights.resolve_base("vit_b", str(tmp_path / "mine.pth")) == tmp_path / "mine.pth"


def test_missing_packaged_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "ASSETS", tmp_path)
    assert weights.find("tiny") is None and weights.verify("tiny") is Status.MISSING
    for function in (weights.fetch, weights.resolve_base):
        with pytest.raises(BlosamError, match="not in this installation. Install blosam again"):
            function("tiny")
    (tmp_path / "tiny.safetensors").write_bytes(b"damaged")
    with pytest.raises(BlosamError, match="truncated"):
        weights.verify("tiny")


def test_packaged_weights_are_intact() -> None:
    if weights.find("tiny") is None:
        assert weights.verify("tiny") is Status.MISSING  # a checkout before the first pretraining
    else:
        assert weights.verify("tiny") is Status.OK
        assert weights.fetch("tiny") == weights.resolve_base("tiny") == weights.find("tiny")


def tiny() -> BloSam:
    return BloSam(encoder="tiny", image_size=64, out_channels=2)


def test_random_base_leaves_the_network_alone() -> None:
    network = tiny()
    before = state_sha256(network.state_dict())
    assert weights.load_base(network, "random") is network
    assert state_sha256(network.state_dict()) == before


def test_base_reaches_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    from blosam.networks.sam import build_sam

    torch.manual_seed(3)
    base = {name: torch.rand_like(tensor) for name, tensor in build_sam("tiny", 64).state_dict().items()}
    monkeypatch.setattr(weights, "ASSETS", tmp_path)
    save_file(base, tmp_path / "tiny.safetensors")
    network, named = tiny(), tiny()
    assert weights.load_base(network) is network
    weights.load_base(named, tmp_path / "tiny.safetensors")
    frozen = [name for name in network.state_dict() if name.startswith("image_encoder.") and name in base]
    assert len(frozen) > 10
    for name in frozen:
        assert torch.equal(network.state_dict()[name], base[name])
        assert torch.equal(named.state_dict()[name], base[name])


def test_fetched_base_is_verified_before_it_is_loaded(small_vit_b: Path, monkeypatch) -> None:
    small_vit_b.parent.mkdir()
    small_vit_b.write_bytes(CONTENT[:-1] + b"!")

    class Stub:
        encoder_name = "vit_b"

    loaded: list[Path] = []
    monkeypatch.setattr("blosam.networks.load_base", lambda network, path: loaded.append(path))
    with pytest.raises(BlosamError, match="wrong sha256"):
        weights.load_base(Stub())
    assert loaded == []
    weights.load_base(Stub(), small_vit_b)  # a path is the user's own choice
    small_vit_b.write_bytes(CONTENT)
    weights.load_base(Stub())
    assert loaded == [small_vit_b, small_vit_b]
    assert json.loads(small_vit_b.with_name("sam.pth.verified").read_text())["sha256"] == SHA256


def test_other_files_are_refused_by_the_network(tmp_path: Path) -> None:
    save_state_dict({"a": torch.ones(1)}, tmp_path / "mine.pth")
    with pytest.raises(BlosamError, match=r"mine\.pth"):
        weights.load_base(tiny(), tmp_path / "mine.pth")
