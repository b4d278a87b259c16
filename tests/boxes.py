"""Boxes for programs, or a skip with the reason why there are none here; what is run in each."""

import subprocess

import pytest
import yaml

from step_saliency.benchmark.sandbox import Bubblewrap, SandboxError
from step_saliency.benchmark.sandbox.docker import COMPOSE, Docker

FILL = """
print("before", flush=True)
written = 0
try:
    with open({place!r}, "wb") as file:
        for _ in range(10 * 1024):
            written += file.write(bytes(2**20))
    print("after")
except OSError:
    pass
print(written, flush=True)
"""
"""Writes ten gigabytes to a place."""
FORK_BOMB = """
import os, time
made = 0
print("before", flush=True)
for _ in range(10_000):
    try:
        if os.fork() == 0:
            time.sleep(600)
        made += 1
    except OSError:
        break
print("made", made, flush=True)
time.sleep(600)
"""
"""Starts processes until it may not, and sleeps."""


def require_box(name: str) -> Bubblewrap | Docker:
    """The box of a name; docker's image is got where it is not there."""
    try:
        box = Bubblewrap.probe() if name == "bubblewrap" else Docker.probe()
    except SandboxError as error:
        pytest.skip(str(error))
    if name == "docker":
        (service,) = yaml.safe_load(COMPOSE.read_text())["services"].values()
        commands = [["docker", "image", step, service["image"]] for step in ("inspect", "pull")]
        if all(subprocess.run(command, capture_output=True).returncode for command in commands):
            pytest.skip(f"docker has no image {service['image']} and cannot get it")
    return box
