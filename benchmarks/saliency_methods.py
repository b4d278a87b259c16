"""The models that maps are timed on, and the ways to get one that are compared."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

STEP_TOKENS = 40
SAMPLED_BACKWARDS = 4


@dataclass(frozen=True)
class Shape:
    """A model to measure on, and how far each method is taken by default."""

    lengths: dict[str, tuple[int, ...]]
    dtype: str
    checkpointing: bool


SHAPES = {
    "smollm2-135m": Shape(
        {
            "hooked": (512, 1024, 2048, 4096, 8192),
            "bridge": (512, 1024, 2048, 4096, 8192),
            "hooked_linear": (2048, 4096, 8192),
            "bridge_linear": (2048, 4096, 8192),
            "hooked_bfloat16": (512, 2048),
            "plain_inputs": (512, 1024, 2048, 4096, 8192),
            "plain": (512, 1024, 2048, 4096),
            "hooks": (512, 1024),
            "eager": (512, 1024),
            "per_token": (512,),
            "inseq": (128,),
            "captum": (128,),
        },
        dtype="float32",
        checkpointing=False,
    ),
    "qwen2-7b": Shape(
        {"streaming": (16384, 32768), "plain": (16384, 32768)},
        dtype="bfloat16",
        checkpointing=True,
    ),
    "tiny": Shape(
        {
            "hooked": (64, 128),
            "bridge": (64, 128),
            "hooked_linear": (64, 128),
            "plain_inputs": (64, 128),
            "plain": (64, 128),
            "hooks": (64,),
            "eager": (64,),
            "per_token": (64,),
        },
        dtype="float32",
        checkpointing=False,
    ),
}


def load(shape: str, device: str, attention: str) -> Any:
    """The transformers model to measure on."""
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

    dtype = getattr(torch, SHAPES[shape].dtype)
    if shape == "smollm2-135m":
        from step_saliency.models.bundled import BUNDLED

        source = BUNDLED["smollm2-135m-instruct"]()
        model = AutoModelForCausalLM.from_pretrained(
            source.path, gguf_file=source.gguf_file, dtype=dtype, attn_implementation=attention
        )
        return model.to(device).eval()
    config: Any
    if shape == "qwen2-7b":
        config = Qwen2Config(
            vocab_size=152064,
            hidden_size=3584,
            intermediate_size=18944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
            max_position_embeddings=32768,
        )
    else:
        config = LlamaConfig(
            vocab_size=320,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    return model.eval()


def plain(shape: str, device: str, *, to_inputs: bool = False) -> Callable[[int], Any]:
    """One forward and backward pass of the mean loss."""
    model = load(shape, device, "sdpa")
    if to_inputs:
        model.requires_grad_(False)
    if SHAPES[shape].checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()

    def run(n_tokens: int) -> None:
        tokens = random_tokens(model, n_tokens)
        embedded = model.get_input_embeddings()(tokens.unsqueeze(0))
        inputs = embedded.detach().requires_grad_() if to_inputs else embedded
        with flash(device):
            if SHAPES[shape].checkpointing:
                chunked_loss(model, model.model(inputs_embeds=inputs, use_cache=False), tokens)
            else:
                labels = tokens.unsqueeze(0)
                model(inputs_embeds=inputs, labels=labels, use_cache=False).loss.backward()
        model.zero_grad(set_to_none=True)

    return run


def chunked_loss(model: Any, output: Any, tokens: torch.Tensor) -> None:
    """Backward pass of the mean loss without logits of all positions at a time."""
    hidden = output.last_hidden_state
    leaf = hidden.detach().requires_grad_()
    for queries in torch.arange(len(tokens) - 1, device=tokens.device).split(512):
        logits = model.lm_head(leaf[0, queries]).float()
        loss = torch.nn.functional.cross_entropy(logits, tokens[queries + 1], reduction="sum")
        (loss / len(tokens)).backward()
    hidden.backward(leaf.grad)


@contextmanager
def flash(device: str) -> Iterator[None]:
    """PyTorch's flash attention, on CUDA; its choice elsewhere."""
    if device != "cuda":
        yield
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        yield


def streaming(shape: str, device: str) -> Callable[[int], Any]:
    """This toolkit, in linear memory, on the transformers model itself."""
    from step_saliency.saliency.objectives import NextToken
    from step_saliency.saliency.pooling import step_layout
    from step_saliency.saliency.streaming import streaming_maps

    model = load(shape, device, "sdpa")

    def run(n_tokens: int) -> Any:
        trace = make_trace(random_tokens(model, n_tokens).cpu())
        layers = range(model.config.num_hidden_layers)
        layout = step_layout(trace.step_ids)
        return streaming_maps(model, [trace], [NextToken()], layouts=[layout], layers=layers)

    return run


def transformer_lens(
    backend: str, *, keep: str = "auto", dtype: str | None = None
) -> Callable[[str, str], Callable[[int], Any]]:
    """This toolkit on a class of TransformerLens: what it keeps of blocks, and its precision."""

    def method(shape: str, device: str) -> Callable[[int], Any]:
        import step_saliency as ss

        model = load_class(shape, device, backend, dtype or SHAPES[shape].dtype)

        def run(n_tokens: int) -> Any:
            trace = make_trace(random_tokens(model, n_tokens).cpu())
            return ss.step_saliency(model, trace, method="streaming", keep=keep)

        return run

    return method


def load_class(shape: str, device: str, backend: str, dtype: str) -> Any:
    """A model of a class of TransformerLens."""
    import step_saliency as ss
    from step_saliency.models.convert import from_transformers

    if shape == "smollm2-135m":
        return ss.load_model("smollm2-135m-instruct", device=device, backend=backend, dtype=dtype)
    model = load(shape, device, "eager").to(getattr(torch, dtype))
    return from_transformers(model, None, backend=backend, name=shape)


def load_both(shape: str, device: str) -> dict[str, Any]:
    """A model of each class of TransformerLens that is installed."""
    from step_saliency.models.convert import has_hooked

    classes = ("hooked", "bridge") if has_hooked() else ("bridge",)
    return {name: load_class(shape, device, name, SHAPES[shape].dtype) for name in classes}


def hooks(shape: str, device: str) -> Callable[[int], Any]:
    """This toolkit's reference path, on the model class that it loads by default."""
    import step_saliency as ss
    from step_saliency.models.convert import from_transformers, has_hooked

    if shape == "smollm2-135m":
        model = ss.load_model("smollm2-135m-instruct", device=device)
    else:
        backend = "hooked" if has_hooked() else "bridge"
        model = from_transformers(load(shape, device, "eager"), None, backend=backend, name=shape)

    def run(n_tokens: int) -> Any:
        trace = make_trace(random_tokens(model, n_tokens).cpu())
        return ss.step_saliency(model, trace, method="hooks")

    return run


def eager(shape: str, device: str) -> Callable[[int], Any]:
    """|A * dA| of the mean loss from attentions with retained gradients."""
    model = load(shape, device, "eager")

    def run(n_tokens: int) -> Any:
        tokens = random_tokens(model, n_tokens).unsqueeze(0)
        output = model(tokens, labels=tokens, output_attentions=True, use_cache=False)
        for attention in output.attentions:
            attention.retain_grad()
        output.loss.backward()
        maps = [(a.detach() * a.grad).abs().mean(1) for a in output.attentions]
        model.zero_grad(set_to_none=True)
        return maps

    return run


def per_token(shape: str, device: str) -> Callable[[int], Any]:
    """One backward pass for each token, extrapolated from a few; returns seconds of the whole."""
    model = load(shape, device, "eager").requires_grad_(False)

    def run(n_tokens: int) -> float:
        tokens = random_tokens(model, n_tokens).unsqueeze(0)
        embedded = model.get_input_embeddings()(tokens).detach().requires_grad_()
        start = now(device)
        output = model(inputs_embeds=embedded, output_attentions=True, use_cache=False)
        losses = torch.nn.functional.cross_entropy(
            output.logits[0, :-1], tokens[0, 1:], reduction="none"
        )
        forward = now(device) - start
        start = now(device)
        sample = torch.linspace(0, n_tokens - 2, SAMPLED_BACKWARDS).long().tolist()
        for t in sample:
            gradients = torch.autograd.grad(losses[t], output.attentions, retain_graph=True)
            del gradients
        backward = (now(device) - start) / len(sample)
        return forward + backward * (n_tokens - 1)

    return run


METHODS: dict[str, Callable[[str, str], Callable[[int], Any]]] = {
    "hooked": transformer_lens("hooked"),
    "bridge": transformer_lens("bridge"),
    "hooked_linear": transformer_lens("hooked", keep="heads"),
    "bridge_linear": transformer_lens("bridge", keep="heads"),
    "hooked_bfloat16": transformer_lens("hooked", dtype="bfloat16"),
    "streaming": streaming,
    "plain_inputs": lambda shape, device: plain(shape, device, to_inputs=True),
    "plain": plain,
    "hooks": hooks,
    "eager": eager,
    "per_token": per_token,
}


def random_tokens(model: Any, n_tokens: int) -> torch.Tensor:
    """Token ids of any kind, the same for every method."""
    config = getattr(model, "config", None)
    vocab = model.cfg.d_vocab if config is None else config.vocab_size
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, vocab, (n_tokens,), generator=generator)
    return tokens.to(next(iter(model.parameters())).device)


def make_trace(tokens: torch.Tensor) -> Any:
    """A trace of steps of equal length."""
    from step_saliency.trace import Region, Step, Trace

    n = len(tokens)
    starts = range(0, n, STEP_TOKENS)
    steps = tuple(Step(a, min(a + STEP_TOKENS, n), Region.THINKING) for a in starts)
    return Trace(tokens, steps)


def now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
