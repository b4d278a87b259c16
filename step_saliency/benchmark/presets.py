"""Chat settings of each model, with their sources: one table.

    system             none of these models is given a system prompt by its makers' protocol
    reasoning_effort   variable of GPT-OSS's chat template
    shape              what a plan needs of the model where its config is not at hand

A preset is found by the name of the model, whoever hosts it; what the command line says wins. Each
source was read (November 2026) and says these settings of these models. They are the makers', not
the paper's, whose own decoding settings (its Appendix C.3) were not at hand; its authors' scripts
decode mathematics and GPQA greedily, with at most 30,000 (AIME) or 12,000 tokens; LiveCodeBench has
10,000 tokens, its sampling was not seen. The paper names QwQ-32B-Preview, an earlier model than
QwQ-32B; one preset stands for both.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a model that memory and time depend on.

    Attributes:
        parameters: All of them.
        layers: Layers.
        kv_heads: Heads of keys and values.
        head_size: Size of a head.
    """

    parameters: float
    layers: int
    kv_heads: int
    head_size: int


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How a model is asked.

    Attributes:
        name: Name of the preset.
        matches: Parts of a model's name, in small letters; one of them has to be in it. Without
            any, the name, or the last part of a path, is that of the preset.
        temperature: Of the softmax.
        top_p: Nucleus.
        top_k: Most probable tokens.
        max_tokens: Longest response.
        system: System prompt.
        reasoning_effort: Variable of the chat template.
        published: Name in the published table.
        shape: Sizes of the model.
        source: Where the settings are from.
    """

    name: str
    matches: Sequence[str] = ()
    temperature: float | int
    top_p: float | int = 1.0
    top_k: int | None = None
    max_tokens: int
    system: str | None = None
    reasoning_effort: str | None = None
    published: str | None = None
    shape: Shape | None = None
    source: str


R1_CARD = (
    "README of deepseek-ai/DeepSeek-R1: usage recommendations (0.6, no system prompt), evaluation "
    "results (top-p, length)"
)
QWQ_CARD = (
    "model card of Qwen/QwQ-32B: usage guidelines (top-k between 20 and 40; no length is named)"
)
OSS_CARD = (
    "README of openai/gpt-oss: recommended sampling parameters (no length is named); effort as in "
    "arXiv 2604.06695"
)


def _r1(size: str, shape: Shape) -> Preset:
    return Preset(
        name=f"r1-distill-qwen-{size.lower()}",
        matches=(f"r1-distill-qwen-{size.lower()}",),
        published=f"R1-Distill-Qwen-{size}",
        shape=shape,
        temperature=0.6,
        top_p=0.95,
        max_tokens=32_768,
        source=R1_CARD,
    )


PRESETS: Sequence[Preset] = (
    _r1("7B", Shape(parameters=7.6e9, layers=28, kv_heads=4, head_size=128)),
    _r1("14B", Shape(parameters=14.8e9, layers=48, kv_heads=8, head_size=128)),
    _r1("32B", Shape(parameters=32.8e9, layers=64, kv_heads=8, head_size=128)),
    Preset(
        name="qwq-32b",
        matches=("qwq-32b",),
        temperature=0.6,
        top_p=0.95,
        top_k=40,
        max_tokens=32_768,
        published="QwQ-32B",
        shape=Shape(parameters=32.8e9, layers=64, kv_heads=8, head_size=128),
        source=QWQ_CARD,
    ),
    Preset(
        name="gpt-oss-20b",
        matches=("gpt-oss-20b",),
        temperature=1.0,
        max_tokens=32_768,
        reasoning_effort="medium",
        published="GPT-OSS-20B (medium)",
        shape=Shape(parameters=20.9e9, layers=24, kv_heads=8, head_size=64),
        source=OSS_CARD,
    ),
    Preset(
        name="reasoner",
        temperature=1.0,
        max_tokens=512,
        source="the bundled model's own card",
    ),
    Preset(
        name="reporter",
        temperature=0.6,
        max_tokens=512,
        source="the bundled model's own card",
    ),
    Preset(
        name="smollm2",
        matches=("smollm2",),
        temperature=0.2,
        top_p=0.9,
        max_tokens=512,
        source="README of huggingface/smollm: example of SmolLM2 (no length is named)",
    ),
)
OTHERS = Preset(
    name="others",
    temperature=0.6,
    top_p=0.95,
    max_tokens=32_768,
    source="no preset of this model; settings of R1-Distill",
)


def preset_of(model: str) -> Preset:
    """The preset of a model, by its name or folder; `OTHERS` if there is none.

    The last part of a path counts before the folders that it lies in.
    """
    name = model.lower().replace("_", "-")
    own = name.rstrip("/").rsplit("/", 1)[-1]
    return next(
        (
            preset
            for text in (own, name)
            for preset in PRESETS
            if own == preset.name or any(part in text for part in preset.matches)
        ),
        OTHERS,
    )
