"""Which bus is opened: an explicit URL or directory, else `CONVIVE_NATS_URL`, else the embedded server."""

from pathlib import Path

import pytest

from convive.bus import URL_VARIABLE, BusUnavailable, open_bus

pytestmark = pytest.mark.anyio

NOBODY = {URL_VARIABLE: "nats://127.0.0.1:1"}


async def test_the_environment_names_the_server_when_nothing_else_does(nats_url: str) -> None:
    async with open_bus(environ={URL_VARIABLE: nats_url}) as bus:
        assert bus.where == nats_url
    with pytest.raises(BusUnavailable, match=r"no NATS server at nats://127\.0\.0\.1:1 .*CONVIVE_NATS_URL"):
        async with open_bus(environ=NOBODY):
            pass


async def test_an_explicit_url_wins_over_the_environment_and_over_a_directory(nats_url: str, tmp_path: Path) -> None:
    async with open_bus(nats_url, environ=NOBODY) as bus:
        assert bus.where == nats_url
    store = tmp_path / "store"
    async with open_bus(nats_url, data=store, environ=NOBODY) as bus:
        assert bus.where == nats_url
    assert not store.exists()


async def test_an_explicit_directory_wins_over_the_environment(nats_url: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    for environ in (NOBODY, {URL_VARIABLE: nats_url}):
        async with open_bus(data=store, environ=environ) as bus:
            assert bus.where not in (nats_url, *NOBODY.values())
            assert bus.sync == "always"
    assert (store / "jetstream").is_dir()
