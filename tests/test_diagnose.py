"""Lock-in, decay and block intensities, against maps small enough to work out by hand."""

import math

import numpy as np
import pytest
import torch
from maps import make_saliency, make_trace, random_maps

import step_saliency as ss
from step_saliency.diagnosis import Bands, diagnose
from step_saliency.diagnosis.shares import REGIONS, local_steps, uniform_map
from step_saliency.saliency.pooling import normalise, step_layout
from step_saliency.trace import Region

POOLS = ("mean", "mass", "block_mean", "sum")

# Steps: template, question, three of thinking, summary.
HAND = torch.tensor(
    [
        [9.0, 0, 0, 0, 0, 0],
        [9.0, 4, 0, 0, 0, 0],
        [9.0, 1, 3, 0, 0, 0],
        [9.0, 1, 1, 2, 0, 0],
        [9.0, 2, 2, 0, 0, 0],
        [9.0, 1, 1, 1, 2, 3],
    ]
)


def hand_saliency(**changes):
    return make_saliency(HAND.unsqueeze(0), make_trace("_QTTTS"), **changes)


def test_lock_in_of_a_map_worked_out_by_hand():
    first = 3 / 4 - 1 / 2  # sees question and itself; only itself is local
    second = 3 / 4 - 2 / 3  # itself and the step before, of three that it sees
    third = 0 / 4 - 2 / 4
    expected = (first + second + third) / 3
    assert diagnose(hand_saliency()).lock_in.item() == pytest.approx(expected)


def test_decay_of_a_map_worked_out_by_hand():
    assert diagnose(hand_saliency()).decay.item() == pytest.approx((1 + 1 + 2) / 8)


def test_block_intensities_worked_out_by_hand():
    diagnosis = diagnose(hand_saliency())
    question, thinking, summary = range(3)
    intensity = diagnosis.intensity[0]
    assert intensity[thinking, question].item() == pytest.approx((1 + 1 + 2) / 3)
    assert intensity[thinking, thinking].item() == pytest.approx((3 + 1 + 2 + 2 + 0 + 0) / 6)
    assert intensity[summary, thinking].item() == pytest.approx(4 / 3)
    assert intensity[summary, question].item() == pytest.approx(1)
    assert intensity[question, thinking].isnan()
    assert diagnosis.block_ratio.item() == pytest.approx(3 / (8 / 6))


def test_all_pairs_reading_is_the_plain_mean_of_the_block():
    diagnosis = diagnose(hand_saliency(), pairs="all")
    block = HAND[2:5, 2:5].numpy()
    thinking = REGIONS.index(Region.THINKING)
    assert diagnosis.intensity[0, thinking, thinking].item() == pytest.approx(np.mean(block))


def test_local_steps_skip_template_and_the_first_thinking_step_has_no_predecessor():
    regions = [step.region for step in make_trace("QT_TS").steps]
    expected = [[1, 1], [3, 3], [3, 1]]
    assert sorted(local_steps(regions).nonzero().tolist()) == sorted(expected)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("rows", ["query", "target"])
def test_a_map_without_preference_has_no_lock_in_whatever_the_pooling(pool, rows):
    trace = make_trace("_QTTT_TSS", [1, 5, 3, 1, 4, 2, 2, 3, 2])
    layout = step_layout(trace.step_ids, rows=rows)
    row_steps, key_steps = layout.row_steps.tolist(), layout.key_steps.tolist()
    totals = torch.zeros(9, 9, dtype=torch.double)
    for t, row_step in enumerate(row_steps):
        for key_step in key_steps[: t + 1] if row_step >= 0 else []:
            totals[row_step, key_step] += 0.3
    sal = make_saliency(normalise(totals, layout, pool).unsqueeze(0), trace, pool=pool, rows=rows)
    diagnosis = diagnose(sal)
    assert diagnosis.lock_in.item() == pytest.approx(0, abs=1e-9)
    assert diagnosis.shares[0].numpy() == pytest.approx(
        diagnosis.uniform_shares.numpy(), abs=1e-6, nan_ok=True
    )


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("pairs", ["causal", "all"])
@pytest.mark.parametrize("windows", [(None,), (6, None)])
def test_a_map_without_preference_has_the_block_ratio_of_the_uniform_map(pool, pairs, windows):
    trace = make_trace("QTTTSSSS", [2, 2, 3, 1, 2, 2, 4, 2])
    evenly = uniform_map(step_layout(trace.step_ids), pool, windows).expand(len(windows), -1, -1)
    sal = make_saliency(7 * evenly, trace, pool=pool, windows=windows)
    table = diagnose(sal, pairs=pairs).to_frame().query("metric == 'block_ratio'")
    assert table["uniform"].tolist() == pytest.approx(table["value"].tolist())
    is_one = pool == "mean" and pairs == "causal"
    assert (table["uniform"] == 1).tolist() == [is_one] * len(windows)


def test_the_uniform_map_is_compared_over_the_rows_that_a_map_has():
    """As with ``objective="answer"``, after whose tokens rows are empty."""
    trace = make_trace("QTTTTSS")
    evenly = uniform_map(step_layout(trace.step_ids), "mean")
    maps = torch.stack([evenly, evenly, evenly])
    maps[1, 3:] = 0
    maps[2, 6:] = 0
    diagnosis = diagnose(make_saliency(maps, trace))
    table = diagnosis.to_frame()
    for _, row in table[table["metric"].isin(["share", "decay"])].iterrows():
        assert row["uniform"] == pytest.approx(row["value"], nan_ok=True)
    on_thinking = diagnosis.uniform_share(Region.THINKING, Region.THINKING)
    shares = [1 / 2, 2 / 3, 3 / 4, 4 / 5]
    assert on_thinking.tolist() == pytest.approx(
        [sum(shares) / 4, sum(shares[:2]) / 2, sum(shares) / 4]
    )
    assert diagnosis.uniform_decays.tolist() == pytest.approx(
        [(4 / 6 + 4 / 7) / 2, math.nan, 4 / 6], nan_ok=True
    )


def test_mass_pooling_expects_shares_by_token_pairs():
    trace = make_trace("QT", [3, 3])  # the last position predicts nothing: two rows of thinking
    pairs_with_question, pairs_with_itself = 2 * 3, 1 + 2
    maps = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    expected = 1 - pairs_with_itself / (pairs_with_question + pairs_with_itself)
    sal = make_saliency(maps, trace, pool="mass")
    assert diagnose(sal).lock_in.item() == pytest.approx(expected)


def test_looking_only_at_the_step_itself_is_lock_in_and_only_at_the_question_its_opposite():
    trace = make_trace("QTTTTTTS")
    lock_in = [
        diagnose(make_saliency(maps.unsqueeze(0), trace)).lock_in.item()
        for maps in (torch.eye(8), torch.eye(8)[:, [0]].new_ones(8, 1) * torch.eye(8)[0])
    ]
    assert lock_in[0] > 0.4
    assert lock_in[1] < -0.3
    assert lock_in[0] - lock_in[1] == pytest.approx(1)


@pytest.mark.parametrize("pool", POOLS)
def test_the_scale_of_a_map_and_what_template_steps_draw_change_no_share(pool):
    trace = make_trace("_QTT_TTSS")
    maps = random_maps(trace, 3)
    clean = diagnose(make_saliency(maps, trace, pool=pool))
    changed = maps * torch.tensor([0.01, 1, 1e4])[:, None, None]
    template = [i for i, step in enumerate(trace.steps) if step.region is Region.TEMPLATE]
    changed[:, :, template] += 7
    changed[:, template] *= 100
    after = diagnose(make_saliency(changed.tril(), trace, pool=pool))
    for name in ("lock_in", "decay", "shares"):
        assert torch.allclose(getattr(clean, name), getattr(after, name), equal_nan=True)


def test_what_follows_a_row_does_not_change_it():
    trace = make_trace("QTTTSS")
    maps = random_maps(trace, 1)
    grown = make_trace("QTTTSSS")
    longer = torch.zeros(1, 7, 7)
    longer[:, :6, :6] = maps
    longer[:, 6] = 5
    short, long = (
        diagnose(make_saliency(m, t, last_row=True)) for m, t in ((maps, trace), (longer, grown))
    )
    assert torch.allclose(short.lock_in, long.lock_in)
    assert not torch.allclose(short.decay, long.decay)


def test_shares_of_the_regions_sum_to_one():
    trace = make_trace("_QQTTTT_SSS")
    shares = diagnose(make_saliency(random_maps(trace, 5), trace)).shares
    assert torch.allclose(shares.sum(-1), torch.ones(5, 3, dtype=torch.double))


def test_empty_rows_count_in_no_mean():
    maps = HAND.clone().unsqueeze(0)
    maps[0, 4, 1:] = 0
    diagnosis = diagnose(make_saliency(maps, make_trace("_QTTTS")))
    assert diagnosis.lock_in.item() == pytest.approx((3 / 4 - 1 / 2 + 3 / 4 - 2 / 3) / 2)


def test_rows_that_see_local_steps_only_say_nothing_of_lock_in():
    trace = make_trace("TTTS")  # without a question only the third thinking step sees more
    maps = torch.ones(1, 4, 4).tril()
    maps[0, 2] = torch.tensor([2.0, 1, 1, 0])
    assert diagnose(make_saliency(maps, trace)).lock_in.item() == pytest.approx(2 / 4 - 2 / 3)


def test_without_summary_decay_is_missing_with_a_reason():
    trace = make_trace("QTTT")
    diagnosis = diagnose(make_saliency(random_maps(trace, 4), trace))
    assert diagnosis.decay.isnan().all()
    assert math.isnan(diagnosis.decay_index)
    assert diagnosis.reasons["decay"] == "the trace has no summary steps"
    assert not diagnosis.lock_in.isnan().any()
    frame = diagnosis.to_frame().set_index("metric")
    assert set(frame.loc["decay", "reason"]) == {"the trace has no summary steps"}
    assert frame.loc["lock_in", "reason"].isna().all()


def test_without_thinking_both_are_missing_with_a_reason():
    trace = make_trace("QSS")
    diagnosis = diagnose(make_saliency(random_maps(trace, 4), trace))
    assert diagnosis.decay.isnan().all()
    assert diagnosis.lock_in.isnan().all()
    assert set(diagnosis.reasons.values()) == {"the trace has no thinking steps"}


def test_an_empty_layer_is_missing_and_the_others_are_not():
    trace = make_trace("QTTSS")
    maps = random_maps(trace, 4)
    maps[1] = 0
    diagnosis = diagnose(make_saliency(maps, trace))
    assert diagnosis.lock_in.isnan().tolist() == [False, True, False, False]
    assert "1 of 4 layers" in diagnosis.reasons["lock_in"]


def test_a_summary_row_that_sees_thinking_alone_leaves_no_room_for_an_excess():
    trace = make_trace("TTTS", [3, 2, 2, 1])  # the summary's token is predicted while thinking
    maps = random_maps(trace, 4)
    maps[:, 3, 3] = 0
    diagnosis = diagnose(make_saliency(maps, trace, rows="target"))
    assert diagnosis.decay.tolist() == [1, 1, 1, 1]
    frame = diagnosis.to_frame().set_index("metric")
    assert frame.loc["decay", "reason"].isna().all()
    for metric in ("decay_normalised", "decay_normalised_index"):
        assert frame.loc[[metric], "value"].isna().all()
        reason = "no summary row sees thinking and more, and is not empty in 4 of 4 layers"
        assert set(frame.loc[[metric], "reason"]) == {reason}


def test_blocks_and_rows_of_nothing_have_reasons_of_their_own():
    trace = make_trace("QTTSS")
    maps = random_maps(trace, 4, 2)
    maps[1, :, 1:3, 1:3] = 0
    maps[2, 1, 1:3] = 0
    maps[3, :, 0] = 0
    frame = diagnose(make_saliency(maps, trace)).to_frame().set_index(["metric", "layer"])
    ratio = frame.loc["block_ratio"]
    assert ratio["value"].isna().tolist() == [False, True, False, False]
    assert ratio.loc[1, "reason"] == "the intensity of thinking on thinking is 0 in 1 of 4 layers"
    heads = frame.loc[("lock_in", 2)].set_index("head")
    assert heads.loc[1, "reason"] == "no row of this head that counts is not empty"
    share = frame.loc[("share", 3)].set_index("query_region")
    assert set(share["reason"].dropna()) == {"the trace has no question row that is not empty"}


@pytest.mark.parametrize(
    ("n_layers", "shallow", "deep"),
    [
        (1, (0,), ()),
        (2, (0,), (1,)),
        (3, (0,), (2,)),
        (4, (0,), (3,)),
        (8, (0, 1), (6, 7)),
        (30, tuple(range(8)), tuple(range(22, 30))),
    ],
)
def test_default_bands_are_the_bottom_and_the_top_quarter(n_layers, shallow, deep):
    bands = Bands.quarters(n_layers)
    assert (bands.shallow, bands.deep) == (shallow, deep)
    assert sorted(bands.shallow + bands.middle + bands.deep) == list(range(n_layers))


def test_indices_are_means_over_the_bands():
    trace = make_trace("QTTTSS")
    sal = make_saliency(random_maps(trace, 8), trace)
    diagnosis = diagnose(sal)
    assert diagnosis.lock_in_index == pytest.approx(diagnosis.lock_in[:2].mean().item())
    loss = diagnosis.decay[2:6].mean() - diagnosis.decay[6:].mean()
    assert diagnosis.decay_index == pytest.approx(loss.item())
    chosen = diagnose(sal, bands={"shallow": [0], "deep": [5], "middle": [1, 2]})
    assert chosen.lock_in_index == pytest.approx(diagnosis.lock_in[0].item())
    loss = diagnosis.decay[1:3].mean() - diagnosis.decay[5]
    assert chosen.decay_index == pytest.approx(loss.item())


def test_bands_follow_the_layers_of_the_model_when_some_were_computed():
    trace = make_trace("QTTTSS")
    maps = random_maps(trace, 3)
    sal = make_saliency(maps, trace, layers=[1, 9, 11], n_layers=12)
    diagnosis = diagnose(sal)
    assert diagnosis.lock_in_index == pytest.approx(diagnosis.lock_in[0].item())
    assert math.isnan(diagnosis.decay_index)
    assert diagnosis.reasons["decay_index"] == "no layer of the middle band was computed"
    assert "(layers 1 of 0-2)" in repr(diagnosis)
    assert "(layers none of 3-8 against 9, 11 of 9-11)" in repr(diagnosis)
    assert "(layers 1 of 0-2)" in diagnosis._repr_html_()


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        ({"low": [0]}, "unknown"),
        ({"shallow": [0, 4]}, "not among the model's 4 layers"),
        ({"shallow": range(100)}, "layers 4-99 are not among the model's 4 layers, 0 to 3"),
        ({"shallow": [0], "deep": [0]}, "named twice"),
    ],
)
def test_bands_that_make_no_sense_are_refused(bands, message):
    trace = make_trace("QTS")
    with pytest.raises(ValueError, match=message):
        diagnose(make_saliency(random_maps(trace, 4), trace), bands=bands)


@pytest.mark.parametrize(("entry", "message"), [(math.nan, "NaN"), (-1.0, "down to -1")])
def test_maps_that_cannot_be_shared_out_are_refused(entry, message):
    trace = make_trace("QTS")
    maps = random_maps(trace, 4)
    maps[2, 2, 1] = entry
    with pytest.raises(ValueError, match=f"layer 2 .*{message}"):
        diagnose(make_saliency(maps, trace))


def test_each_head_is_diagnosed_on_its_own_map_and_the_layer_on_their_mean():
    trace = make_trace("_QTTTSS")
    maps = random_maps(trace, 4, 3)
    diagnosis = diagnose(make_saliency(maps, trace))
    assert diagnosis.lock_in_heads.shape == (4, 3)
    for head in range(3):
        alone = diagnose(make_saliency(maps[:, head], trace))
        assert torch.allclose(diagnosis.lock_in_heads[:, head], alone.lock_in)
        assert torch.allclose(diagnosis.decay_heads[:, head], alone.decay)
    averaged = diagnose(make_saliency(maps.mean(1), trace))
    assert torch.allclose(diagnosis.lock_in, averaged.lock_in, atol=1e-6)
    assert averaged.lock_in_heads is None


@pytest.mark.parametrize(
    ("meta", "problem"),
    [
        ({"problem": "p7", "problem_id": "p8"}, "p7"),
        ({"problem": None, "problem_id": 7}, "7"),
        ({"problem": None, "problem_id": None}, "How many?"),
        ({}, "How many?"),
    ],
)
def test_a_name_that_is_none_is_no_problem_s(meta, problem):
    trace = make_trace("QTS", question="How many?", meta=meta)
    assert diagnose(make_saliency(random_maps(trace, 2), trace)).problem == problem


def test_the_table_holds_the_numbers_of_the_diagnosis():
    trace = make_trace("_QTTTSS", id="p1/0", question="How many?", meta={"is_correct": False})
    diagnosis = diagnose(make_saliency(random_maps(trace, 4, 2), trace))
    frame = diagnosis.to_frame()
    assert set(frame["trace"]) == {"p1/0"}
    assert set(frame["problem"]) == {"How many?"}
    assert set(frame["is_correct"]) == {False}
    assert set(frame["n_steps"]) == {5}
    assert set(frame["n_tokens"]) == {10}
    layers = frame[frame["metric"].eq("lock_in") & frame["head"].isna()]
    assert layers["value"].tolist() == diagnosis.lock_in.tolist()
    assert layers["band"].tolist() == ["shallow", "middle", "middle", "deep"]
    heads = frame[frame["metric"].eq("decay") & frame["head"].notna()]
    assert heads["value"].tolist() == diagnosis.decay_heads.flatten().tolist()
    share = frame[frame["metric"].eq("share") & frame["query_region"].eq("summary")]
    summed = share.groupby("layer")["value"].sum()
    assert summed.to_numpy() == pytest.approx(np.ones(4))
    index = frame[frame["metric"].eq("lock_in_index")]
    assert index["value"].item() == diagnosis.lock_in_index


def test_a_diagnosis_says_what_it_is():
    trace = make_trace("_QTTTSS", id="<b>1</b>")
    diagnosis = diagnose(make_saliency(random_maps(trace, 8), trace))
    text = repr(diagnosis)
    assert f"lock_in_index={diagnosis.lock_in_index:.3f} (layers 0-1)" in text
    assert "\n" not in text
    html = diagnosis._repr_html_()
    assert "&lt;b&gt;1&lt;/b&gt;" in html
    assert "<b>1</b>" not in html
    assert 'src="data:image/png;base64,' in html


@pytest.mark.parametrize(
    ("stated", "correct"),
    [
        ("false", False),
        ("0", False),
        (0, False),
        ("True", True),
        (1, True),
        (math.nan, None),
        ("x", None),
    ],
)
def test_a_judgement_is_read_strictly(stated, correct):
    trace = make_trace("_QTS", meta={"is_correct": stated})
    assert diagnose(make_saliency(random_maps(trace, 4), trace)).is_correct is correct


def test_the_function_is_offered_at_the_top_and_stays_one():
    import step_saliency.diagnosis.comparison  # noqa: F401

    trace = make_trace("QTS")
    assert ss.diagnose(make_saliency(random_maps(trace, 4), trace)).layers == (0, 1, 2, 3)
