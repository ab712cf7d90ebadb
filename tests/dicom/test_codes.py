from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydicom.sr._concepts_dict import concepts

from blosam.dicom.codes import LOCAL_SCHEME, clean_text, default_codes, segment_codes
from blosam.errors import BlosamError

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = sorted(path.parents[1] for path in ROOT.glob("bundles/blosam_*/configs/metadata.json"))
LUNG = {"category": ["91723000", "SCT", "Anatomical Structure"], "type": ["39607008", "SCT", "Lung"]}


def in_dictionary(concept) -> bool:
    """Whether pydicom's copy of the DICOM dictionaries has this code with this meaning."""
    return any(
        entry.get(concept.value, ("", []))[0].lower() == concept.meaning.lower()
        for entry in concepts[concept.scheme].values()
    )


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_the_bundles_use_codes_of_dicoms_dictionaries(bundle):
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    labels = json.loads((bundle / "configs" / "inference.json").read_text())["labels"]
    assert metadata["segment_codes"] == default_codes(labels)
    for code in segment_codes(metadata, labels):
        assert not code.is_local
        assert all(in_dictionary(concept) for concept in (code.category, code.type, *code.modifiers))


def test_well_known_names_are_coded_without_metadata():
    codes = segment_codes({}, {"Left_Lung": 1, "right lung": 2})
    assert [code.type.value for code in codes] == ["39607008", "39607008"]
    assert [code.modifiers[0].meaning for code in codes] == ["Left", "Right"]
    assert all(in_dictionary(concept) for code in codes for concept in (code.category, code.type, *code.modifiers))


def test_other_names_get_a_local_code_that_is_always_the_same():
    labels = {"heart": 1, "clavicle, left side": 2, "肺": 3, "心": 4}
    codes = segment_codes({}, labels)
    assert [code.type.meaning for code in codes] == list(labels)
    assert codes == segment_codes({}, labels)
    assert len({code.type.value for code in codes}) == 4
    for code in codes:
        assert code.is_local and code.type.scheme == LOCAL_SCHEME and LOCAL_SCHEME.startswith("99")
        assert code.type.value.isascii() and 0 < len(code.type.value) <= 16
    assert in_dictionary(codes[0].category)


def test_classes_come_in_the_order_of_their_values():
    assert [code.name for code in segment_codes({}, {"b": 2, "a": 1})] == ["a", "b"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ([], "must hold"),
        ({"type": LUNG["type"]}, "must hold"),
        (LUNG | {"color": [1, 2, 3]}, "must hold"),
        (LUNG | {"type": ["39607008", "SCT"]}, r'must be \["code", "scheme", "meaning"\]'),
        (LUNG | {"type": "39607008"}, "must be"),
        (LUNG | {"type": [39607008, "SCT", "Lung"]}, "code value 39607008 must be text of 1 to 16"),
        (LUNG | {"type": ["39607008", "SCT", "L" * 65]}, "meaning 'L+' must be text of 1 to 64"),
        (LUNG | {"type": ["39607008", "", "Lung"]}, "coding scheme '' must be"),
        (LUNG | {"modifiers": {}}, "must be a list"),
        (LUNG | {"modifiers": [["1", "SCT"]]}, "must be"),
        (LUNG | {"colour": [0, 0, 256]}, "each 0 to 255"),
        (LUNG | {"colour": [0, 0.5, 1]}, "each 0 to 255"),
        (LUNG | {"colour": "red"}, "each 0 to 255"),
    ],
)
def test_a_wrong_entry_is_refused(entry, message):
    with pytest.raises(BlosamError, match=f"metadata.json: segment_codes#lung.*{message}"):
        segment_codes({"segment_codes": {"lung": entry}}, {"lung": 1})


def test_a_wrong_table_is_refused():
    with pytest.raises(BlosamError, match="must map each class"):
        segment_codes({"segment_codes": ["lung"]}, {"lung": 1})
    with pytest.raises(BlosamError, match="names 'lungs', but the classes are heart, lung"):
        segment_codes({"segment_codes": {"lungs": LUNG}}, {"lung": 1, "heart": 2})
    for labels in ({"lung": 2}, {"a": 1, "b": 3}, {"a": 1, "b": 1}, {}):
        with pytest.raises(BlosamError, match="1, 2, ... without gaps"):
            segment_codes({}, labels)


def test_text_is_made_to_fit():
    assert clean_text("a\\b\n c\t d") == "a/b c d"
    assert clean_text("x" * 70) == "x" * 61 + "..."
