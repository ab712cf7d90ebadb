"""Every file format gives the same picture; broken and useless files are refused in one readable line."""

from __future__ import annotations

import gzip
import struct
import zlib

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImaged
from PIL import Image

from blosam.dicom import ClinicalReader
from blosam.errors import BlosamError


def read(path, **options):
    """Array and metadata of one file."""
    reader = ClinicalReader(**options)
    return reader.get_data(reader.read(path))


def refuse(path, match, **options):
    """The file is refused in one line that names it."""
    with pytest.raises(BlosamError, match=match) as caught:
        read(path, **options)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and message.rstrip().endswith(".")


@pytest.fixture
def grey(half_bright):
    return half_bright(30, 50)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.gif", "a"])
def test_8_bit_grey_is_divided_by_255_and_transposed(tmp_path, grey, name):
    Image.fromarray(grey).save(tmp_path / name, format=None if "." in name else "PNG")
    values, meta = read(tmp_path / name)
    values = values if values.ndim == 2 else values[..., 0]  # GIF has a palette
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, grey.T.astype(np.float32) / np.float32(255))
    assert tuple(meta["spatial_shape"]) == (50, 30) and "spacing" not in meta
    np.testing.assert_array_equal(meta["affine"], np.eye(4))


def test_colour_models_are_converted(tmp_path, grey):
    rgb = np.stack([grey, grey // 2, 255 - grey], -1)
    picture = Image.fromarray(rgb)
    picture.save(tmp_path / "rgb.png")
    picture.convert("RGBA").save(tmp_path / "rgba.png")
    picture.quantize(16).save(tmp_path / "palette.png")
    picture.convert("CMYK").save(tmp_path / "cmyk.tif")
    expected = np.swapaxes(rgb, 0, 1) / 255
    for name in ("rgb.png", "rgba.png", "palette.png", "cmyk.tif"):
        values, meta = read(tmp_path / name)
        assert values.shape == (50, 30, 3), name
        np.testing.assert_allclose(values, expected, atol=2 / 255, err_msg=name)
        assert meta["original_channel_dim"] == -1
    Image.fromarray(grey).convert("LA").save(tmp_path / "la.png")
    assert read(tmp_path / "la.png")[0].shape == (50, 30)
    Image.fromarray(grey > 100).save(tmp_path / "bit.png")
    np.testing.assert_array_equal(read(tmp_path / "bit.png")[0], (grey > 100).T)


def test_jpeg_is_close_to_its_source(tmp_path, grey):
    Image.fromarray(grey).save(tmp_path / "a.jpg", quality=95)
    np.testing.assert_allclose(read(tmp_path / "a.jpg")[0], grey.T / 255, atol=0.05)


def test_16_bit_is_scaled_by_percentiles(tmp_path):
    deep = np.random.default_rng(0).integers(1000, 40000, (40, 60)).astype(np.uint16)
    deep[0, 0] = 65535
    Image.fromarray(deep).save(tmp_path / "a.png")
    nib.save(nib.Nifti1Image(deep.T, np.eye(4)), tmp_path / "a.nii.gz")
    low, high = np.percentile(deep, [0.5, 99.5])
    expected = np.clip((deep.T - low) / (high - low), 0, 1)
    for name in ("a.png", "a.nii.gz"):
        values, meta = read(tmp_path / name)
        np.testing.assert_allclose(values, expected, atol=1e-6)
        assert "percentiles" in meta["intensity"]


def test_percentiles_that_coincide_fall_back_to_the_extremes(tmp_path):
    deep = np.zeros((50, 50), np.uint16)
    deep[3, 4] = 9000
    Image.fromarray(deep).save(tmp_path / "a.png")
    values, _ = read(tmp_path / "a.png")
    assert values[4, 3] == 1 and values.sum() == 1


@pytest.mark.parametrize("shape", [(50, 30), (50, 30, 1)])
def test_nifti_keeps_affine_spacing_and_its_third_axis(tmp_path, grey, shape):
    affine = np.array([[0, -0.5, 0, 7], [0.8, 0, 0, -3], [0, 0, 1, 2], [0, 0, 0, 1]], float)
    nib.save(nib.Nifti1Image(grey.T.reshape(shape), affine), tmp_path / "a.nii.gz")
    values, meta = read(tmp_path / "a.nii.gz")
    assert values.shape == shape and tuple(meta["spatial_shape"]) == shape
    np.testing.assert_array_equal(values.reshape(50, 30), grey.T.astype(np.float32) / np.float32(255))
    np.testing.assert_allclose(meta["affine"], affine)
    assert meta["spacing"] == pytest.approx((0.5, 0.8))  # between rows (second axis), between columns


def test_nifti_units_and_default_header(tmp_path, grey):
    image = nib.Nifti1Image(grey.T, np.diag([200.0, 100.0, 1.0, 1.0]))
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "micron.nii")
    assert read(tmp_path / "micron.nii")[1]["spacing"] == pytest.approx((0.1, 0.2))
    image = nib.Nifti1Image(grey.T, None)
    nib.save(image, tmp_path / "plain.nii")
    assert "spacing" not in read(tmp_path / "plain.nii")[1]


def test_rgb_nifti(tmp_path, grey):
    record = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    rgb = np.zeros((50, 30, 1), record)
    rgb["R"], rgb["G"] = grey.T[..., None], 255 - grey.T[..., None]
    nib.save(nib.Nifti1Image(rgb, np.eye(4)), tmp_path / "a.nii")
    values, meta = read(tmp_path / "a.nii")
    assert values.shape == (50, 30, 3) and len(meta["spatial_shape"]) == 3
    np.testing.assert_allclose(values[..., 1], 1 - grey.T / 255, atol=1e-6)


def test_a_volume_is_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((20, 20, 5), np.uint8), np.eye(4)), tmp_path / "v.nii.gz")
    refuse(tmp_path / "v.nii.gz", "20 x 20 x 5.*2-D files")


def test_dicom_is_recognised_without_an_extension(tmp_path, grey, write_dicom):
    write_dicom(tmp_path / "IM0001", grey)
    values, meta = read(tmp_path / "IM0001")
    np.testing.assert_allclose(values, grey.T / 255, atol=1e-6)
    assert meta["source_kind"] == "dicom"
    assert read(tmp_path)[1]["filename_or_obj"].endswith("IM0001")  # the only file of a folder
    write_dicom(tmp_path / "IM0002", grey)
    refuse(tmp_path, "2 files")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif", "a.nii", "a.nii.gz", "a.dcm"])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.6])
def test_truncated_files_are_refused(tmp_path, half_bright, write_dicom, name, keep):
    noise = np.random.default_rng(1).integers(0, 255, (64, 80)).astype(np.uint8)
    path = tmp_path / name
    if name.endswith("dcm"):
        write_dicom(path, noise)
    elif ".nii" in name:
        nib.save(nib.Nifti1Image(noise.T, np.eye(4)), path)
    else:
        Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    refuse(path, "cannot be read")


def test_missing_text_and_folder(tmp_path):
    refuse(tmp_path / "no.png", "cannot be opened")
    for name in ("text.png", "text.dcm", "text.nii.gz"):
        (tmp_path / name).write_text("this is not an image " * 40)
        refuse(tmp_path / name, "cannot be read")
    (tmp_path / "empty").mkdir()
    refuse(tmp_path / "empty", "0 files")


def huge_png(width: int, height: int) -> bytes:
    """A PNG whose header claims a size, with hardly any data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


@pytest.mark.parametrize("width", [10_001, 30_000])  # below and above Pillow's own limit
def test_more_than_100_megapixels_is_refused_by_the_header(tmp_path, grey, write_dicom, width):
    (tmp_path / "big.png").write_bytes(huge_png(width, 10_000))
    refuse(tmp_path / "big.png", "100 megapixels")
    write_dicom(tmp_path / "big.dcm", grey, Rows=10_000, Columns=width)
    refuse(tmp_path / "big.dcm", "100 megapixels")
    header = nib.Nifti1Header()
    header.set_data_shape((width, 10_000))
    header.set_data_dtype(np.uint8)
    with gzip.open(tmp_path / "big.nii.gz", "wb") as file:
        file.write(header.binaryblock + bytes(4))
    refuse(tmp_path / "big.nii.gz", "100 megapixels")


def test_single_pixel_constant_and_nan_are_refused(tmp_path, grey, write_dicom):
    Image.fromarray(np.zeros((1, 1), np.uint8)).save(tmp_path / "dot.png")
    refuse(tmp_path / "dot.png", "1 x 1")
    Image.fromarray(np.full((9, 9), 7, np.uint8)).save(tmp_path / "flat.png")
    refuse(tmp_path / "flat.png", "every pixel has the value 7")
    Image.new("RGB", (9, 9), (1, 2, 3)).save(tmp_path / "colour.png")
    refuse(tmp_path / "colour.png", "every pixel has the value 1 2 3")
    write_dicom(tmp_path / "flat.dcm", np.full((9, 9), 7, np.uint16))
    refuse(tmp_path / "flat.dcm", "every pixel has the value 7")
    broken = grey.T.astype(np.float32)
    broken[3, 3] = np.nan
    nib.save(nib.Nifti1Image(broken, np.eye(4)), tmp_path / "nan.nii")
    refuse(tmp_path / "nan.nii", "1 pixel.*NaN")


def test_several_frames_are_refused(tmp_path, grey):
    first = Image.fromarray(grey)
    first.save(tmp_path / "stack.tif", save_all=True, append_images=[first, first])
    refuse(tmp_path / "stack.tif", "3 frames")


def test_load_imaged_does_not_fall_back_to_another_reader(tmp_path):
    Image.fromarray(np.full((9, 9), 7, np.uint8)).save(tmp_path / "flat.png")
    load = LoadImaged(keys="image", reader="blosam.dicom.ClinicalReader", image_only=True)
    with pytest.raises(BlosamError, match="every pixel"):
        load({"image": str(tmp_path / "flat.png")})


def test_load_imaged_passes_the_mode_on(tmp_path, grey):
    Image.fromarray((grey > 100).astype(np.uint8) * 255).save(tmp_path / "m.png")
    load = LoadImaged(keys="label", reader="blosam.dicom.ClinicalReader", mode="label", num_classes=1)
    assert load({"label": str(tmp_path / "m.png")})["label"].unique().tolist() == [0, 1]


def test_wrong_arguments():
    with pytest.raises(BlosamError, match="mode 'mask'"):
        ClinicalReader(mode="mask")
    with pytest.raises(BlosamError, match="num_classes is 0"):
        ClinicalReader(num_classes=0)
    with pytest.raises(BlosamError, match="2 files"):
        ClinicalReader().get_data(["a.png", "b.png"])
    assert ClinicalReader().verify_suffix("x.nii.gz") and not ClinicalReader().verify_suffix("x.txt")
