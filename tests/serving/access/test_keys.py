"""The file that says who holds which key: what it may say, and what it is refused for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving.access.keys import (
    KEY_PREFIX,
    MAX_FILE_BYTES,
    MAX_KEY_BYTES,
    MAX_KEYS,
    MAX_LINE_BYTES,
    MAX_PRINCIPALS,
    KeyFileError,
    Keyring,
    digest_of,
    new_entry,
    new_key,
    read_keys,
)
from serving.core.command_errors import InvalidArgument

DIGEST = digest_of(b"secret")
OTHER = digest_of(b"other")


def entry(**fields: object) -> dict[str, object]:
    return {"name": "camera-7", "sha256": DIGEST, **fields}


def written(folder: Path, *entries: object, **more: object) -> Path:
    path = folder / "keys.json"
    path.write_text(json.dumps({"principal": list(entries), **more}))
    return path


def test_toml_and_json_say_the_same(tmp_path: Path):
    toml = tmp_path / "keys.toml"
    toml.write_text(
        f'[[principal]]\nname = "camera-7"\nsha256 = ["{DIGEST}", "{OTHER}"]\nshare = 2\n'
        "rate = 20.5\nmax_requests = 8\nmin_budget_ms = 40\nadmin = true\n"
    )
    written(
        tmp_path,
        entry(
            sha256=[DIGEST, OTHER],
            share=2,
            rate=20.5,
            max_requests=8,
            min_budget_ms=40,
            admin=True,
        ),
    )
    for path in (toml, tmp_path / "keys.json"):
        keyring = read_keys(path)
        (principal,) = keyring.principals
        assert keyring.find(b"secret") == keyring.find(b"other") == principal
        assert (principal.name, principal.label, principal.share) == ("camera-7", "camera-7", 2.0)
        assert (principal.rate_hz, principal.max_requests) == (20.5, 8)
        assert principal.min_budget_s == pytest.approx(0.04)
        assert principal.is_admin


def test_what_is_not_said_is_not_bounded(tmp_path: Path):
    (principal,) = read_keys(written(tmp_path, entry())).principals
    assert (principal.share, principal.rate_hz, principal.max_requests) == (1.0, None, None)
    assert not principal.is_admin


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ([], "principal: "),
        ([entry(sha256=DIGEST.upper())], "principal.0.sha256.0: "),
        ([entry(sha256="secret")], "principal.0.sha256.0: "),
        ([entry(sha256=[])], "principal.0.sha256: "),
        ([entry(name="")], "principal.0.name: "),
        ([entry(name="a b")], "principal.0.name: "),
        ([entry(name='a"\n')], "principal.0.name: "),
        ([entry(share=0)], "principal.0.share: "),
        ([entry(share="2")], "principal.0.share: "),
        ([entry(rate=-1)], "principal.0.rate: "),
        ([entry(max_requests=0)], "principal.0.max_requests: "),
        ([entry(max_requests=1.5)], "principal.0.max_requests: "),
        ([entry(admin="yes")], "principal.0.admin: "),
        ([entry(key="secret")], "principal.0.key: "),
        ([entry(), entry(sha256=OTHER)], "two principals called camera-7"),
        ([entry(), entry(name="two")], "one key twice, of camera-7 and two"),
        ([entry(sha256=digest_of(b""))], "no byte at all for camera-7"),
        ([entry(**{"a\n\x1b[31m": 1})], r"principal.0.'a\n\x1b[31m': "),
        ([entry(**{"a" * 10_000: 1})], "aaa': "),
    ],
)
def test_what_makes_no_sense_is_refused_without_saying_a_digest(
    tmp_path: Path, entries: list[object], problem: str
):
    path = written(tmp_path, *entries)
    with pytest.raises(KeyFileError) as error:
        read_keys(path)
    assert problem in str(error.value)
    assert str(path) in str(error.value)
    assert DIGEST not in str(error.value)
    assert len(str(error.value)) < len(str(path)) + 400
    assert str(error.value).isprintable()
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "content", [b"{", b"\xff", b"[]", b"[" * 100_000, b"", b'{"principal": 1}']
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: bytes):
    for name in ("keys.json", "keys.toml"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(KeyFileError, match="the key file"):
            read_keys(tmp_path / name)


@pytest.mark.parametrize("line", [b"a" + b".a" * 2**18 + b"=1", b"[" + b"a." * 2**18 + b"a]"])
def test_what_would_take_minutes_to_parse_is_refused(tmp_path: Path, line: bytes):
    (tmp_path / "keys.toml").write_bytes(line)
    with pytest.raises(KeyFileError, match=f"a line of more than {MAX_LINE_BYTES} bytes"):
        read_keys(tmp_path / "keys.toml")


def _digests(number: int) -> list[str]:
    return [digest_of(b"%d of %d" % (each, number)) for each in range(MAX_KEYS)]


def test_a_file_of_as_many_as_there_may_be_is_read(tmp_path: Path):
    toml = "".join(
        f'[[principal]]\nname = "{"x" * 50}-{number}"\nsha256 = {_digests(number)}\n'
        for number in range(MAX_PRINCIPALS)
    )
    (tmp_path / "keys.toml").write_text(toml)
    assert len(read_keys(tmp_path / "keys.toml").principals) == MAX_PRINCIPALS


def test_a_file_that_is_not_there_or_too_long_is_refused(tmp_path: Path):
    with pytest.raises(KeyFileError, match="cannot be read: No such file"):
        read_keys(tmp_path / "none.toml")
    (tmp_path / "long.toml").write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(KeyFileError, match="more than"):
        read_keys(tmp_path / "long.toml")


def test_only_the_key_itself_is_found(tmp_path: Path):
    keyring = read_keys(written(tmp_path, entry()))
    assert keyring.find(b"secret") is not None
    for wrong in (
        b"",
        b"secre",
        b"secret ",
        b"Secret",
        DIGEST.encode(),
        b"x" * (MAX_KEY_BYTES + 1),
    ):
        assert keyring.find(wrong) is None


def test_what_is_compared_is_different_in_each_process():
    rings = [Keyring({}) for _ in range(2)]
    assert len({ring._blinded(bytes(32)) for ring in rings}) == 2


def test_a_new_key_opens_its_entry(tmp_path: Path):
    key, text = new_entry("camera-7")
    path = tmp_path / "keys.toml"
    path.write_text(text)
    assert key not in text
    principal = read_keys(path).find(key.encode())
    assert principal is not None
    assert principal.name == "camera-7"


def test_keys_are_256_random_bits():
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(len(key.removeprefix(KEY_PREFIX)) * 6 >= 256 for key in keys)


@pytest.mark.parametrize("name", ["", "-a", "a b", "a\n", 'a"b', "a" * 64])
def test_what_cannot_be_a_name(name: str):
    with pytest.raises(InvalidArgument, match="cannot be a name"):
        new_entry(name)
