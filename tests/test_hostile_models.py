"""Model folders as they come: damaged, hostile, unfinished, or one GGUF file.

Whatever is wrong is a ValueError of one line, with the name of the file or tensor, on both model
classes; nothing is unpickled, nothing is filled in.
"""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import BACKENDS, Backend, random_tokens, tiny_tokenizer, tiny_transformers

from step_saliency.cli import main
from step_saliency.models import load_model

INDEX = "model.safetensors.index.json"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(
        "step_saliency.models.unpack.user_cache_path", lambda name: tmp_path / "cache" / name
    )


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    tiny_transformers("qwen2", n_layers=2).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A folder of a test's own, to be spoilt."""
    return Path(shutil.copytree(sound, tmp_path / "model"))


class Bomb:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place),)


def pickled(folder: Path, name: str = "pytorch_model.bin") -> None:
    (folder / name).write_bytes(pickle.dumps(Bomb(folder.parent / "exploded")))


def write_index(folder: Path, name: Any) -> None:
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, name)}))


def change_config(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def drop(folder: Path, *names: str) -> None:
    change_tensors(folder, lambda tensors: [tensors.pop(name) for name in names] and None)


def deep(folder: Path, name: str) -> None:
    (folder / name).write_text("[" * 100_000 + "]" * 100_000)


def cut_short(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def pickle_under_another_name(folder: Path) -> None:
    pickled(folder, "model.safetensors")


def pickle_beside_nothing(folder: Path) -> None:
    pickled(folder)
    (folder / "model.safetensors").write_bytes(b"")


def index_of_pickle(folder: Path) -> None:
    pickled(folder)
    write_index(folder, "pytorch_model.bin")


def weights_named_in_config(folder: Path) -> None:
    pickled(folder, "adapter_model.bin")
    change_config(folder, transformers_weights="adapter_model.bin")


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "some/model"}')


def pipe(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def wider(tensors: dict[str, torch.Tensor]) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name] = torch.cat([tensors[name]] * 2)


def dead(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.1.self_attn.v_proj.weight"].zero_()


def surplus(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.2.mlp.down_proj.weight"] = torch.ones(2, 2)


def written(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "index of a pickle": (index_of_pickle, r"index\.json.*'pytorch_model\.bin'.*safetensors"),
    "index that climbs": (
        lambda folder: write_index(folder, "../../etc/passwd"),
        r"index\.json.*'\.\./\.\./etc/passwd'",
    ),
    "index that climbs to safetensors": (
        lambda folder: write_index(folder, "../other/model.safetensors"),
        r"index\.json.*'\.\./other/model\.safetensors'",
    ),
    "index of an absolute path": (
        lambda folder: write_index(folder, "/etc/passwd"),
        "index.*/etc/passwd",
    ),
    "index of a number": (lambda folder: write_index(folder, 3), "index.* names 3;"),
    "index without names": (written(INDEX, '{"weight_map": {}}'), "index.*weight_map"),
    "index of a file that is not there": (
        lambda folder: write_index(folder, "lost.safetensors"),
        r"lost\.safetensors.*does not exist",
    ),
    "pickle named in the config": (weights_named_in_config, r"'adapter_model\.bin'"),
    "pickle under another name": (pickle_under_another_name, r"model\.safetensors.*no whole"),
    "pickle beside an empty file": (pickle_beside_nothing, r"model\.safetensors.*no whole"),
    "weights cut short": (cut_short, r"model\.safetensors.*no whole"),
    "adapter": (adapter, "adapter"),
    "pipe": (pipe, r"tokenizer\.json.*neither a file nor a folder"),
    "missing embedding": (
        lambda folder: drop(folder, "model.embed_tokens.weight"),
        r"missing tensors: .*embed_tokens\.weight",
    ),
    "missing projection": (
        lambda folder: drop(folder, "model.layers.1.self_attn.k_proj.bias"),
        r"missing tensors: model\.layers\.1\.self_attn\.k_proj\.bias$",
    ),
    "no tensor at all": (
        lambda folder: change_tensors(folder, dict.clear),
        "hold 0 tensors",
    ),
    "other names": (
        lambda folder: change_tensors(
            folder, lambda t: t.update({f"x.{name}": t.pop(name) for name in list(t)})
        ),
        r"missing tensors: .* and \d+ more; extra tensors: x\.model",
    ),
    "extra tensor": (
        lambda folder: change_tensors(folder, surplus),
        r"extra tensors: model\.layers\.2\.mlp\.down_proj\.weight$",
    ),
    "misshapen tensor": (
        lambda folder: change_tensors(folder, wider),
        r"misshapen tensors: model\.layers\.1\.mlp\.down_proj\.weight is \[64, 64\], not \[32, 64",
    ),
    "fewer layers than it says": (
        lambda folder: change_config(folder, num_hidden_layers=1, layer_types=None),
        r"extra tensors: model\.layers\.1",
    ),
    "more layers than it has": (
        lambda folder: change_config(folder, num_hidden_layers=3, layer_types=None),
        r"missing tensors: model\.layers\.2",
    ),
    "far too many layers": (
        lambda folder: change_config(folder, num_hidden_layers=10**7, layer_types=None),
        r"10000000 layers",
    ),
    "layers below none": (lambda folder: change_config(folder, num_hidden_layers=-1), "config"),
    "layers that disagree": (lambda folder: change_config(folder, num_hidden_layers=7), "config"),
    "layers as text": (
        lambda folder: change_config(folder, num_hidden_layers="2"),
        "num_hidden_layers",
    ),
    "heads that do not fit": (
        lambda folder: change_config(folder, num_attention_heads=3),
        "misshapen tensors",
    ),
    "no heads": (lambda folder: change_config(folder, num_attention_heads=0), "config"),
    "huge vocabulary": (
        lambda folder: change_config(folder, vocab_size=10**12),
        r"embed_tokens\.weight is \[",
    ),
    "huge width": (
        lambda folder: change_config(folder, hidden_size=10**9),
        r"parameters and the weights hold",
    ),
    "negative context": (
        lambda folder: change_config(folder, max_position_embeddings=-5),
        "max_position_embeddings=-5",
    ),
    "unknown data type": (lambda folder: change_config(folder, dtype="soft"), "soft"),
    "unknown architecture": (lambda folder: change_config(folder, model_type="brain"), "brain"),
    "unknown activation": (lambda folder: change_config(folder, hidden_act="jump"), "jump"),
    "no tokenizer": (no_tokenizer, "tokenizer"),
    "no tokenizer.json": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer"),
    "tokenizer of another kind": (written("tokenizer.json", "{}"), "tokenizer"),
    **{
        f"{name} is {text}": (written(name, text), f"{name}.* holds {kind}")
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json")
        for text, kind in (("null", "NoneType"), ("[1]", "list"), ('"x"', "str"))
    },
    **{
        f"{name} is broken": (written(name, '{"a": '), f"{name}.* not readable as JSON")
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", INDEX)
    },
    **{
        f"{name} is deep": (lambda folder, name=name: deep(folder, name), f"{name}.*not readable")
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json")
    },
    "config.json is bytes": (
        lambda folder: (folder / "config.json").write_bytes(b"\x80\x81\xff"),
        r"config\.json.*not readable as JSON",
    ),
    "config.json is a folder": (
        lambda folder: ((folder / "config.json").unlink(), (folder / "config.json").mkdir()),
        r"config\.json",
    ),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_folder_is_refused_in_one_line(
    fault: str, backend: Backend, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spoil, message = FAULTS[fault]
    spoil(folder)
    with pytest.raises(ValueError, match=message) as caught:
        load_model(folder, backend=backend)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert not (folder.parent / "exploded").exists()
    assert "LOAD REPORT" not in caplog.text


@pytest.mark.parametrize("fault", ["index of a pickle", "missing embedding", "no tokenizer"])
@pytest.mark.parametrize("command", ["doctor", "map"])
def test_the_command_line_says_it_in_one_line(
    command: str, fault: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    FAULTS[fault][0](folder)
    rows = folder.parent / "rows.jsonl"
    rows.write_text('{"question": "What is 2 + 2?", "response": "<think>2 + 2 = 4</think>4"}\n')
    options = {
        "doctor": ["doctor", str(folder)],
        "map": [
            "map",
            str(rows),
            "--out",
            str(folder.parent / "out"),
            "--quiet",
            "--model",
            str(folder),
        ],
    }
    capsys.readouterr()
    assert main(options[command]) == 2
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line and "Loading weights" not in line]
    assert len(lines) == 1, said.err
    assert lines[0].startswith("step-saliency: ")
    assert str(folder) in lines[0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_tied_embeddings_and_old_buffers_are_fine(backend: Backend, folder: Path) -> None:
    expected = load_model(folder, backend=backend)(random_tokens(9))

    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    change_tensors(folder, add)
    assert torch.equal(load_model(folder, backend=backend)(random_tokens(9)), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sharded_safetensors_load(backend: Backend, sound: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    tiny_transformers("qwen2", n_layers=2).save_pretrained(shards, max_shard_size="20KB")
    tiny_tokenizer().save_pretrained(shards)
    assert len([*shards.glob("*.safetensors")]) > 1
    expected = load_model(sound, backend=backend)(random_tokens(9))
    assert torch.equal(load_model(shards, backend=backend)(random_tokens(9)), expected)


def test_two_files_may_not_hold_one_tensor(folder: Path) -> None:
    names = list(load_file(folder / "model.safetensors"))
    shutil.copy(folder / "model.safetensors", folder / "b.safetensors")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    files = [f"{'ab'[i % 2]}.safetensors" for i in range(len(names))]
    (folder / INDEX).write_text(json.dumps({"weight_map": dict(zip(names, files, strict=True))}))
    with pytest.raises(ValueError, match=r"b\.safetensors.*as another file"):
        load_model(folder)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_dead_layer_is_named(backend: Backend, folder: Path) -> None:
    change_tensors(folder, dead)
    with pytest.warns(UserWarning, match=r"only zeros in model\.layers\.1\.self_attn\.v_proj"):
        load_model(folder, backend=backend)
