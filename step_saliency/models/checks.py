"""What the doctor checks: how each is measured, what relies on it, and what to do if it fails."""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, get_args

from step_saliency.models import probes

Check = Literal[
    "finite_weights",
    "trained_weights",
    "own_tokenizer",
    "chat_template",
    "windows",
    "finite_activations",
    "live_attention",
    "transformers_attention",
    "score_edits",
    "score_softmax",
    "pattern_rows",
    "gradients",
    "value_gradients",
    "score_products",
    "local_gradients",
    "head_edits",
    "head_outputs",
    "residual_edits",
    "cached_decoding",
    "transformers_logits",
]
"""Names of the checks, which are the names of the capabilities too."""
CHECKS: tuple[Check, ...] = get_args(Check)

SOUND: tuple[Check, ...] = (
    "finite_weights",
    "trained_weights",
    "own_tokenizer",
    "windows",
    "finite_activations",
    "live_attention",
    "transformers_attention",
)
"""What maps, decoding and attached edits need of every model."""

TOGETHER: tuple[frozenset[Check], ...] = (
    frozenset({"score_edits", "head_edits", "residual_edits"}),
    frozenset(
        {
            "finite_activations",
            "live_attention",
            "transformers_attention",
            "gradients",
            "value_gradients",
            "score_products",
            "pattern_rows",
            "score_softmax",
            "head_outputs",
        }
    ),
)
"""Checks that read the same pass, and are made together."""


class Probe(NamedTuple):
    """A check: how it is measured, what needs it, and what to do where it fails."""

    measure: Callable[[probes.Examination], probes.Measurement]
    needed_for: str
    advice: str


_OTHER_CLASS = "load the model as the other class, backend='hooked' or 'bridge'"
_ANOTHER_TL = (
    "TransformerLens' bridge computes this architecture otherwise than the checkpoint; try another "
    "version of transformer-lens, or backend='hooked'"
)
_LOAD_AGAIN = "load the checkpoint anew; is the file whole, and of this architecture?"
_WIDER = "load with dtype='bfloat16', or 'float32'"
_FAST = "decode with ss.generate(..., method='fast')"
_STREAM = f"{_OTHER_CLASS}, or map with method='streaming'"
PROBES: Mapping[Check, Probe] = {
    "finite_weights": Probe(probes.finite_weights, "everything", _LOAD_AGAIN),
    "trained_weights": Probe(
        probes.trained_weights, "everything", "take a checkpoint that has these tensors"
    ),
    "own_tokenizer": Probe(
        probes.own_tokenizer, "everything that reads text", "give the model the checkpoint's own"
    ),
    "chat_template": Probe(
        probes.chat_template, "questions as a chat", "set tokenizer.chat_template, if there is one"
    ),
    "windows": Probe(probes.windows, "everything", f"mend the config's window, or {_OTHER_CLASS}"),
    "finite_activations": Probe(probes.finite_activations, "everything", _WIDER),
    "live_attention": Probe(probes.live_attention, "everything", _LOAD_AGAIN),
    "transformers_attention": Probe(probes.transformers_attention, "everything", _ANOTHER_TL),
    "score_edits": Probe(
        probes.score_edits,
        "Odds-Equal Bridge, attention knockout, maps by hooks",
        f"{_STREAM}, or {_FAST}",
    ),
    "score_softmax": Probe(probes.score_softmax, "Odds-Equal Bridge, streaming maps", _OTHER_CLASS),
    "pattern_rows": Probe(probes.pattern_rows, "Step-Saliency, attention maps", _OTHER_CLASS),
    "gradients": Probe(probes.gradients, "Step-Saliency", f"{_WIDER}, or {_OTHER_CLASS}"),
    "value_gradients": Probe(probes.value_gradients, "maps by hooks", _STREAM),
    "score_products": Probe(
        probes.score_products, "next-token maps by hooks in one backward pass", _STREAM
    ),
    "local_gradients": Probe(
        probes.local_gradients, "next-token maps in one backward pass", _STREAM
    ),
    "head_edits": Probe(
        probes.head_edits,
        "Step Momentum Injection, head ablation, maps by hooks",
        f"{_STREAM}, or {_FAST}",
    ),
    "head_outputs": Probe(
        probes.head_outputs,
        "Step Momentum Injection, edits of head outputs, maps by hooks",
        f"{_STREAM}, or {_FAST}",
    ),
    "residual_edits": Probe(
        probes.residual_edits, "residual Step Momentum, activation patching", _OTHER_CLASS
    ),
    "cached_decoding": Probe(
        probes.cached_decoding, "generation with interventions", "decode with method='fast'"
    ),
    "transformers_logits": Probe(
        probes.transformers_logits, "results about the checkpoint", _OTHER_CLASS
    ),
}
