"""What a benchmark run depends on; kept in its folder and compared when it is taken up again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from step_saliency.benchmark.conditions import CONDITIONS, END_OF_THINKING, condition_of
from step_saliency.benchmark.presets import Preset, preset_of
from step_saliency.benchmark.provider.settings import EngineName, ProviderSettings, dtype_of
from step_saliency.benchmark.sandbox.choice import SANDBOXES, SandboxName
from step_saliency.benchmark.suites.files import digest_of
from step_saliency.benchmark.suites.suites import Selection, suite_of
from step_saliency.options import Decoding, check_option, is_whole, refuse
from step_saliency.storage.files import is_file, make_folder, write_text
from step_saliency.storage.manifest import read_facts, refuse_changes

FORMAT = "step-saliency-benchmark/1"
SETTINGS = "benchmark.json"
RESPONSES = "responses"
PAPER_SUITES = ("aime24", "aime25", "amc23", "math500", "gpqa_diamond", "livecodebench")
PAPER_CONDITIONS = ("baseline", "oeb", "smi", "stepflow")
MACHINE = ("device", "device_map", "batch_size", "sandbox", "tensor_parallel")
"""Settings that say where, and not what; they may change when a run is taken up again."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """A run.

    Attributes:
        model: Bundled name, folder, GGUF file or hub id.
        suites: Names of suites.
        conditions: Names of conditions; the baseline is among them.
        samples: ``"paper"``, or so many of each problem.
        problems: The first problems of each suite only.
        data: Local files by suite.
        seed: Of samples, and of the order of options.
        temperature: In place of the preset's.
        top_p: In place of the preset's.
        max_tokens: In place of the preset's.
        tau_max: Upper bound of tau_B of the bridge.
        alpha: Strength of momentum.
        release: Of LiveCodeBench.
        start: First day of contests of LiveCodeBench.
        end: Last day.
        dtype: Data type of the weights.
        revision: Branch, tag or commit of a hub id.
        trust_remote_code: Let code from the checkpoint run.
        engine: ``"transformers"``, or ``"vllm"``.
        tensor_parallel: Cards that a vLLM engine spreads one model over.
        max_length: Longest sequence of a vLLM engine, which cuts responses there.
        device: Where the weights go.
        device_map: How accelerate spreads one model over several devices.
        batch_size: Responses decoded together.
        sandbox: Where programs are run.

    Raises:
        ValueError: a name that is unknown or stands there twice, a number or a day out of range, a
            condition that the model cannot be asked under.
    """

    model: str
    suites: Sequence[str] = PAPER_SUITES
    conditions: Sequence[str] = PAPER_CONDITIONS
    samples: str | int = "paper"
    problems: int | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    temperature: float | int | None = None
    top_p: float | int | None = None
    max_tokens: int | None = None
    tau_max: float | int = 0.15
    alpha: float | int = 0.06
    release: str = "v6"
    start: str | None = None
    end: str | None = None
    dtype: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    engine: EngineName = "transformers"
    tensor_parallel: int = 1
    max_length: int | None = None
    device: str | None = None
    device_map: str | None = None
    batch_size: int = 64
    sandbox: SandboxName = "auto"

    def __post_init__(self) -> None:
        suites = tuple(suite_of(name).name for name in self.suites)
        conditions = tuple(condition_of(name).name for name in self.conditions)
        data = {suite_of(name).name: str(file) for name, file in self.data.items()}
        self.provider_settings("stepflow")
        check_option("sandbox", self.sandbox, SANDBOXES)
        object.__setattr__(self, "suites", suites)
        object.__setattr__(self, "conditions", conditions)
        object.__setattr__(self, "data", data)
        refuse(
            {
                "suites=() is empty": not suites,
                f"suites={suites} name one twice": len(set(suites)) < len(suites),
                f"conditions={conditions} name one twice": len(set(conditions)) < len(conditions),
                f"conditions={conditions} lack the baseline, which all others are compared with": (
                    "baseline" not in conditions
                ),
                f"samples={self.samples!r} is neither 'paper' nor a number above 0": (
                    self.samples != "paper" and not is_whole(self.samples, least=1)
                ),
                f"seed={self.seed!r} is no whole number of 0 or above": not is_whole(
                    self.seed, least=0
                ),
                f"problems={self.problems!r} is below 1": self.problems is not None
                and not is_whole(self.problems, least=1),
                f"max_tokens={self.max_tokens!r} is below 1": self.max_tokens is not None
                and not is_whole(self.max_tokens, least=1),
                f"data for {sorted(set(data) - set(suites))}, which are not among the suites": bool(
                    set(data) - set(suites)
                ),
            }
        )
        self._check_asking()

    def _check_asking(self) -> None:
        """Decoding, problems and conditions, by the classes that know them."""
        preset = self.preset
        Decoding(
            temperature=preset.temperature,
            top_p=preset.top_p,
            top_k=preset.top_k,
            max_new_tokens=preset.max_tokens,
            seed=self.seed,
        )
        self.selection(self.suites[0])
        forced = [name for name in self.conditions if condition_of(name).forced is not None]
        if forced and preset.reasoning_effort is not None:
            raise ValueError(
                f"conditions={forced} put words in place of {END_OF_THINKING}, which models of "
                f"preset {preset.name} do not write (their format is Harmony)"
            )

    @property
    def preset(self) -> Preset:
        """The model's preset, with what these settings put in place of it."""
        preset = preset_of(self.model)
        own = {name: getattr(self, name) for name in ("temperature", "top_p", "max_tokens")}
        return replace(preset, **{name: value for name, value in own.items() if value is not None})

    def provider_settings(self, flow: str) -> ProviderSettings:
        """Options of the provider under a flow.

        Raises:
            ValueError: one that is out of range, or does not go with another.
        """
        return ProviderSettings.of(self.provider_options(flow))

    def provider_options(self, flow: str) -> dict[str, Any]:
        """What `provider_settings` are made of; what is as the provider chooses is left out."""
        defaults = {field.name: field.default for field in fields(ProviderSettings)}
        names = (
            "engine", "tensor_parallel", "max_length", "dtype", "revision", "device",
            "device_map", "trust_remote_code",
        )  # fmt: skip
        given = {
            name: getattr(self, name) for name in names if getattr(self, name) != defaults[name]
        }
        strengths = {} if flow == "none" else {"tau_max": self.tau_max, "alpha": self.alpha}
        return {"flow": flow, "batch_size": self.batch_size, **strengths, **given}

    def samples_of(self, suite: str) -> int:
        """Samples of each problem of a suite; 4 where the paper does not have it."""
        return suite_of(suite).samples or 4 if self.samples == "paper" else int(self.samples)

    def size_of(self, suite: str) -> int:
        """Problems of a suite, as far as it is known without the hub; a file may have others."""
        size = suite_of(suite).size
        return min(size, self.problems or size)

    def selection(self, suite: str) -> Selection:
        """Which problems of a suite, and from where."""
        return Selection(
            file=self.data.get(suite),
            limit=self.problems,
            seed=self.seed,
            release=self.release,
            start=self.start,
            end=self.end,
        )

    @property
    def digests(self) -> dict[str, str]:
        """Hash of each suite's local file, as far as it is one file and there."""
        files = {suite: Path(file) for suite, file in self.data.items()}
        return {suite: digest_of(file) for suite, file in files.items() if file.is_file()}

    @property
    def runs(self) -> list[tuple[str, str]]:
        """Suite and condition of each run; conditions that are counted from others have none."""
        return [
            (suite, condition)
            for suite in self.suites
            for condition in self.conditions
            if CONDITIONS[condition].needs_a_run
        ]

    def to_dict(self) -> dict[str, Any]:
        """In JSON types."""
        return dict(json.loads(json.dumps(asdict(self))))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "BenchmarkSettings":
        """What `to_dict` made."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


def keep_settings(out: Path, settings: BenchmarkSettings) -> None:
    """Write the settings into a folder, or see that they are those of its run.

    Beside them stand what the machine makes of them, the data type of the weights where none is
    named, and the hashes of local files; these count once there are responses.

    Raises:
        ValueError: the folder is of a run with other settings.
    """
    file = out / SETTINGS
    resolved = {"dtype": str(dtype_of(settings.provider_settings("none"))), **settings.digests}
    if is_file(file):
        before = read_settings(out).to_dict()
        refuse_changes(file, before, settings.to_dict(), free=MACHINE)
        known = _facts(out).get("resolved")
        if known is not None and (out / RESPONSES).exists():
            refuse_changes(file, known, resolved)
            return
    make_folder(out)
    facts = {"format": FORMAT, "settings": settings.to_dict(), "resolved": resolved}
    write_text(file, json.dumps(facts, indent=2))


def read_settings(out: Path) -> BenchmarkSettings:
    """The settings of a folder.

    Raises:
        ValueError: it is no folder of a benchmark run.
    """
    return BenchmarkSettings.from_dict(_facts(out)["settings"])


def resolved_dtype(out: Path) -> str | None:
    """Data type of the weights of a run, as the machine of its command made it; None if unknown."""
    facts = _facts(out) if is_file(out / SETTINGS) else {}
    dtype = facts.get("resolved", {}).get("dtype")
    return None if dtype is None else str(dtype)


def _facts(out: Path) -> Mapping[str, Any]:
    file = out / SETTINGS
    if not is_file(file):
        raise ValueError(f"{out} holds no {SETTINGS}, so it is no folder of a benchmark run")
    return read_facts(file, kind=FORMAT, writer="step-saliency benchmark")
