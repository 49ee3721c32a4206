from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from serving.settings import Settings, SettingsError, load, variable


def problems(**overrides: object) -> list[str]:
    with pytest.raises(SettingsError) as error:
        load(overrides)
    return list(error.value.problems)


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUNCTUAL_PORT", "9000")
    monkeypatch.setenv("PUNCTUAL_MAX_WAITING", "7")
    monkeypatch.setenv("PUNCTUAL_MODEL", "")
    settings = load({"port": "9001", "model_repository": "elsewhere"})
    assert (settings.port, settings.max_waiting, settings.model) == (9001, 7, None)
    assert settings.model_repository == Path("elsewhere")


@pytest.mark.parametrize(
    ("model", "names"),
    [(None, ()), ("cells", ("cells",)), ("small, large", ("small", "large")), (" ,", ())],
)
def test_names_of_models(model: str | None, names: tuple[str, ...]) -> None:
    assert load({"model": model}).models == names


@pytest.mark.parametrize(
    ("proxies", "networks"),
    [("10.0.0.0/8, ::1", ["10.0.0.0/8", "::1/128"]), ("127.0.0.1", ["127.0.0.1/32"])],
)
def test_networks_of_proxies(proxies: str, networks: list[str]) -> None:
    assert [str(each) for each in load({"trusted_proxies": proxies}).proxies] == networks


@pytest.mark.parametrize("proxies", ["10.0.0.1/8", "proxy.example.com", "*"])
def test_proxies_that_are_no_networks(proxies: str) -> None:
    (problem,) = problems(trusted_proxies=proxies)
    assert problem.startswith(f"--trusted-proxies={proxies}: ")


def test_there_is_room_for_a_body() -> None:
    (problem,) = problems(max_body_bytes=2**20, max_bodies_bytes=2**19)
    assert "max_body_bytes <= max_bodies_bytes" in problem


def test_precision_is_the_embedded_engines() -> None:
    assert load({}).precision is None
    assert load({"precision": "int8"}).precision == "int8"
    (problem,) = problems(precision="int8", backend="triton")
    assert "with the backend triton, what Triton runs decides" in problem
    (problem,) = problems(precision="int4")
    assert problem.startswith("--precision=int4: Input should be 'f32', 'bf16' or 'int8'")


def test_frozen() -> None:
    with pytest.raises(ValidationError):
        load({}).port = 1  # type: ignore[misc]


def test_every_field_is_described() -> None:
    assert not [name for name, field in Settings.model_fields.items() if not field.description]


@pytest.mark.parametrize(
    ("name", "close"),
    [("PUNCTUAL_MAX_PIXEL", "PUNCTUAL_MAX_PIXELS"), ("PUNCTUAL_PROT", "PUNCTUAL_PORT")],
)
def test_unknown_variables_name_the_closest(
    monkeypatch: pytest.MonkeyPatch, name: str, close: str
) -> None:
    monkeypatch.setenv(name, "1")
    assert problems() == [f"{name} is not a setting; did you mean {close}?"]


def test_kubernetes_service_links_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUNCTUAL_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("PUNCTUAL_PORT", "tcp://10.0.0.1:80")
    assert len(problems()) == 2
    assert all("enableServiceLinks: false" in problem for problem in problems())


def test_every_problem_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUNCTUAL_LOG_LEVEL", "loud")
    monkeypatch.setenv("PUNCTUAL_NOTHING", "1")
    found = problems(max_waiting="0", drain_delay_ms="inf")
    assert len(found) == 4
    assert any(line.startswith("--max-waiting=0: ") for line in found)
    assert any(line.startswith("PUNCTUAL_LOG_LEVEL=loud: ") for line in found)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("port", "-1"), ("port", "65536"), ("port", "http"), ("num_threads", "0")),
        *(("max_body_bytes", "0"), ("max_pixels", "0"), ("default_budget_ms", "nan")),
        *(("runtime", "tensorflow"), ("backend", "none"), ("num_decode_workers", "0")),
    ],
)
def test_bounds(monkeypatch: pytest.MonkeyPatch, field: str, value: str) -> None:
    monkeypatch.setenv(variable(field), value)
    (problem,) = problems()
    assert problem.startswith(f"{variable(field)}={value}: ")


def test_budgets_are_ordered() -> None:
    assert problems(default_budget_ms="20000") == [
        "min_budget_ms <= default_budget_ms <= max_budget_ms must hold"
    ]
