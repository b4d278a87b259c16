"""Options of the provider (``-M``): how the model is loaded, and what flow it decodes with."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import torch

from step_saliency.intervene import (
    Edit,
    EditGroup,
    OddsEqualBridge,
    StepFlow,
    StepMomentumInjection,
)
from step_saliency.models.bands import Bands
from step_saliency.models.load import DTYPES
from step_saliency.options import FORMATS, Decoding, FormatName, check_option, is_whole, refuse
from step_saliency.vllm.loaded import LoadedEngine

EngineLiteral = Literal["transformers", "vllm"]
ENGINES: tuple[str, ...] = get_args(EngineLiteral)
FlowLiteral = Literal["none", "oeb", "smi", "stepflow"]
FLOWS: tuple[str, ...] = get_args(FlowLiteral)

if TYPE_CHECKING:
    EngineName: TypeAlias = EngineLiteral
    FlowName: TypeAlias = FlowLiteral
else:
    EngineName = FlowName = str


@dataclass(frozen=True, kw_only=True)
class ProviderSettings:
    """What ``-M NAME=VALUE`` sets.

    Attributes:
        flow: ``"none"``, ``"oeb"``, ``"smi"`` or ``"stepflow"`` (both).
        tau_max: Upper bound of tau_B of the bridge.
        alpha: Strength of momentum.
        shallow: Layers of the bridge; by default the bottom quarter.
        deep: Layers of momentum; by default the top quarter.
        engine: ``"transformers"``, or ``"vllm"``: a vLLM engine, which places the weights itself.
        tensor_parallel: Cards that a vLLM engine spreads one model over.
        max_length: Longest sequence of a vLLM engine, prompt included; the model's by default.
        device: Where the weights go; CUDA if there is a device, else the CPU.
        device_map: How accelerate spreads one model over several devices, such as ``"auto"``; then
            no ``device``.
        dtype: ``"bfloat16"``, ``"float16"``, ``"float32"`` or ``"float64"``; by default bfloat16 on
            CUDA and float32 on a CPU.
        revision: Branch, tag or commit of a hub id.
        trust_remote_code: Let code from the checkpoint run.
        batch_size: Responses decoded together.
        unit: Requests in one call of `ss.generate`; 16 times the batch by default.
        wait: Seconds without a new request after which a call begins.
        format: Format of the responses, see `Trace.from_text`.
        store: Folder in which responses are kept and looked for; none by default.
        reasoning_effort: Variable of the chat template of that name, as GPT-OSS has it.
        date: Day that a chat template is told where it asks for today, ``YYYY-MM-DD``: prompts, and
            so responses, are the same on every day.

    Raises:
        ValueError: an unknown name, or a value out of range.
    """

    flow: FlowName = "none"
    tau_max: float | int = 0.15
    alpha: float | int = 0.06
    shallow: Sequence[int] | None = None
    deep: Sequence[int] | None = None
    engine: EngineName = "transformers"
    tensor_parallel: int = 1
    max_length: int | None = None
    device: str | None = None
    device_map: str | None = None
    dtype: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    batch_size: int = 64
    unit: int | None = None
    wait: float | int = 0.5
    format: FormatName = "auto"
    store: str | None = None
    reasoning_effort: str | None = None
    date: str = "2025-08-05"

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "ProviderSettings":
        """Settings of the options as they come from a command line.

        Raises:
            ValueError: as the class.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(options) - known)
        if unknown:
            raise ValueError(
                f"step-saliency takes no option {', '.join(unknown)}; there are "
                f"{', '.join(sorted(known))}"
            )
        layers = {
            name: _layers(name, options[name])
            for name in ("shallow", "deep")
            if options.get(name) is not None
        }
        return cls(**{**options, **layers})

    def __post_init__(self) -> None:
        check_option("engine", self.engine, ENGINES)
        check_option("flow", self.flow, FLOWS)
        self._check_engine()
        check_option("format", self.format, FORMATS)
        if self.dtype is not None:
            check_option("dtype", self.dtype, tuple(DTYPES))
        self._bridge((0,) if self.shallow is None else self.shallow)
        self._momentum((0,) if self.deep is None else self.deep)
        unit = self.requests_per_call
        refuse(
            {
                f"batch_size={self.batch_size!r} is below 1": not is_whole(
                    self.batch_size, least=1
                ),
                f"unit={unit!r} is below 1": not is_whole(unit, least=1),
                f"wait={self.wait!r} is below 0": not self.wait >= 0,
                f"date={self.date!r} is no day; write YYYY-MM-DD": not _is_day(self.date),
                f"device={self.device!r} and device_map={self.device_map!r} exclude each other": (
                    self.device is not None and self.device_map is not None
                ),
            }
        )

    def _check_engine(self) -> None:
        for_vllm = {"tensor_parallel": 1, "max_length": None}
        is_vllm = self.engine == "vllm"
        refuse(
            {
                f"tensor_parallel={self.tensor_parallel!r} is below 1": not is_whole(
                    self.tensor_parallel, least=1
                ),
                f"max_length={self.max_length!r} is below 1": self.max_length is not None
                and not is_whole(self.max_length, least=1),
                **{
                    f"{name}={getattr(self, name)!r} needs engine='vllm'": not is_vllm
                    and getattr(self, name) != default
                    for name, default in for_vllm.items()
                },
                **{
                    f"{name}={getattr(self, name)!r}: a vLLM engine places its weights itself "
                    "(tensor_parallel)": is_vllm and getattr(self, name) is not None
                    for name in ("device", "device_map")
                },
                "dtype='float64' is none of vLLM's": is_vllm and self.dtype == "float64",
            }
        )

    @property
    def requests_per_call(self) -> int:
        """Requests that one call of `ss.generate` takes at most."""
        return 16 * self.batch_size if self.unit is None else self.unit

    @property
    def slots_of_engine(self) -> dict[str, Any]:
        """Changes of `Decoding`: an engine was told at its start how many it decodes together."""
        return {"batch_size": Decoding().batch_size} if self.engine == "vllm" else {}

    @property
    def template_options(self) -> dict[str, Any]:
        """Variables of the chat template."""
        effort = self.reasoning_effort
        return {} if effort is None else {"reasoning_effort": effort}

    @property
    def changes(self) -> dict[str, Any]:
        """The fields of the flow, in JSON types: what tells one flow of a model from another."""
        if self.flow == "none":
            return {"flow": "none"}
        names = ("flow", "tau_max", "alpha", "shallow", "deep")
        return {name: getattr(self, name) for name in names}

    def flow_for(self, model: Any) -> Edit | EditGroup | None:
        """The edits of a model.

        Args:
            model: The model.

        Raises:
            ValueError: layers that it lacks.
        """
        if self.flow == "none":
            return None
        bands = Bands.quarters(model.n_layers) if isinstance(model, LoadedEngine) else None
        whole = StepFlow.for_model(model, bands=bands, tau_max=self.tau_max, alpha=self.alpha)
        assert whole.oeb is not None
        assert whole.smi is not None
        oeb = whole.oeb if self.shallow is None else self._bridge(self.shallow)
        smi = whole.smi if self.deep is None else self._momentum(self.deep)
        if self.flow == "oeb":
            return oeb
        return smi if self.flow == "smi" else StepFlow(oeb=oeb, smi=smi)

    def _bridge(self, layers: Sequence[int]) -> OddsEqualBridge:
        return OddsEqualBridge(list(layers), tau_max=self.tau_max)

    def _momentum(self, layers: Sequence[int]) -> StepMomentumInjection:
        return StepMomentumInjection(list(layers), alpha=self.alpha)


def device_of(settings: ProviderSettings) -> torch.device:
    """Where weights go on this machine; of a vLLM engine, what it computes on."""
    if settings.device is not None:
        return torch.device(settings.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def dtype_of(settings: ProviderSettings) -> torch.dtype:
    """Data type of the weights on this machine."""
    if settings.dtype is not None:
        return DTYPES[settings.dtype]
    return torch.bfloat16 if device_of(settings).type == "cuda" else torch.float32


def _is_day(text: str) -> bool:
    try:
        dt.date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _layers(name: str, value: Any) -> tuple[int, ...]:
    """Layers as a list, a single number, or text such as ``0-6,20``."""
    if isinstance(value, int):
        return (value,)
    if not isinstance(value, str):
        return tuple(value)
    layers: list[int] = []
    for part in value.split(","):
        first, dash, last = part.partition("-")
        try:
            layers += range(int(first), int(last if dash else first) + 1)
        except ValueError:
            raise ValueError(f"{name}={value!r} is no list of layers; write like 0-6,20") from None
    return tuple(layers)
