"""StepFlow inside vLLM, without vLLM: its tensors, its cache, and what it knows of requests."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import step_saliency as ss
from step_saliency.intervene.fast.counts import projection_counts
from step_saliency.intervene.groups import KeyGroup, key_groups
from step_saliency.intervene.injections import plan_injections
from step_saliency.intervene.labels import WRITTEN, StepLabels, trace_labels
from step_saliency.intervene.oeb.scores import odds_equal_scores
from step_saliency.intervene.rows import TrackedRow
from step_saliency.segment.build import prompt_tokens
from step_saliency.segment.frame import PromptReader
from step_saliency.segment.online import StepTracker
from step_saliency.vllm import FLOWS, KEY, FlowOptions, extra_args, plan
from step_saliency.vllm.counts import row_counters
from step_saliency.vllm.cpu_kernel import COUNTED, bridged_rows, injected_rows, weigh
from step_saliency.vllm.edits import (
    attention_weights,
    bridged,
    momenta,
    visible_keys,
    weighted_values,
)
from step_saliency.vllm.engine import EngineFlows, Scheduled, passes, running
from step_saliency.vllm.layers import LayerCall
from step_saliency.vllm.paged import Order, PackedPages, SplitPages
from step_saliency.vllm.requests import RequestSteps

N_KEYS, N_QUERIES, N_HEADS, N_KV_HEADS, D_HEAD = 23, 3, 4, 2, 8


def random_pass(seed: int, *, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    """Queries, keys, values and groups of two rows."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    codes = torch.randint(0, 3, (2, N_QUERIES, N_KEYS), generator=generator)
    return {
        "query": normal(2, N_QUERIES, N_HEADS, D_HEAD),
        "key": normal(2, N_KV_HEADS, N_KEYS, D_HEAD) * 2,
        "value": normal(2, N_KV_HEADS, N_KEYS, D_HEAD),
        "groups": codes,
        "members": torch.stack([codes == KeyGroup.BRIDGE, codes == KeyGroup.CURRENT], -1).float(),
    }


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("softcap", [0.0, 3.0])
@pytest.mark.parametrize("sinks", [None, torch.tensor([0.3, -1.0, 2.0, 0.0], dtype=torch.float64)])
def test_what_is_added_is_the_projection_of_whole_rows(window, softcap, sinks):
    tensors = random_pass(0)
    n_keys = torch.tensor([N_KEYS, N_KEYS - 4])
    visible = visible_keys(n_keys, N_QUERIES, N_KEYS, window)
    result = bridged(
        *(tensors[name] for name in ("query", "key", "value", "members")),
        visible,
        torch.tensor([0.4, 0.2], dtype=torch.float64),
        scale=0.5,
        softcap=softcap,
        sinks=sinks,
    )
    key = tensors["key"].repeat_interleave(2, dim=1)
    value = tensors["value"].repeat_interleave(2, dim=1)
    scores = torch.einsum("bqhd,bhkd->bhqk", tensors["query"], key) * 0.5
    scores = (scores / softcap).tanh() * softcap if softcap else scores
    scores = scores.masked_fill(~visible[:, None], torch.finfo(scores.dtype).min)
    n_shifted = 0
    for row, tau in enumerate([0.4, 0.2]):
        column = None if sinks is None else sinks[None, :, None].expand(1, -1, N_QUERIES)
        edited, shifts = odds_equal_scores(
            scores[row : row + 1],
            tensors["groups"][row : row + 1, None],
            tau_max=tau,
            sinks=column,
        )
        outputs = [attended(each, value[row], sinks) for each in (edited[0], scores[row])]
        expected = (outputs[0] - outputs[1]).transpose(0, 1)
        torch.testing.assert_close(result.added[row], expected, rtol=1e-9, atol=1e-9)
        n_shifted += int(shifts.shifted.sum())
        alone = ~shifts.shifted[0].transpose(0, 1)
        assert (result.added[row][alone] == 0).all()
    assert n_shifted > 2


@pytest.mark.parametrize("strange", [float("nan"), float("inf")])
def test_places_that_no_query_sees_may_hold_anything(strange):
    """Behind the keys of a row lie those of whoever had the block before."""
    tensors = random_pass(3)
    del tensors["groups"]
    visible = visible_keys(torch.tensor([N_KEYS, N_KEYS - 4]), N_QUERIES, N_KEYS, 7)
    options = (visible, torch.tensor([0.9, 0.9]))
    want = bridged(*tensors.values(), *options, scale=0.5).added
    tensors["value"][1, :, N_KEYS - 4 :] = strange
    tensors["value"][:, :, 0] = strange
    got = bridged(*tensors.values(), *options, scale=0.5).added
    assert torch.equal(got, want)


def test_a_sink_below_every_score_is_a_sink():
    scores, bridge = np.full(6, -200, np.float32), np.array([1, 1, 1, 0, 0, 0], np.float32)
    room = np.empty(6, np.int32)
    masses = weigh(scores.copy(), bridge, 1 - bridge, np.float32(-100), room)
    assert masses[:2] == pytest.approx((0, 0), abs=1e-30)
    masses = weigh(scores.copy(), bridge, 1 - bridge, np.float32(-np.inf), room)
    assert masses[:2] == pytest.approx((0.5, 0.5))


def attended(scores, value, sinks):
    """Attention of scores ``head query key``."""
    if sinks is not None:
        scores = torch.cat([scores, sinks[:, None, None].expand(-1, N_QUERIES, 1)], -1)
    return scores.softmax(-1)[..., : value.shape[1]] @ value


def paged(tensors, n_keys, slots, n_blocks):
    """The cache of a CPU backend with the keys and values of two rows, 1e6 in all other places."""
    blocks = torch.randperm(n_blocks)[: 2 * 5].view(2, 5)
    pages = torch.full((n_blocks, N_KV_HEADS, 2, slots * D_HEAD), 1e6)
    for row, name in ((row, name) for row in range(2) for name in ("key", "value")):
        for place in range(int(n_keys[row])):
            block = pages[blocks[row, place // slots], :, 0 if name == "key" else 1]
            numbers = tensors[name][row, :, place]
            if name == "key":
                block.view(N_KV_HEADS, D_HEAD, slots)[:, :, place % slots] = numbers
            else:
                block.view(N_KV_HEADS, slots, D_HEAD)[:, place % slots] = numbers
    return pages, blocks


@pytest.mark.parametrize("window", [0, 9])
@pytest.mark.parametrize("softcap", [0.0, 3.0])
@pytest.mark.parametrize("has_sinks", [False, True])
@pytest.mark.parametrize("few", [KeyGroup.OTHER, KeyGroup.CURRENT])
def test_the_loop_over_pages_gives_what_gathered_keys_give(window, softcap, has_sinks, few):
    """With few other keys and with few current ones, of which the loop sums the fewer."""
    tensors = random_pass(4, dtype=torch.float32)
    codes = tensors["groups"]
    more = KeyGroup.CURRENT if few == KeyGroup.OTHER else KeyGroup.OTHER
    codes = torch.where((codes == few) & (torch.arange(N_KEYS) % 3 > 0), int(more), codes)
    members = torch.stack([codes == KeyGroup.BRIDGE, codes == KeyGroup.CURRENT], -1).float()[:, :1]
    n_keys = torch.tensor([N_KEYS, N_KEYS - 9])
    pages, blocks = paged(tensors, n_keys, slots=5, n_blocks=12)
    sinks = torch.tensor([0.3, -1.0, 2.0, 0.0]) if has_sinks else None
    tau = torch.tensor([0.5, 0.3])
    queries = tensors["query"][:, :1]
    visible = visible_keys(n_keys, 1, N_KEYS, window or None)
    weights = attention_weights(
        queries, tensors["key"], visible, scale=0.5, softcap=softcap, sinks=sinks
    )
    plain = weighted_values(weights, tensors["value"])
    expected = bridged(
        queries, tensors["key"], tensors["value"], members, visible, tau,
        scale=0.5, softcap=softcap, sinks=sinks,
    )  # fmt: skip
    assert (expected.added != 0).any()
    output = plain[:, 0].clone()
    places, counters = np.array([2, 1]), np.zeros((3, N_HEADS, len(COUNTED)))
    table = torch.zeros(3, 2, N_KEYS)
    table[places] = members[:, 0].mT
    rows = np.stack([np.arange(2), np.arange(2), n_keys.numpy(), places, np.array([1, 1])], 1)
    asked = (queries[:, 0].numpy(), output.numpy(), pages.numpy(), blocks.numpy())
    options = (table.numpy(), tau.numpy(), window, 0.5, softcap)
    options = (*options, np.zeros(0, np.float32) if sinks is None else sinks.numpy())
    bridged_rows(*asked, rows, *options, counters)
    torch.testing.assert_close(output, (plain + expected.added)[:, 0])
    alone = (expected.added[:, 0] == 0).all(-1)
    assert torch.equal(output[alone], plain[:, 0][alone])
    want = row_counters(expected.sums[:, 0].double(), expected.counts[:, 0], tau)
    for number, name in enumerate(COUNTED):
        got = torch.from_numpy(counters[places, :, number])
        torch.testing.assert_close(got, want[name], atol=1e-6, rtol=1e-5)
    once = counters.copy()
    rows[:, 4] = 0
    bridged_rows(*asked, rows, *options, counters)
    assert (counters == once).all(), "what is computed again is not counted again"


def test_the_loop_over_values_gives_the_mean_of_a_step():
    tensors = random_pass(2, dtype=torch.float32)
    n_keys = torch.tensor([N_KEYS, N_KEYS])
    pages, blocks = paged(tensors, n_keys, slots=5, n_blocks=12)
    plain = torch.randn(3, N_HEADS, D_HEAD)
    output, added = plain.clone(), torch.zeros(2, N_HEADS, D_HEAD)
    due = np.array([[2, 1, 3, 9], [0, 0, 14, 15]])
    shares = np.array([0.5 / 6, 0.25], dtype=np.float32)
    injected_rows(output.numpy(), pages.numpy(), blocks.numpy(), due, shares, added.numpy())
    for number, (token, row, first, stop) in enumerate(due.tolist()):
        of_step = tensors["value"][row, :, first:stop].transpose(0, 1)
        alpha = torch.tensor([float(shares[number]) * (stop - first)])
        owners = torch.zeros(stop - first, dtype=torch.long)
        (want,) = momenta(of_step, owners, alpha / (stop - first), n_heads=N_HEADS)
        torch.testing.assert_close(added[number], want)
        torch.testing.assert_close(output[token], plain[token] + want)
    assert torch.equal(output[1], plain[1])


def test_momentum_is_the_mean_value_for_each_head_of_a_group():
    values = torch.arange(40.0).view(5, 2, 4)
    owners, factors = torch.tensor([0, 1, 0, 0, 1]), torch.tensor([0.5 / 3, 0.25 / 2])
    got = momenta(values, owners, factors, n_heads=6)
    for injection, alpha in enumerate([0.5, 0.25]):
        mean = values[owners == injection].mean(0)
        torch.testing.assert_close(got[injection], alpha * mean.repeat_interleave(3, 0))


def packing(cache, key, value, *, by):
    """A cache of one block whose keys are turned and whose values are dealt out in fours."""
    n = key.shape[0] * key.shape[2]
    halves = cache.view(2, n)
    halves[0] = key[:, 0].T.reshape(-1)
    halves[1] = value[:, 0].reshape(by, -1).T.reshape(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("by", [1, 4])
def test_the_order_of_a_packed_cache_is_found(dtype, by):
    slots, d_head = 32, 64

    def write(cache, key, value):
        packing(cache, key, value, by=by)

    order = Order.found(write, slots, d_head, dtype)
    assert order.has_turned_keys
    assert order.has_plain_values == (by == 1)
    numbers = torch.randn(2, slots, 1, d_head).to(dtype)
    cache = torch.zeros(3, 1, slots, 2 * d_head, dtype=dtype)
    write(cache[2:], *numbers)
    pages = PackedPages(cache, order)
    blocks = torch.tensor([[2]])
    assert torch.equal(pages.keys(blocks)[0, 0], numbers[0, :, 0])
    assert torch.equal(pages.values(blocks)[0, 0], numbers[1, :, 0])
    places = torch.tensor([3, 31])
    assert torch.equal(pages.some_values(torch.tensor([2, 2]), places), numbers[1][places])


def test_a_cache_that_drops_numbers_is_refused():
    def write(cache, key, value):
        cache.zero_()

    with pytest.raises(ValueError, match="unknown way"):
        Order.found(write, 4, 8, torch.float32)


def test_keys_and_values_that_lie_side_by_side():
    cache = torch.randn(5, 2, 4, 6)
    pages = SplitPages(cache)
    blocks = torch.tensor([[4, 1], [0, 0]])
    keys = pages.keys(blocks)
    assert torch.equal(keys[0, 1, 5], cache[1, 1, 1, :3])
    assert torch.equal(pages.values(blocks)[1, 0, 2], cache[0, 0, 2, 3:])
    assert torch.equal(
        pages.some_values(torch.tensor([3]), torch.tensor([2]))[0], cache[3, :, 2, 3:]
    )


@pytest.fixture(scope="module")
def tokenizer():
    return ss.load_model("reasoner").tokenizer


def traced(tokenizer) -> ss.Trace:
    return ss.Trace.from_text(
        tokenizer,
        question="n=v-9; r=4; v=r+r; c=v-r; ?n",
        response="\nGiven: r=4.\nThen v=r+r=4+4=8.\nThen n=v-9=8-9=-1.\n</think>\n\n"
        "The answer is -1.",
    )


def steps_of(tokenizer, flow, prompt) -> RequestSteps:
    row = TrackedRow(StepTracker(tokenizer), lambda: PromptReader(tokenizer))
    return RequestSteps(flow, row, prompt)


@pytest.mark.parametrize("current", ["region", "step"])
@pytest.mark.parametrize("chunk", [1, 7])
def test_a_request_has_the_groups_of_its_trace_in_any_parts(tokenizer, current, chunk):
    trace = traced(tokenizer)
    tokens = trace.tokens.tolist()
    n_prompt = tokens.index(tokenizer.convert_tokens_to_ids("<think>")) + 1
    flow = ss.StepFlow(
        oeb=ss.OddsEqualBridge([0], current=current), smi=ss.StepMomentumInjection([1], window=5)
    )
    steps = steps_of(tokenizer, flow, tokens[:n_prompt])
    labels = StepLabels.from_traces([trace])
    acted = injected = 0
    for start in [*range(n_prompt - 1, len(tokens) - chunk, chunk), n_prompt + 3]:
        stop = start + chunk
        steps.read(start, tokens[start:stop])
        if steps.bridge_acts(start, stop):
            acted += 1
            known = labels.up_to(stop)
            groups = key_groups(known, n_queries=chunk, current=current)[0]
            members = steps.members(start, stop)
            assert torch.equal(members[..., 0] == 1, groups == KeyGroup.BRIDGE)
            assert torch.equal(members[..., 1] == 1, groups == KeyGroup.CURRENT)
            if steps._labels[stop - 1][1] in WRITTEN:
                newest = torch.from_numpy(steps.newest_members(stop))
                assert torch.equal(newest.bool(), members[-1].T)
        due = plan_injections(labels.up_to(stop), n_queries=chunk, window=5)
        got = steps.injections(start, stop)
        assert [each.query for each in got] == due.query.tolist()
        assert [list(each.previous) for each in got] == [keys.tolist() for keys in due.previous]
        injected += len(got)
    assert acted > 3
    assert injected >= 3


def test_a_request_whose_cache_holds_what_was_not_read_is_refused(tokenizer):
    flow = ss.StepFlow(oeb=ss.OddsEqualBridge([0]))
    tokens = traced(tokenizer).tokens.tolist()
    steps = steps_of(tokenizer, flow, tokens[:10])
    with pytest.raises(ValueError, match="position 40 of a request of which 10 tokens are known"):
        steps.read(40, tokens[40:41])


class KnownLayers:
    """Layers whose output projection is known."""

    def __init__(self) -> None:
        self.w_o = torch.randn(4, 4, 6, dtype=torch.float64)
        self.watched: set[int] = set()

    def watch(self, layers) -> None:
        self.watched |= set(layers)

    def written(self, layer, outputs):
        return torch.einsum("nhd,hdm->nm", outputs, self.w_o) * layer


def engine(tokenizer, layers=None) -> EngineFlows:
    return EngineFlows(
        tokenizer=lambda: tokenizer, n_layers=8, device=torch.device("cpu"), layers=layers
    )


def test_requests_without_a_flow_cost_nothing_and_ended_ones_leave_nothing(tokenizer):
    flows = engine(tokenizer)
    flows.add("plain", None, [1, 2])
    flows.add("off", "off", [1, 2])
    assert not flows.needs(["plain", "off"])
    flows.add("bridge", "oeb", traced(tokenizer).tokens.tolist()[:9])
    assert flows.needs(["plain", "bridge"])
    assert len(flows) == 3
    flows.end(["plain", "bridge", "off", "never there"])
    assert len(flows) == 0


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"question": "not there"}, "'not there' does not stand in the prompt"),
        ({"question": ""}, "does not stand in the prompt"),
        ({"n_prompt": 1, "question": "a=1. a?"}, "does not stand in the prompt"),
        ({"n_prompt": 999}, "n_prompt=999 is more than the"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_refused_before_it_reaches_a_worker(
    tokenizer, asked, message
):
    flows, prompt = engine(tokenizer), prompt_tokens(tokenizer, "a=1. a?")
    flows.check(FlowOptions.of({"question": "a=1. a?"}), prompt)
    with pytest.raises(ValueError, match=message):
        flows.check(FlowOptions.of(asked), prompt)
    with pytest.raises(ValueError, match="embeddings"):
        flows.check(FlowOptions.of("oeb"), ())
    with pytest.raises(ValueError, match="1000000 is not in the vocabulary"):
        flows.check(FlowOptions.of("oeb"), [*prompt, 10**6])
    assert len(flows) == 0


@pytest.mark.parametrize("pairs", [plan.PAIRS_AT_A_TIME, 90])
@pytest.mark.parametrize("knows_layers", [True, False])
def test_a_pass_edits_the_rows_that_ask_and_no_other(tokenizer, monkeypatch, pairs, knows_layers):
    """Three requests in one pass, against attention of each that is edited as a whole."""
    monkeypatch.setattr(plan, "PAIRS_AT_A_TIME", pairs)
    trace = traced(tokenizer)
    tokens = trace.tokens.tolist()
    n_prompt = tokens.index(tokenizer.convert_tokens_to_ids("<think>")) + 1
    layers = KnownLayers() if knows_layers else None
    flows = engine(tokenizer, layers)
    asked = {"plain": None, "oeb": {"flow": "oeb", "tau_max": 0.5}, "both": {"alpha": 0.5}}
    for request, ask in asked.items():
        flows.add(request, ask, tokens[:n_prompt])
    n_keys = {"plain": 30, "oeb": 40, "both": first_of_a_step(trace, n_prompt)}
    starts = {"plain": 29, "oeb": 34, "both": n_keys["both"] - 1}
    for request in ("oeb", "both"):
        flows._steps[request].read(n_prompt, tokens[n_prompt : starts[request]])
    slots, n_blocks = 16, 12
    cache = torch.randn(n_blocks, 2, slots, 2 * 4, dtype=torch.float64)
    table = torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]])
    scheduled, first = [], 0
    for row, request in enumerate(asked):
        ids = tokens[starts[request] : n_keys[request]]
        scheduled.append(Scheduled(request, row, starts[request], ids, first))
        first += len(ids)
    query = torch.randn(first, 4, 4, dtype=torch.float64)
    plain = torch.randn(first, 4, 4, dtype=torch.float64)
    residuals: list[torch.Tensor] = []
    for _ in range(2):  # as after a preemption
        output = plain.clone()
        with passes():
            flows.begin_pass(scheduled)
            current = running()
            residuals.append(torch.randn(1, 6, dtype=torch.float64))
            if knows_layers:
                current.residuals[7] = residuals[-1]
            for layer in (0, 7):
                LayerCall(layer, query, output, SplitPages(cache), table, scale=0.5).edit(current)
        assert running() is None
    assert torch.equal(output[:1], plain[:1])
    pages = SplitPages(cache)
    expected = torch.zeros_like(plain)
    for at, request in enumerate(("oeb", "both"), start=1):
        n, start = n_keys[request], starts[request]
        here = slice(scheduled[at].first, scheduled[at].first + n - start)
        keys, values = (
            pages.keys(table[at : at + 1])[:, :, :n],
            pages.values(table[at : at + 1])[:, :, :n],
        )
        members = flows._steps[request].members(start, n).unsqueeze(0)
        visible = visible_keys(torch.tensor([n]), n - start, n, None)
        tau = torch.tensor([0.5 if request == "oeb" else 0.15])
        moved = bridged(query[None, here], keys, values, members, visible, tau, scale=0.5)
        expected[here] += moved.added[0]
        if request == "both":
            (injection,) = flows._steps[request].injections(start, n)
            of_step = values[0][:, list(injection.previous)].transpose(0, 1)
            mean = of_step.mean(0).repeat_interleave(2, dim=0)
            expected[scheduled[at].first + injection.query] += 0.5 * mean
    torch.testing.assert_close(output - plain, expected)
    effects = flows.counts.fetch()
    assert set(effects) == {"oeb", "both"}
    assert effects["oeb"].to_frame().rows_seen.tolist() == [6] * 4
    both = effects["both"].to_frame()
    assert set(both.edit) == {"OddsEqualBridge", "StepMomentumInjection"}
    assert both.injections.dropna().tolist() == [1]
    if layers is None:
        assert both.injected_norm.isna().all()
    else:
        assert layers.watched == {6, 7}
        (norm,) = layers.written(7, 0.5 * mean.unsqueeze(0)).norm(dim=-1) / residuals[0].norm()
        assert both.injected_norm.dropna().tolist() == pytest.approx([float(norm)])
    assert flows.counts.fetch() == {}


def test_single_queries_gather_so_many_keys_at_a_time(tokenizer, monkeypatch):
    """Requests of about one length together; each is moved as if all were gathered at once."""
    trace = traced(tokenizer)
    tokens = trace.tokens.tolist()
    n_prompt = tokens.index(tokenizer.convert_tokens_to_ids("<think>")) + 1
    n_keys = [n_prompt + more for more in (20, 4, 19, 5, 18)]
    cache = torch.randn(20, 2, 16, 2 * 4, dtype=torch.float64)
    table = torch.arange(20).view(5, 4)
    query, plain = torch.randn(2, 5, 4, 4, dtype=torch.float64)

    def edited(limit: int) -> tuple[torch.Tensor, list[list[int]], pd.DataFrame]:
        monkeypatch.setattr(plan, "KEYS_AT_A_TIME", limit)
        flows, output = engine(tokenizer), plain.clone()
        scheduled = []
        for row, n in enumerate(n_keys):
            flows.add(str(row), {"flow": "oeb", "tau_max": 0.6}, tokens[:n_prompt])
            flows._steps[str(row)].read(n_prompt, tokens[n_prompt : n - 1])
            scheduled.append(Scheduled(str(row), row, n - 1, tokens[n - 1 : n], row))
        with passes():
            flows.begin_pass(scheduled)
            (batch,) = running().plan.batches(0)
            LayerCall(0, query, output, SplitPages(cache), table, scale=0.5).edit(running())
        parts = [[row.stop for row in part.rows] for part in batch.gathered]
        effects = flows.counts.fetch()
        frames = [effects[str(row)].to_frame() for row in range(5)]
        return output, parts, pd.concat(frames)

    whole, (all_together,), counted = edited(10**6)
    assert all_together == n_keys
    assert not torch.equal(whole, plain)
    for limit in (3 * max(n_keys), max(n_keys) - 1):
        parted, parts, counted_in_parts = edited(limit)
        assert len(parts) > 1
        assert all(len(part) * max(part) <= limit or len(part) == 1 for part in parts)
        assert sorted(n for part in parts for n in part) == sorted(n_keys)
        torch.testing.assert_close(parted, whole)
        pd.testing.assert_frame_equal(counted_in_parts, counted)


def test_the_length_of_a_prompt_is_part_of_what_is_cached(tokenizer):
    """What is response in one turn is prompt in the next, where nothing acts on it."""
    flows, trace = engine(tokenizer), traced(tokenizer)
    tokens = trace.tokens.tolist()
    n_prompt = tokens.index(tokenizer.convert_tokens_to_ids("<think>"))
    first, options = prompt_tokens(tokenizer, trace.question), FlowOptions.of("oeb")
    messages = [
        {"role": "user", "content": trace.question},
        {"role": "assistant", "content": trace.response},
        {"role": "user", "content": "r=4; ?r"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    second = tokenizer(text, add_special_tokens=False)["input_ids"]
    lengths = [flows.check(options, prompt).n_prompt for prompt in (first, second)]
    assert lengths == [len(first), len(second)]
    assert n_prompt <= lengths[0] < lengths[1]
    asked = FlowOptions.of({"flow": "oeb", "n_prompt": 5, "question": None})
    assert flows.check(asked, tokens).n_prompt == 5


def first_of_a_step(trace: ss.Trace, after: int) -> int:
    """Number of tokens up to and with the first of a thinking step."""
    steps = [step for step in trace.steps if step.region == "thinking" and step.start > after + 3]
    return steps[0].start + 1


def test_counters_of_rows_are_those_of_the_projection():
    """Each row's counters, for two bounds in one call, against `projection_counts` row by row."""
    sums = torch.rand(6, 2, 2, dtype=torch.float64) / 2
    counts = torch.tensor([[3.0, 9.0]] * 3 + [[20.0, 1.0]] * 3)
    taus = torch.tensor([0.15, 0.3] * 3)
    got = row_counters(sums, counts, taus)
    for row in range(6):
        one = slice(row, row + 1)
        n_bridge, n_current = counts[one].unsqueeze(-1).unbind(1)
        expected = projection_counts(
            sums[one], n_bridge, n_current, tau=taus[row].item(), heads=None
        )
        assert expected.keys() == got.keys()
        for name, by_head in expected.items():
            torch.testing.assert_close(got[name][row], by_head.double())


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("shallow", "flow='shallow'"),
        (3, "is no flow"),
        ({"tau": 0.1}, r"no options \['tau'\]"),
        ({"tau_max": 1.0}, "tau_max=1.0"),
        ({"tau_max": float("nan")}, "tau_max=nan"),
        ({"tau_max": True}, "tau_max=True"),
        ({"alpha": -1}, "alpha=-1"),
        ({"alpha": "much"}, "alpha='much'"),
        ({"window": 0}, "window=0"),
        ({"oeb_layers": "all"}, "oeb_layers='all'"),
        ({"smi_layers": [1.5]}, "smi_layers"),
        ({"current": "token"}, "current='token'"),
        ({"format": "own"}, "format='own'"),
        ("{not json", "is no JSON"),
        ('{"a":' * 50_000, "is no JSON: it is nested too deeply"),
        ({1: 2, "x": 3}, r"no options \['1', 'x'\]"),
    ],
)
def test_what_is_no_flow_is_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        FlowOptions.of(asked).for_depth(8)


def test_a_layer_beyond_the_model_is_refused():
    with pytest.raises(ValueError, match=r"layers \[8\] are beyond a model of 8 layers"):
        FlowOptions.of({"oeb_layers": [1, 8]}).for_depth(8)


@pytest.mark.parametrize("flow", FLOWS)
def test_options_go_through_json(flow):
    asked = FlowOptions.of(json.dumps({"flow": flow, "tau_max": 0.3}))
    assert (asked.flow, asked.tau_max) == (flow, 0.3)
    made = asked.for_depth(8)
    assert (made is None) == (flow == "off")
    assert FlowOptions.of(extra_args(made)[KEY]).for_depth(8) == made or made is not None


def test_a_flow_becomes_options_and_what_the_engine_lacks_is_refused():
    flow = ss.StepFlow(
        oeb=ss.OddsEqualBridge([0, 2], tau_max=0.2), smi=ss.StepMomentumInjection([5], alpha=0.1)
    )
    options = FlowOptions.of(json.loads(json.dumps(extra_args(flow)[KEY])))
    assert (options.oeb_layers, options.tau_max) == ((0, 2), 0.2)
    assert (options.smi_layers, options.alpha, options.flow) == ((5,), 0.1, "stepflow")
    assert extra_args(None)[KEY]["flow"] == "off"
    for edit in (
        ss.OddsEqualBridge([0], heads=[1]),
        ss.OddsEqualBridge([0], placebo="random"),
        ss.OddsEqualBridge([0], tau_max={0: 0.2}),
    ):
        with pytest.raises(ValueError, match="inside vLLM"):
            extra_args(ss.StepFlow(oeb=edit))
    with pytest.raises(ValueError, match="space='residual'"):
        extra_args(ss.StepFlow(smi=ss.StepMomentumInjection([0], space="residual")))


def test_values_are_summed_for_the_heads_that_share_them():
    weights, value = torch.rand(2, 3, 4, 5), torch.randn(2, 2, 5, 6)
    repeated = value.repeat_interleave(2, dim=1)
    expected = torch.einsum("bqhk,bhkd->bqhd", weights, repeated)
    torch.testing.assert_close(weighted_values(weights, value), expected)


def test_labels_of_a_request_are_those_of_its_trace(tokenizer):
    trace = traced(tokenizer)
    tokens = trace.tokens.tolist()
    flow = ss.StepFlow(oeb=ss.OddsEqualBridge([0]))
    n_prompt = tokens.index(tokenizer.convert_tokens_to_ids("<think>")) + 1
    steps = steps_of(tokenizer, flow, tokens[:n_prompt])
    steps.read(0, tokens)
    assert steps._labels == trace_labels(trace)
