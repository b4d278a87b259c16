"""Where a model came from: what a results folder has to record to be reproducible.

Kept beside the models, in a weak table, so that the TransformerLens objects themselves stay as
TransformerLens made them. A model that was not loaded here is described by what it says of itself.
"""

import copy
import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, Literal
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from step_saliency.models.contents import contents_digest
from step_saliency.models.facts import backend_of, dtype_of, name_of
from step_saliency.models.offloaded import numbers_of

SAMPLED_WEIGHTS = 64


@dataclass(frozen=True)
class Origin:
    """How a model was loaded.

    Attributes:
        name: Name that the user gave.
        source: Hub id or folder that the weights were read from.
        gguf_file: File inside ``source``, where the weights are a GGUF file.
        revision: Commit hash of a hub checkpoint, else the revision asked for, else None.
        trust_remote_code: Whether the user allowed code from the checkpoint.
        process_weights: Whether TransformerLens' weight processing was asked for.
    """

    name: str
    source: str
    gguf_file: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    process_weights: bool = False


_ORIGINS: "WeakKeyDictionary[nn.Module, Origin]" = WeakKeyDictionary()
_CONFIGS: "WeakKeyDictionary[nn.Module, Any]" = WeakKeyDictionary()
_TOKENIZERS: "WeakKeyDictionary[nn.Module, Any]" = WeakKeyDictionary()
_GENERATION_CONFIGS: "WeakKeyDictionary[nn.Module, Any]" = WeakKeyDictionary()


def record_origin(
    model: nn.Module, origin: Origin, config: Any, generation_config: Any = None
) -> None:
    """Remember where ``model`` and its tokenizer came from, for as long as it lives.

    Args:
        model: The model.
        origin: Where it came from.
        config: The transformers config of the checkpoint.
        generation_config: Its generation config, if it has one.
    """
    _ORIGINS[model] = origin
    _AS_LOADED[model] = WeightsState.of(model)
    _CONFIGS[model] = copy.deepcopy(config)
    _TOKENIZERS[model] = getattr(model, "tokenizer", None)
    _GENERATION_CONFIGS[model] = copy.deepcopy(generation_config)


@dataclass(frozen=True, eq=False)
class WeightsState:
    """Which tensors the parameters of a model are, and what they hold.

    Moving a model to a device or type changes neither; what else happens to a model between two
    types is told by versions alone. Of what they hold `contents` says what is seen.

    Attributes:
        parameters: Each parameter, as long as it lives, and its version.
        dtypes: Their types.
        contents: A digest of their numbers.
    """

    parameters: tuple[tuple["ref[Tensor]", int], ...]
    dtypes: tuple[torch.dtype, ...]
    contents: str

    @classmethod
    def of(cls, model: nn.Module) -> "WeightsState":
        """The state that a model is in."""
        own = list(model.parameters())
        return cls(
            tuple((ref(x), _version(x)) for x in own),
            tuple(x.dtype for x in own),
            contents_digest(own),
        )

    def is_still(self, model: nn.Module) -> bool:
        """Whether the model is in it."""
        own = list(model.parameters())
        if len(own) != len(self.parameters):
            return False
        pairs = zip(own, self.parameters, strict=True)
        if any(known() is not x or count != _version(x) for x, (known, count) in pairs):
            return False
        retyped = self.dtypes != tuple(x.dtype for x in own)
        return retyped or self.contents == contents_digest(own)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


_AS_LOADED: "WeakKeyDictionary[nn.Module, WeightsState]" = WeakKeyDictionary()


def is_changed(model: nn.Module) -> bool:
    """Whether weights of a loaded model were replaced or changed in place, also by ``.data``."""
    loaded = _AS_LOADED.get(model)
    return loaded is not None and not loaded.is_still(model)


def origin_of(model: nn.Module) -> Origin | None:
    """Where ``model`` came from; None for a model that was not loaded here."""
    return _ORIGINS.get(model)


def config_of_origin(model: nn.Module) -> Any:
    """The transformers config of the checkpoint's language model; None if not loaded here."""
    config = _CONFIGS.get(model)
    return getattr(config, "text_config", None) or config


def tokenizer_of_origin(model: nn.Module) -> Any:
    """The tokenizer that ``model`` was loaded with; None for a model that was not loaded here."""
    return _TOKENIZERS.get(model)


def generation_config_of_origin(model: nn.Module) -> Any:
    """The generation config of the checkpoint; None if there is none, or not loaded here."""
    return _GENERATION_CONFIGS.get(model)


def model_state(model: nn.Module) -> tuple[Any, ...]:
    """What changes when weights are replaced or changed in place, or the tokenizer is; cheap.

    A tensor's version counts its changes, except those that are made through ``.data``: these are
    for `WeightsState` to tell, which reads all numbers.
    """
    tensors = [*model.parameters(), *model.buffers()]
    versions = [(x.data_ptr(), _version(x)) for x in tensors]
    return (id(getattr(model, "tokenizer", None)), *versions)


def model_identity(model: nn.Module) -> dict[str, Any]:
    """Describe a model for a run manifest, in JSON types.

    Args:
        model: A HookedTransformer or TransformerBridge.

    Returns:
        name, source, gguf_file, revision, trust_remote_code, process_weights, backend, dtype and
        the versions of transformer-lens, transformers and torch. ``source`` is None for a model
        that ``load_model`` did not load.
    """
    backend: Literal["hooked", "bridge"] = backend_of(model)
    origin = _ORIGINS.get(model)
    facts = asdict(origin) if origin else {"name": name_of(model), "source": None, "revision": None}
    return {
        **facts,
        "backend": backend,
        "dtype": str(dtype_of(model)).removeprefix("torch."),
        "transformer_lens": version("transformer-lens"),
        "transformers": version("transformers"),
        "torch": version("torch"),
    }


def weights_digest(model: nn.Module) -> str:
    """Changes when weights change: a hash of some numbers of every parameter.

    Raises:
        ValueError: a parameter has no numbers anywhere (device ``meta``).
    """
    names = sorted(name for name, _ in model.named_parameters())
    places = (name.rpartition(".") for name in names)
    return tensor_digest(numbers_of(model.get_submodule(place), own) for place, _, own in places)


_ALL_WEIGHTS: "WeakKeyDictionary[nn.Module, tuple[WeightsState, str]]" = WeakKeyDictionary()
CHUNK = 2**20


def all_weights_digest(model: nn.Module) -> str:
    """Changes when any weight changes; a hash of all.

    Read once for each state of the model. Parameters that lie elsewhere between passes (device
    ``meta``) take part by their shapes alone.
    """
    known = _ALL_WEIGHTS.get(model)
    if known is not None and known[0].is_still(model):
        return known[1]
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters(), key=lambda own: own[0]):
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        if not parameter.is_meta:
            flat = parameter.detach().reshape(-1)
            for part in flat.split(CHUNK):
                digest.update(part.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    _ALL_WEIGHTS[model] = WeightsState.of(model), digest.hexdigest()[:16]
    return _ALL_WEIGHTS[model][1]


def tensor_digest(tensors: Iterable[Tensor]) -> str:
    """A hash of some numbers of each tensor."""
    digest = hashlib.sha256()
    for tensor in tensors:
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, len(flat) // SAMPLED_WEIGHTS)].to("cpu", torch.float64)
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:16]
