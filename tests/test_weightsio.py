"""Atomic saving, strict loading, digests and adapter files."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import pickle
import resource
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from blosam import atomicio, weightsio
from blosam.errors import BlosamError
from blosam.networks import BloSam


class SmallNet(nn.Module):
    """The part of BloSam's interface that adapter files use: frozen encoder, trained head, prompt."""

    def __init__(self, seed: int = 0, width: int = 4, out_channels: int = 2) -> None:
        super().__init__()
        self.encoder_name, self.image_size, self.out_channels, self.structure = "tiny", 64, out_channels, {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = nn.Linear(3, width)
            self.pos_embed = nn.Parameter(torch.randn(1, width), requires_grad=False)
            self.head = nn.Linear(width, out_channels)
            self.iou_head = nn.Linear(width, 1)
            self.prompt = nn.Parameter(torch.randn(1, width))
        self.register_buffer("steps", torch.tensor(3))

    def weight_parameters(self, iou_head: bool = False) -> list[nn.Parameter]:
        return [*self.head.parameters(), *(self.iou_head.parameters() if iou_head else ())]

    def prompt_parameters(self) -> list[nn.Parameter]:
        return [self.prompt]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x) + self.pos_embed + self.prompt)


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """Let no file grow beyond ``limit`` bytes: the kernel then refuses writes as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class FullDisk(io.FileIO):
    """A file on a disk with room for 1000 bytes."""

    def write(self, data) -> int:
        if self.tell() + memoryview(data).nbytes > 1000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


def assert_one_line(error: BaseException, *words: str) -> None:
    message = str(error)
    assert "\n" not in message and len(message) < 700
    for word in words:
        assert word in message, message


# --- atomic writing -----------------------------------------------------------------------------------------


def test_state_dict_round_trip(tmp_path: Path) -> None:
    state = {
        "a": torch.arange(6.0).reshape(2, 3),
        "b": torch.tensor(7),
        "half": torch.ones(2, dtype=torch.bfloat16),
    }
    path = tmp_path / "models" / "model.pt"
    weightsio.save_state_dict(state, path)
    loaded = torch.load(path, weights_only=True)
    assert list(loaded) == list(state)
    for name, tensor in state.items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor)
    assert os.listdir(path.parent) == ["model.pt"]


def test_views_are_saved_without_the_tensor_they_look_at(tmp_path: Path) -> None:
    weightsio.save_state_dict({"row": torch.zeros(1000, 1000)[0]}, tmp_path / "model.pt")
    assert (tmp_path / "model.pt").stat().st_size < 10_000


@pytest.mark.parametrize("state", [{}, {"a": {"b": torch.ones(1)}}, {"epoch": 3}, {1: torch.ones(1)}])
def test_only_flat_tensors_are_saved(state: dict, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"old")
    with pytest.raises(BlosamError, match="flat state dict") as caught:
        weightsio.save_state_dict(state, path)
    assert_one_line(caught.value, str(path))
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("size", [10, 100_000])
def test_full_disk_keeps_the_old_file(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.pt"
    weightsio.save_state_dict({"a": torch.ones(3)}, path)
    before = path.read_bytes()
    opener = lambda name, mode, encoding=None: io.BufferedWriter(FullDisk(name, mode), 64)  # noqa: E731
    monkeypatch.setattr(atomicio, "open", opener, raising=False)
    with pytest.raises(BlosamError, match="the disk is full. Free some space") as caught:
        weightsio.save_state_dict({"a": torch.ones(size)}, path)
    assert_one_line(caught.value, str(path), "previous file is untouched")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.pt"]


def test_file_size_limit_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    weightsio.save_state_dict({"a": torch.ones(3)}, path)
    before = path.read_bytes()
    with file_size_limit(200_000), pytest.raises(BlosamError, match="size limit") as caught:
        weightsio.save_state_dict({f"a{i}": torch.ones(50_000) for i in range(4)}, path)
    assert_one_line(caught.value, str(path))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.pt"]


def test_full_disk_keeps_the_old_torchscript_file(tmp_path: Path) -> None:
    path = tmp_path / "model.ts"
    path.write_bytes(b"old")
    module = torch.jit.script(nn.Linear(500, 500))
    with file_size_limit(200_000), pytest.raises(BlosamError, match="size limit"):
        with atomicio.atomic_write(path) as file:
            torch.jit.save(module, file)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.ts"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_failing_flush_or_rename(function: str, number: int, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomicio.os, function, fail)
    with pytest.raises(BlosamError) as caught, atomicio.atomic_write(path, "w") as file:
        file.write("new")
    monkeypatch.undo()
    assert_one_line(caught.value, str(path), "untouched")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.html"]


def test_folder_without_write_permission() -> None:
    folder = Path(tempfile.mkdtemp())  # not tmp_path: another user could not even enter that
    path = folder / "model.pt"
    path.write_bytes(b"old")
    folder.chmod(0o555)
    root = os.geteuid() == 0
    try:
        if root:  # permissions do not bind root
            os.seteuid(65534)
        with pytest.raises(BlosamError, match="permission is denied. Make the folder writable") as caught:
            weightsio.save_state_dict({"a": torch.ones(1)}, path)
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)
    assert_one_line(caught.value, str(path))
    assert path.read_bytes() == b"old"
    assert os.listdir(folder) == ["model.pt"]
    shutil.rmtree(folder)


def test_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(BlosamError, match="is a file, not a folder"):
        weightsio.save_state_dict({"a": torch.ones(1)}, tmp_path / "models" / "model.pt")


def test_target_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.pt").mkdir()
    with pytest.raises(BlosamError, match="it is a folder"):
        weightsio.save_state_dict({"a": torch.ones(1)}, tmp_path / "model.pt")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), KeyError("x"), FileNotFoundError(2, "no", "/elsewhere/x")])
def test_errors_of_the_caller_pass_through(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(type(error)) as caught, atomicio.atomic_write(path, "w") as file:
        file.write("half")
        raise error
    assert caught.value is error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.html"]


def test_text_link_and_permissions(tmp_path: Path) -> None:
    real = tmp_path / "real" / "notes.txt"
    real.parent.mkdir()
    real.write_text("old")
    link = tmp_path / "link.txt"
    link.symlink_to(real)
    with atomicio.atomic_write(link, "w") as file:
        file.write("Zähne\n")
    assert link.is_symlink()
    assert real.read_bytes() == "Zähne\n".encode()
    plain = tmp_path / "plain"
    plain.touch()
    assert real.stat().st_mode == plain.stat().st_mode  # not the private mode of mkstemp
    with pytest.raises(ValueError, match="'a'"), atomicio.atomic_write(link, "a"):
        pass


# --- strict loading -----------------------------------------------------------------------------------------


def test_load_strict_restores_every_tensor(tmp_path: Path) -> None:
    source, target = SmallNet(1), SmallNet(2)
    path = tmp_path / "model.pt"
    weightsio.save_state_dict(source.state_dict(), path)
    weightsio.load_strict(target, path)
    x = torch.rand(5, 3)
    assert torch.equal(source(x), target(x))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("head.weight"), ["1 missing (head.weight)"]),
        (lambda s: s.update(extra=torch.ones(1)), ["1 unexpected (extra)"]),
        (lambda s: s.update({"head.bias": torch.ones(9)}), ["1 misshaped (head.bias 9 instead of 2)"]),
        (
            lambda s: [s.update({f"module.{k}": s.pop(k)}) for k in list(s)],
            ["9 missing", "9 unexpected (module.", ", ...)"],
        ),
    ],
)
def test_load_strict_refuses_other_networks(change, words: list[str], tmp_path: Path) -> None:
    state = dict(SmallNet(1).state_dict())
    change(state)
    path = tmp_path / "model.pt"
    weightsio.save_state_dict(state, path)
    network = SmallNet(2)
    before = weightsio.state_sha256(network.state_dict())
    with pytest.raises(BlosamError, match="blosam switch") as caught:
        weightsio.load_strict(network, path)
    assert_one_line(caught.value, str(path), *words)
    assert weightsio.state_sha256(network.state_dict()) == before


class Evil:
    """Runs code when unpickled."""

    def __reduce__(self):
        return os.system, ("touch evil-was-here",)


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_objects_never_run(legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pt"
    torch.save({"a": torch.ones(1), "b": Evil()}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(BlosamError, match="pickled Python objects") as caught:
        weightsio.load_strict(SmallNet(), path)
    assert_one_line(caught.value, str(path))
    path.write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(BlosamError):
        weightsio.load_strict(SmallNet(), path)
    assert os.listdir(tmp_path) == ["model.pt"]


@pytest.mark.parametrize(
    "content",
    [
        {"model": {"a": torch.ones(1)}},
        {"a": torch.ones(1), "epoch": 3},
        [torch.ones(1)],
        torch.ones(1),
        {},
        None,
    ],
)
def test_nested_or_foreign_content_is_refused(content, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(content, path)
    with pytest.raises(BlosamError, match="flat state dict") as caught:
        weightsio.load_strict(SmallNet(), path)
    assert_one_line(caught.value, str(path))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_missing_empty_and_folder(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    with pytest.raises(BlosamError, match="no such weights file"):
        weightsio.read_state(path)
    path.touch()
    with pytest.raises(BlosamError, match="is truncated"):
        weightsio.read_state(path)
    with pytest.raises(BlosamError, match="no such weights file"):
        weightsio.read_state(tmp_path)


def _saved(kind: str, path: Path) -> bytes:
    state = SmallNet(1).state_dict()
    if kind == "safetensors":
        weightsio.save_adapter(SmallNet(1), path, {})
    else:
        torch.save(dict(state), path, _use_new_zipfile_serialization=kind == "zip")
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncation_at_any_length_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pt")
    content = _saved(kind, path)
    assert weightsio.read_state(path)
    for length in np.linspace(0, len(content) - 1, 60).astype(int):
        path.write_bytes(content[:length])
        # a name cut in half inside an old-style file looks like a foreign object
        pattern = "is truncated|pickled Python objects" if kind == "legacy" else "is truncated"
        with pytest.raises(BlosamError, match=pattern) as caught:
            weightsio.read_state(path)
        assert_one_line(caught.value, str(path))


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_flipped_bytes_never_end_in_a_traceback(kind: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pt")
    content = _saved(kind, path)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content), 3):
            damaged[position] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            state = weightsio.read_state(path)  # damage in the values alone cannot be seen
            assert all(isinstance(value, Tensor) for value in state.values())
        except BlosamError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 0


# --- digests ------------------------------------------------------------------------------------------------


def test_sha256_of_known_value(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert weightsio.sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    path.write_bytes(bytes(3_000_001))
    assert weightsio.sha256_of(path) == hashlib.sha256(bytes(3_000_001)).hexdigest()


def test_state_sha256_by_hand_and_order() -> None:
    values = [1.5, -2.0]
    by_hand = hashlib.sha256(
        b"a\0torch.float32\0(2,)\0" + struct.pack("<2f", *values) + b"b\0torch.int64\0()\0" + struct.pack("<q", 5)
    ).hexdigest()
    a, b = torch.tensor(values), torch.tensor(5)
    assert weightsio.state_sha256({"a": a, "b": b}) == by_hand == weightsio.state_sha256({"b": b, "a": a})


def test_state_sha256_sees_every_difference() -> None:
    a = torch.arange(6.0).reshape(2, 3)
    digests = [
        weightsio.state_sha256(state)
        for state in (
            {"a": a},
            {"b": a},
            {"a": a.reshape(3, 2)},
            {"a": a.T},
            {"a": a.double()},
            {"a": a.bfloat16()},
            {"a": a + 1},
            {"a": a[:0]},
            {},
        )
    ]
    assert len(set(digests)) == len(digests)
    assert weightsio.state_sha256({"a": a.T}) == weightsio.state_sha256({"a": a.T.contiguous()})


# --- adapters -----------------------------------------------------------------------------------------------


def test_adapter_round_trip_holds_only_what_was_trained(tmp_path: Path) -> None:
    source, target = SmallNet(1), SmallNet(1)
    with torch.no_grad():
        for parameter in weightsio.adapter_parameters(source).values():
            parameter.add_(torch.randn_like(parameter))
    path = tmp_path / "adapter.safetensors"
    weightsio.save_adapter(source, path, {"method": "blo-sam", "base": "tiny", "class_names": ["lung"]})
    tensors = weightsio.read_state(path)
    assert set(tensors) == {"head.weight", "head.bias", "iou_head.weight", "iou_head.bias", "prompt"}
    x = torch.rand(5, 3)
    assert not torch.equal(source(x), target(x))
    metadata = weightsio.load_adapter(target, path)
    assert torch.equal(source(x), target(x))
    assert metadata["method"] == "blo-sam" and metadata["class_names"] == '["lung"]'
    assert metadata["encoder"] == "tiny" and metadata["image_size"] == "64" and metadata["out_channels"] == "2"
    assert metadata["base_sha256"] == weightsio.frozen_sha256(target)
    assert metadata == weightsio.read_adapter_metadata(path)


def test_metadata_cannot_override_the_network(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    weightsio.save_adapter(SmallNet(1), path, {"encoder": "vit_h", "image_size": 1024})
    assert weightsio.read_adapter_metadata(path)["encoder"] == "tiny"
    weightsio.load_adapter(SmallNet(1), path)


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("encoder_name", "vit_b", ["tiny", "vit_b"]),
        ("image_size", 128, ["64", "128"]),
        ("out_channels", 6, ["is 2", "is 6"]),
    ],
)
def test_adapter_of_another_network(attribute: str, value: object, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    weightsio.save_adapter(SmallNet(1), path, {})
    network = SmallNet(1)
    setattr(network, attribute, value)
    with pytest.raises(BlosamError) as caught:
        weightsio.load_adapter(network, path)
    assert_one_line(caught.value, str(path), "Build the network", *words)


def test_adapter_of_another_base(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    source, other = SmallNet(1), SmallNet(2)
    weightsio.save_adapter(source, path, {"base": "vit_b"})
    before = weightsio.state_sha256(other.state_dict())
    with pytest.raises(BlosamError, match="frozen base weights") as caught:
        weightsio.load_adapter(other, path)
    assert_one_line(caught.value, weightsio.frozen_sha256(source), weightsio.frozen_sha256(other))
    assert weightsio.state_sha256(other.state_dict()) == before
    weightsio.load_adapter(other, path, check=False)
    assert torch.equal(other.prompt, source.prompt)


def test_base_digest_ignores_training_and_resized_tables() -> None:
    network = SmallNet(1)
    before = weightsio.frozen_sha256(network)
    with torch.no_grad():
        network.prompt.add_(1)
        network.head.weight.add_(1)
        network.pos_embed.add_(1e-7)
    assert weightsio.frozen_sha256(network) == before
    with torch.no_grad():
        network.encoder.weight[0, 0] += 1e-3
    assert weightsio.frozen_sha256(network) != before


def test_adapter_of_another_shape_is_refused_even_unchecked(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    weightsio.save_adapter(SmallNet(1), path, {})
    with pytest.raises(BlosamError, match="misshaped"):
        weightsio.load_adapter(SmallNet(1, out_channels=3), path, check=False)


def test_files_that_are_no_adapter(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    with pytest.raises(BlosamError, match="no such adapter"):
        weightsio.load_adapter(SmallNet(), path)
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(BlosamError, match="'not stated'"):
        weightsio.load_adapter(SmallNet(), path)
    path.write_bytes(b"x" * 100)
    with pytest.raises(BlosamError, match="truncated or no safetensors"):
        weightsio.load_adapter(SmallNet(), path)


def test_full_disk_keeps_the_old_adapter(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    weightsio.save_adapter(SmallNet(1), path, {})
    before = path.read_bytes()
    with file_size_limit(100), pytest.raises(BlosamError, match="cannot write"):
        weightsio.save_adapter(SmallNet(2, width=50), path, {})
    assert path.read_bytes() == before


# --- with the real network ----------------------------------------------------------------------------------


def blo_sam(init_seed: int = 0, **settings: object) -> BloSam:
    return BloSam(encoder="tiny", image_size=64, init_seed=init_seed, **settings).eval()


def disturb_trained(network: BloSam) -> None:
    with torch.no_grad():
        for parameter in weightsio.adapter_parameters(network).values():
            parameter.add_(0.1 * torch.randn_like(parameter))


@pytest.mark.parametrize(
    "settings", [{}, {"prompt": "sparse"}, {"out_channels": 4, "rank": 2}, {"trainable": "all"}], ids=str
)
def test_network_round_trip_by_both_files(settings: dict, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = blo_sam(**settings)
    disturb_trained(trained)
    weightsio.save_state_dict(trained.state_dict(), tmp_path / "model.pt")
    weightsio.save_adapter(trained, tmp_path / "adapter.safetensors", {"method": "blo-sam"})
    complete, adapted = blo_sam(init_seed=5, **settings), blo_sam(**settings)
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = trained(image)
        assert not torch.allclose(adapted(image), expected)
        weightsio.load_strict(complete, tmp_path / "model.pt")
        weightsio.load_adapter(adapted, tmp_path / "adapter.safetensors")
        assert torch.equal(complete(image), expected)
        assert torch.equal(adapted(image), expected)


@pytest.mark.parametrize(("out_channels", "count"), [(2, 510_242), (6, 1_071_526)])
def test_adapter_file_holds_the_published_count_and_no_frozen_weights(out_channels, count, tmp_path: Path) -> None:
    """Trained numbers with the IoU head, and nothing that does not require a gradient."""
    network = blo_sam(out_channels=out_channels)
    path = tmp_path / "adapter.safetensors"
    weightsio.save_adapter(network, path)
    tensors = weightsio.read_state(path)
    assert sum(tensor.numel() for tensor in tensors.values()) == count
    assert set(tensors) == {name for name, p in network.named_parameters() if p.requires_grad}
    assert path.stat().st_size < 4 * count + 20_000  # numbers and header


@pytest.mark.parametrize(
    ("other", "word"),
    [
        ({"init_seed": 5}, "frozen base weights"),
        ({"out_channels": 3}, "number of channels (classes + 1) is 2, the network's is 3"),
        ({"prompt": "sparse"}, "frozen base weights"),
        ({"rank": 8}, "misshaped"),
    ],
)
def test_adapter_and_network_that_do_not_fit(other: dict, word: str, tmp_path: Path) -> None:
    weightsio.save_adapter(blo_sam(), tmp_path / "adapter.safetensors")
    network = blo_sam(**other)
    before = weightsio.state_sha256(network.state_dict())
    with pytest.raises(BlosamError) as caught:
        weightsio.load_adapter(network, tmp_path / "adapter.safetensors")
    assert_one_line(caught.value, word)
    assert weightsio.state_sha256(network.state_dict()) == before


def test_model_of_another_method_is_refused(tmp_path: Path) -> None:
    weightsio.save_state_dict(blo_sam(prompt="sparse").state_dict(), tmp_path / "model.pt")
    with pytest.raises(BlosamError, match=r"1 unexpected \(sparse_prompt.tokens\)"):
        weightsio.load_strict(blo_sam(), tmp_path / "model.pt")


def test_two_image_sizes_share_their_base_digest() -> None:
    """Position tables differ with the size (the size itself is checked by name); all other base weights do not."""
    large = BloSam(encoder="tiny", image_size=128)
    assert weightsio.frozen_sha256(blo_sam()) == weightsio.frozen_sha256(large)


def test_truncation_is_named_wherever_the_file_ends(tmp_path):
    """A zip cut at 50 kB makes PyTorch seek before its start, which looks like a disk error."""
    torch.save({"w": torch.randn(300_000)}, tmp_path / "model.pt")
    whole = (tmp_path / "model.pt").read_bytes()
    for size in (500, 50_000, len(whole) - 100):
        (tmp_path / "model.pt").write_bytes(whole[:size])
        with pytest.raises(BlosamError, match="truncated"):
            weightsio.read_state(tmp_path / "model.pt")
