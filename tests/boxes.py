"""Boxes for programs, or a skip with the reason why there are none here."""

import subprocess

import pytest
import yaml

from step_saliency.benchmark.sandbox import Bubblewrap, SandboxError
from step_saliency.benchmark.sandbox.docker import COMPOSE, Docker


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
