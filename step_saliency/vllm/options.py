"""What a request asks of StepFlow, as JSON that goes through any client.

``SamplingParams(extra_args={"stepflow": "stepflow"})``, or over HTTP ``"vllm_xargs": {"stepflow":
"oeb"}``. The value is the name of a flow, an object with the fields of `FlowOptions`, or such an
object as a JSON string (HTTP clients may send no objects there).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from step_saliency.intervene.choices import CURRENTS, Current
from step_saliency.intervene.oeb.edit import OddsEqualBridge
from step_saliency.intervene.smi import StepMomentumInjection
from step_saliency.intervene.stepflow import StepFlow
from step_saliency.models.bands import Bands
from step_saliency.options import (
    FORMATS,
    SPLITTERS,
    FormatName,
    check_option,
    is_whole,
)
from step_saliency.storage.json_text import parse_json

KEY = "stepflow"
"""Name of the field in ``SamplingParams.extra_args`` and in ``additional_config``."""

FlowLiteral = Literal["off", "oeb", "smi", "stepflow"]
FLOWS: tuple[str, ...] = get_args(FlowLiteral)
"""No edit, the bridge alone, momentum alone, both."""


if TYPE_CHECKING:
    Flow: TypeAlias = FlowLiteral
    SplitterOf: TypeAlias = SplitterName
else:  # a wrong name meets `check_option`, not a run-time type check
    Flow = SplitterOf = str


@dataclass(frozen=True)
class FlowOptions:
    """One request's flow.

    Attributes:
        flow: ``"off"``, ``"oeb"``, ``"smi"`` or ``"stepflow"``.
        tau_max: Upper bound of tau_B, in [0, 1).
        alpha: Strength of momentum, 0 or above.
        oeb_layers: Layers of the bridge; the bottom quarter by default.
        smi_layers: Layers of momentum; the top quarter by default.
        current: ``"region"`` or ``"step"``, see `OddsEqualBridge`.
        window: Last tokens of the previous step that momentum is the mean of; None for all.
        question: Question as it stands in the prompt; by default read from the chat template.
        format: Format of the response, see `Trace.from_text`.
        splitter: How the response is cut into steps; causal.
        n_prompt: Tokens of the prompt; by default read from the chat template.

    Raises:
        ValueError: an option out of range.
    """

    flow: Flow = "off"
    tau_max: float | int = 0.15
    alpha: float | int = 0.06
    oeb_layers: Sequence[int] | None = None
    smi_layers: Sequence[int] | None = None
    current: Current = "region"
    window: int | None = None
    question: str | None = None
    format: FormatName = "auto"
    splitter: SplitterOf = "sentence"
    n_prompt: int | None = None

    def __post_init__(self) -> None:
        check_option("flow", self.flow, FLOWS)
        check_option("current", self.current, CURRENTS)
        check_option("format", self.format, FORMATS)
        check_option("splitter", self.splitter, SPLITTERS)
        if not 0 <= self.tau_max < 1:
            raise ValueError(f"tau_max={self.tau_max!r} is not in [0, 1)")
        if not 0 <= self.alpha < float("inf"):
            raise ValueError(f"alpha={self.alpha!r} is not a number of 0 or above")
        if self.window is not None and self.window < 1:
            raise ValueError(f"window={self.window!r} is below 1")
        if self.n_prompt is not None and self.n_prompt < 1:
            raise ValueError(f"n_prompt={self.n_prompt!r} is below 1")
        for name in ("oeb_layers", "smi_layers"):
            layers = getattr(self, name)
            object.__setattr__(self, name, None if layers is None else tuple(layers))

    @classmethod
    def of(cls, asked: Any) -> "FlowOptions":
        """From the value that a request brings.

        Args:
            asked: None, the name of a flow, an object of fields, or that object as JSON.

        Raises:
            ValueError: it is none of these, or a field is unknown or out of range.
        """
        if asked is None:
            return cls()
        if isinstance(asked, str):
            asked = _object(asked) if asked.lstrip().startswith("{") else {"flow": asked}
        if not isinstance(asked, Mapping):
            raise ValueError(
                f"{KEY}={asked!r} is no flow; give one of {', '.join(FLOWS)}, or an object"
            )
        known = [field.name for field in fields(cls)]
        unknown = sorted(map(str, set(asked) - set(known)))
        if unknown:
            raise ValueError(f"{KEY} has no options {unknown}; there are {', '.join(known)}")
        check_types(asked)
        return cls(**{"flow": "stepflow", **asked})

    def for_depth(self, n_layers: int) -> StepFlow | None:
        """The flow in a model of this many layers; None if it is off.

        Raises:
            ValueError: a layer that the model does not have.
        """
        bands = Bands.quarters(n_layers)
        oeb = smi = None
        if self.flow in ("oeb", "stepflow"):
            layers = bands.shallow if self.oeb_layers is None else self.oeb_layers
            oeb = OddsEqualBridge(layers, tau_max=self.tau_max, current=self.current)
        if self.flow in ("smi", "stepflow"):
            layers = bands.deep if self.smi_layers is None else self.smi_layers
            smi = StepMomentumInjection(layers, alpha=self.alpha, window=self.window)
        if oeb is None and smi is None:
            return None
        return _checked(StepFlow(oeb=oeb, smi=smi), n_layers)


def check_types(asked: Mapping[str, Any]) -> None:
    """Refuse options of a wrong type; what is None is not given.

    Raises:
        ValueError: one is no text, number, whole number or list of layers where it should be.
    """
    kinds: dict[str, tuple[str, Callable[[Any], bool]]] = {
        "flow": ("a name", _is_text),
        "current": ("a name", _is_text),
        "format": ("a name", _is_text),
        "splitter": ("a name", _is_text),
        "question": ("a text", _is_text),
        "tau_max": ("a number", _is_number),
        "alpha": ("a number", _is_number),
        "window": ("a whole number", is_whole),
        "n_prompt": ("a whole number", is_whole),
        "oeb_layers": ("a list of whole numbers of 0 or above", _is_layers),
        "smi_layers": ("a list of whole numbers of 0 or above", _is_layers),
    }
    for name, value in asked.items():
        what, is_right = kinds[name]
        may_be_none = name in ("question", "window", "n_prompt", "oeb_layers", "smi_layers")
        if not (is_right(value) or (value is None and may_be_none)):
            raise ValueError(f"{KEY}: {name}={value!r} is not {what}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_layers(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(is_whole(n) and n >= 0 for n in value)


def _checked(flow: StepFlow, n_layers: int) -> StepFlow:
    beyond = sorted({layer for edit in flow.edits for layer in edit.layers if layer >= n_layers})
    if beyond:
        raise ValueError(f"layers {beyond} are beyond a model of {n_layers} layers")
    return flow


def _object(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise ValueError(f"{KEY}={text[:80]!r} is no JSON: {error}") from error


def extra_args(flow: Any, **reading: Any) -> dict[str, dict[str, Any]]:
    """``extra_args`` of a request that is to be decoded with a flow.

    Args:
        flow: `StepFlow`, a bridge or momentum; None for none.
        reading: ``question``, ``n_prompt``, ``format``, ``splitter``: how the response is read.

    Raises:
        ValueError: the flow is another edit, or has a part that this engine does not do (a placebo,
            chosen heads, strengths by layer, another bridge, momentum in the residual).
    """
    given = {name: value for name, value in reading.items() if value is not None}
    whole = _whole_flow(flow)
    options = {} if whole is None else {**_bridge(whole.oeb), **_momentum(whole.smi)}
    name = _name(whole)
    plain = asdict(FlowOptions.of({"flow": name, **options, **given}))
    return {KEY: {key: list(v) if isinstance(v, tuple) else v for key, v in plain.items()}}


def _whole_flow(flow: Any) -> StepFlow | None:
    if isinstance(flow, StepFlow | None):
        return flow
    if isinstance(flow, OddsEqualBridge):
        return StepFlow(oeb=flow)
    if isinstance(flow, StepMomentumInjection):
        return StepFlow(smi=flow)
    raise ValueError(
        f"inside vLLM there are StepFlow, OddsEqualBridge and StepMomentumInjection, and the flow "
        f"is a {type(flow).__name__} (method='fast' takes any edit)"
    )


def _name(flow: StepFlow | None) -> Flow:
    if flow is None:
        return "off"
    if flow.oeb is None or flow.smi is None:
        return "smi" if flow.oeb is None else "oeb"
    return "stepflow"


def _bridge(edit: OddsEqualBridge | None) -> dict[str, Any]:
    if edit is None:
        return {}
    _refuse("the bridge", edit, {"heads": None, "bridge": "auto", "placebo": None})
    return {
        "oeb_layers": tuple(edit.layers),
        "tau_max": _number("tau_max", edit.tau_max),
        "current": edit.current,
    }


def _momentum(edit: StepMomentumInjection | None) -> dict[str, Any]:
    if edit is None:
        return {}
    _refuse("momentum", edit, {"space": "value", "momentum": "step", "boundaries": "step"})
    return {
        "smi_layers": tuple(edit.layers),
        "alpha": _number("alpha", edit.alpha),
        "window": edit.window,
    }


def _refuse(what: str, edit: Any, only: Mapping[str, Any]) -> None:
    for name, value in only.items():
        if getattr(edit, name) != value:
            raise ValueError(
                f"{what} has {name}={getattr(edit, name)!r}; inside vLLM there is {value!r} only "
                "(method='fast' takes the others)"
            )


def _number(name: str, strength: Any) -> float:
    if isinstance(strength, bool) or not isinstance(strength, int | float):
        raise ValueError(f"{name}={strength!r} is no number; by layer there is none inside vLLM")
    return float(strength)
