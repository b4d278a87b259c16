"""Free memory: what can be had, not what lies idle."""

from pathlib import Path

import psutil
import pytest
import torch
from tiny import tiny_tokenizer, tiny_transformers

from step_saliency.models import load_model
from step_saliency.models.memory import UNLIMITED, container_free_bytes, free_bytes
from step_saliency.models.reference import reference_model


def group(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"memory.{name}").write_text(text + "\n")
    return folder


def test_main_memory() -> None:
    assert 2**20 < free_bytes(torch.device("cpu")) <= psutil.virtual_memory().total


def test_files_kept_in_memory_count_as_free(tmp_path: Path) -> None:
    stat = "anon 300\ninactive_file 400\nactive_file 200\nslab 50"
    full = group(tmp_path, max="1000", current="950", stat=stat)
    assert container_free_bytes(full) == 650


def test_no_limit(tmp_path: Path) -> None:
    assert container_free_bytes(tmp_path) == UNLIMITED
    assert container_free_bytes(group(tmp_path, max="max", current="1", stat="")) == UNLIMITED


def test_a_second_copy_waits_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused while there is no room, and had once there is."""
    tiny_transformers("qwen2").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model = load_model(tmp_path).double()  # whose weights are no longer those that were read
    with monkeypatch.context() as full:
        full.setattr("step_saliency.models.reference.free_bytes", lambda device: 1)
        with pytest.raises(ValueError, match="no memory for a second copy"):
            reference_model(model)
    assert reference_model(model) is reference_model(model)
