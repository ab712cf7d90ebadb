"""Names of images: short, unique, free of folders where possible, usable as file names."""

from __future__ import annotations

import pytest

from blosam.evaluation.names import safe_file_name, unique_names


def test_stem_is_enough_when_it_is_unique() -> None:
    assert unique_names(["/home/me/a.png", "/other/b.nii.gz", "c.tar.dcm", "noend"]) == [
        "a",
        "b",
        "c.tar",
        "noend",
    ]


def test_longer_only_where_needed() -> None:
    assert unique_names(["/x/p1/IM1.dcm", "/x/p2/IM1.dcm", "/x/p2/IM2.dcm"]) == [
        "p1/IM1.dcm",
        "p2/IM1.dcm",
        "IM2",
    ]
    assert unique_names(["/x/a.png", "/x/a.jpg"]) == ["a.png", "a.jpg"]


def test_the_same_path_twice_is_counted() -> None:
    assert unique_names(["/x/a.png", "/x/a.png"])[1].endswith(" (2)")
    assert len(set(unique_names(["a.png"] * 5))) == 5
    assert unique_names([]) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../../etc/passwd", "_.._etc_passwd"),
        (".hidden", "hidden"),
        ("", "image"),
        ("ä b<c>", "ä_b_c_"),
        ("a" * 200, "a" * 80),
    ],
)
def test_safe_file_name(name: str, expected: str) -> None:
    assert safe_file_name(name) == expected
