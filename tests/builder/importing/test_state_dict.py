"""Reading foreign files, and key maps in general."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from builder.importing.state_dict import (
    Source,
    WeightsError,
    count_children,
    read_state_dict,
    translate,
)

ONE = {"a.weight": torch.ones(2)}


@pytest.mark.parametrize(
    ("data", "beside"),
    [
        (ONE, {}),
        ({"state_dict": ONE, "meta": {"epoch": 50}}, {"meta": {"epoch": 50}}),
        ({"model": ONE}, {}),
        ({"state_dict": {"module.a.weight": torch.ones(2)}}, {}),
    ],
)
def test_wrappers_are_taken_off(data: dict, beside: dict, tmp_path: Path) -> None:
    torch.save(data, tmp_path / "x.pth")
    state, rest = read_state_dict(tmp_path / "x.pth")
    assert list(state) == ["a.weight"]
    assert torch.equal(state["a.weight"], torch.ones(2))
    assert rest == beside


class Payload:
    """Unpickling this would be running foreign code."""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"state_dict": ONE, "config": Payload()}, "save its weights by themselves"),
        ({}, "no state dict"),
        ([1], "no state dict"),
        ({"epoch": 3}, "'epoch' is a int"),
        ({"a": torch.ones(2).to_sparse()}, "'a' is no dense tensor"),
        ({"a": torch.ones(2, device="meta")}, "'a' is no dense tensor"),
    ],
)
def test_other_files_are_refused(data: object, message: str, tmp_path: Path) -> None:
    torch.save(data, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=message):
        read_state_dict(tmp_path / "x.pth")


# The last four are where an unpickler that is given no pickle ends in KeyError and IndexError.
@pytest.mark.parametrize(
    "content",
    [b"", b"no torch file at all", b"hello world", b"\x80\x02.", b"\x80\x02a.", b"PK\x03\x04"],
)
def test_what_torch_cannot_read_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(WeightsError, match="no torch file of tensors"):
        read_state_dict(tmp_path / "x.pth")


def test_a_key_map_converts_copies_and_fills_in() -> None:
    target = {
        "w": torch.empty(2),
        "b": torch.empty(3),
        "n.num_batches_tracked": torch.tensor(1),
    }
    sources = {
        "w": Source(("x.0", "x.1"), lambda value: value.flip(0)),
        "b": Source(("x.bias",), optional=True),
        "n.num_batches_tracked": Source(("n.num_batches_tracked",)),
    }
    x = torch.tensor([1.0, 2.0])
    result = translate({"x.0": x, "x.1": x.clone(), "fc.w": x}, sources, target, ["fc."])
    assert result["w"].tolist() == [2, 1]
    assert result["b"].tolist() == [0, 0, 0]
    assert result["n.num_batches_tracked"] == 0


def test_children_are_counted_up_to_the_first_gap() -> None:
    assert count_children(["a.0.w", "a.1.w", "a.1.b", "a.3.w", "b.2.w"], "a.") == 2
