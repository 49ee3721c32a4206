"""``punctual evaluate`` and ``punctual report`` with an exported model."""

from __future__ import annotations

import pytest

from serving.__main__ import main


def test_bad_annotations_are_skipped_or_refused(repository, bccd, capsys):
    data = ["--data", str(bccd), "--bad-annotations", "refuse"]
    model = ["evaluate", "--model-repository", str(repository), "--model", "toy"]
    assert main([*model, *data, "--split", "val"]) == 2
    refusal = "1 bad annotations\n  Annotations/image_0.xml:1: box (30.0, 30.0, 30.0, 40.0)"
    assert refusal in capsys.readouterr().err
    assert main([*model, *data[:2], "--split", "val", "--threads", "1"]) == 0
    assert "skipped: Annotations/image_0.xml:1: box" in capsys.readouterr().err


def test_a_report(repository, bccd, tmp_path, capsys):
    model = ["--model-repository", str(repository), "--model", "toy", "--threads", "1"]
    page = tmp_path / "report.html"
    data = ["--data", str(bccd), "--split", "val", "--images", "2", "--out", str(page)]
    assert main(["report", *model, *data]) == 0
    assert f"wrote {page}" in capsys.readouterr().out
    text = page.read_text()
    assert "Exits of toy" in text
    assert text.count("data:image/jpeg;base64,") == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["evaluate"], "required"),
    ],
)
def test_options_that_are_none(arguments, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    said = capsys.readouterr().err
    assert "usage: punctual" in said
    assert sentence in said
    assert not list(tmp_path.iterdir())
