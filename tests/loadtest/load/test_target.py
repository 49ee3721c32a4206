"""What goes over the wire, and whether anybody is there."""

from __future__ import annotations

import asyncio

import pytest

from loadtest.load.client import Address, Client, new_event_loop
from loadtest.load.target import Requests, Target, describe_server, model_facts, wait_ready, warm_up
from loadtest.servers.free_ports import free_port
from loadtest.servers.processes import StudyError
from loadtest.workload.images import AnnotatedImage
from tests.loadtest.load.answering import answers, hangs_up, replies, serving

PICTURE = AnnotatedImage("a.png", b"data", "image/png")


def test_a_request_to_the_byte():
    address = Address.parse("http://server:81/base/")
    target = Target("x", "/detect?a=1", (("X-Key", "k"),))
    assert Requests(address, target, [PICTURE]).request(0, 0.0405) == (
        b"POST /base/detect?a=1 HTTP/1.1\r\n"
        b"Host: server:81\r\n"
        b"User-Agent: punctual-loadtest\r\n"
        b"Accept: application/json\r\n"
        b"X-Key: k\r\n"
        b"Content-Type: image/png\r\n"
        b"Content-Length: 4\r\n"
        b"X-Deadline-Ms: 40.500\r\n\r\n"
        b"data"
    )


def warm(url: str, count: int) -> None:
    async def main() -> None:
        address = Address.parse(url)
        client = Client(address, asyncio.get_running_loop())
        try:
            await warm_up(client, Requests(address, Target(), [PICTURE]), count)
        finally:
            await client.close()

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())


def test_warming_up_takes_any_reply():
    with serving({b"data": replies(503, {})}) as server:
        warm(server.url, 3)
        assert [path for path, _, _ in server.seen] == ["/v1/detect"] * 3


def test_warming_up_needs_a_reply():
    with (
        serving({b"data": hangs_up}) as server,
        pytest.raises(StudyError, match="does not answer: closed"),
    ):
        warm(server.url, 0)


def test_a_server_that_starts_is_waited_for():
    with serving({}) as server:
        server.starting = 2
        wait_ready(f"{server.url}/")
        assert server.starting == 0
        server.starting = 2
        with pytest.raises(StudyError, match=f"{server.url} was not ready after 0 s"):
            wait_ready(server.url, timeout_s=0)


def test_others_are_not_waited_for():
    with serving({}) as server:
        wait_ready(server.url, timeout_s=0)
    wait_ready(f"http://127.0.0.1:{free_port()}", timeout_s=0)


def test_what_a_server_says_of_itself():
    with serving({b"data": answers()}, {"name": "cells"}) as server:
        assert describe_server(f"{server.url}/") == {"name": "cells"}
    with serving({}) as server:
        assert describe_server(server.url) is None
    with serving({}, "a model") as server:
        assert describe_server(server.url) is None
    assert describe_server(f"http://127.0.0.1:{free_port()}") is None


def test_what_a_server_of_several_input_sizes_says_of_itself():
    small = {"name": "cells", "exits": [{"depth": 1, "ap": 0.3}, {"depth": 2, "ap": 0.5}]}
    large = {"name": "cells", "exits": [{"depth": 1, "ap": 0.45}]}
    facts = model_facts({"models": [small, large]})
    assert facts["name"] == "cells"
    assert [each["ap"] for each in facts["exits"]] == [0.3, 0.45, 0.5]
    unknown = {"name": "cells", "exits": [{"depth": 1, "ap": 0.0}, {"depth": 2, "ap": 0.0}]}
    assert [each["depth"] for each in model_facts({"models": [unknown]})["exits"]] == [1, 2]
    assert model_facts({"models": [{"name": "cells"}]}) == {"name": "cells"}
    nothing: list[dict[str, list[str]]] = [{}, {"models": []}, {"models": ["cells"]}]
    for wrong in nothing:
        with pytest.raises((LookupError, TypeError, ValueError)):
            model_facts(wrong)
