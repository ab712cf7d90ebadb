"""One step's numbers, by name and as MONAI's handlers read them."""

from __future__ import annotations

from monai.handlers import from_engine

from blosam.engines.output import StepOutput


def test_monai_and_our_handlers_read_the_same_numbers():
    output = StepOutput({"loss": 0.5})
    output["d2_loss"] = 0.25
    assert from_engine(["loss"], first=True)(output) == 0.5
    assert from_engine(["loss", "d2_loss"], first=True)(output) == (0.5, 0.25)
    assert output["d2_loss"] == 0.25 and output[0] == {"loss": 0.5, "d2_loss": 0.25} == {**output} == dict(output)
    assert "loss" in output and "lr" not in output and output.get("lr", 1.0) == 1.0 and len(output) == 1
