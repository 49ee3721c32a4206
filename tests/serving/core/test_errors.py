import pytest

from serving.core.errors import ShedReason


@pytest.mark.parametrize("reason", ShedReason)
def test_a_reason_reads_as_its_value_wherever_it_is_written(reason):
    assert f"{reason}" == f"{reason:}" == str(reason) == "%s" % reason == reason.value  # noqa: UP031
    assert reason == reason.value
    assert reason.split("-")[0] in ("rejected", "evicted")
