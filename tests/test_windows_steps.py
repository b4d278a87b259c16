"""What windows do to steps: lock-in, decay, tables, pictures, files, against loops over steps."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from maps import make_saliency, make_trace
from torch import Tensor

from step_saliency.diagnosis import diagnose
from step_saliency.models.windows import seen_keys
from step_saliency.report.charts import diagnosis_data
from step_saliency.saliency.pooling import normalise, step_layout, sum_tokens
from step_saliency.saliency.result import StepSaliency

POOLS = ("mean", "mass", "block_mean", "sum")
REGIONS = "_QTTTTSS"


@pytest.mark.parametrize("pool", POOLS)
def test_a_token_map_of_ones_inside_the_windows_has_no_excess(pool: Any) -> None:
    trace, of_layers = make_trace("_QTTT_TSS", [1, 5, 3, 1, 4, 2, 2, 3, 2]), (4, None, 7, 1)
    layout, n = step_layout(trace.step_ids), len(trace)
    ones = torch.stack([seen_keys(n, n, window) for window in of_layers]).double()
    ones[:, -1] = 0
    maps = normalise(sum_tokens(ones, layout), layout, pool, windows=of_layers)
    diagnosis = diagnose(make_saliency(maps, trace, windows=of_layers, pool=pool))
    assert diagnosis.lock_in[:3].abs().max() < 1e-9
    assert torch.allclose(diagnosis.shares, diagnosis.uniform_shares, equal_nan=True)
    # a window of one token sees local steps only, so there is no row to speak of
    assert diagnosis.lock_in[3].isnan()
    assert "in 1 of 4 layers" in diagnosis.reasons["lock_in"]


def diagnosed_by_loops(row: Tensor, counts: list[list[int]], regions: str) -> dict[str, float]:
    """Lock-in and decay of one layer with ``mean`` pooling, step by step."""
    values = row.tolist()
    counted = [j for j, region in enumerate(regions) if region != "_"]
    lock_ins, decays, excesses = [], [], []
    for i, region in enumerate(regions):
        seen = [j for j in counted if counts[i][j] > 0]
        total = sum(values[i][j] for j in seen)
        if region == "T" and total:
            before = [j for j in range(i) if regions[j] == "T"][-1:]
            local = [j for j in [i, *before] if j in seen]
            expected = len(local) / len(seen)
            if expected < 1:
                share = sum(values[i][j] for j in local) / total
                lock_ins.append(share - expected)
                excesses.append((share - expected) / (1 - expected))
        thoughts = [j for j in seen if regions[j] == "T"]
        if region == "S" and total and thoughts:
            decays.append(sum(values[i][j] for j in thoughts) / total)
    mean = {"lock_in": lock_ins, "lock_in_normalised": excesses, "decay": decays}
    return {name: sum(of) / len(of) if of else math.nan for name, of in mean.items()}


@pytest.mark.parametrize("seed", range(6))
def test_lock_in_and_decay_equal_loops_over_steps(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 6, (len(REGIONS),), generator=generator).tolist()
    trace, of_layers = make_trace(REGIONS, lengths), (3, 8, None, 5)
    layout, n = step_layout(trace.step_ids), len(trace)
    tokens = torch.rand(4, n, n, generator=generator, dtype=torch.double)
    tokens *= torch.stack([seen_keys(n, n, window) for window in of_layers])
    tokens[:, -1] = 0
    maps = normalise(sum_tokens(tokens, layout), layout, "mean", windows=of_layers)
    sal = make_saliency(maps, trace, windows=of_layers)
    diagnosis = diagnose(sal)
    for layer, window in enumerate(of_layers):
        counts = layout.pairs_within(window).tolist()
        assert sal.seen[layer].tolist() == [[count > 0 for count in row] for row in counts]
        for name, expected in diagnosed_by_loops(maps[layer], counts, REGIONS).items():
            found = float(getattr(diagnosis, name)[layer])
            assert found == pytest.approx(expected, nan_ok=True, abs=1e-12)


def test_what_a_window_hides_stands_in_no_table() -> None:
    trace, of_layers = make_trace("QTTS", [3, 3, 3, 3]), (3, None)
    layout = step_layout(trace.step_ids)
    maps = torch.rand(2, 4, 4).tril() * torch.stack(
        [layout.pairs_within(window) > 0 for window in of_layers]
    )
    sal = make_saliency(maps, trace, windows=of_layers)
    frame = sal.to_frame()
    pairs = set(zip(frame["layer"], frame["query_step"], frame["key_step"], strict=True))
    hidden = {(0, 2, 0), (0, 3, 0), (0, 3, 1)}
    assert pairs == {(n, i, j) for n in (0, 1) for i in range(4) for j in range(i + 1)} - hidden
    assert sal.defined.equal(torch.ones(4, 4, dtype=torch.bool).tril())
    table = diagnose(sal).to_frame()
    uniform = table[table["metric"] == "decay"].set_index("layer")["uniform"]
    # the summary row sees the last thinking step and itself; without a window all four steps
    assert uniform.to_dict() == {0: pytest.approx(1 / 2), 1: pytest.approx(2 / 4)}


def test_pictures_leave_out_what_the_layer_does_not_see() -> None:
    trace, of_layers = make_trace("QTTS", [3, 3, 3, 3]), (3, None)
    sal = make_saliency(torch.rand(2, 4, 4).tril(), trace, windows=of_layers)
    for layer in (0, 1):
        shown = sal.plot(layer).axes[0].images[0].get_array()
        assert torch.equal(torch.tensor(~shown.mask), sal.seen[layer])
    decays = diagnose(sal).plot().axes[3]
    (dotted,) = [line for line in decays.lines if line.get_linestyle() == ":"]
    assert dotted.get_ydata() == pytest.approx([1 / 2, 2 / 4])


def test_a_layer_whose_window_hides_all_thinking_has_no_decay() -> None:
    trace, of_layers = make_trace("QTTSS", [3, 3, 3, 4, 3]), (2, None)
    layout = step_layout(trace.step_ids)
    ones = torch.stack([layout.pairs_within(window) > 0 for window in of_layers])
    diagnosis = diagnose(make_saliency(ones.float(), trace, windows=of_layers))
    # the first summary step sees the thinking before it in both layers, the second in one
    assert diagnosis.rows.decay.isnan().tolist() == [[False, True], [False, False]]
    assert diagnosis.decay.tolist() == pytest.approx([1 / 2, (2 / 4 + 2 / 5) / 2])
    # a map of ones is uniform: over the same rows
    assert diagnosis.uniform_decays.tolist() == pytest.approx(diagnosis.decay.tolist())
    assert diagnosis.uniform_decay == pytest.approx(float(diagnosis.decay.mean()))
    table = diagnosis.to_frame().query("metric == 'decay'")
    assert table["uniform"].tolist() == pytest.approx(table["value"].tolist())
    (dotted,) = [line for line in diagnosis.plot().axes[3].lines if line.get_linestyle() == ":"]
    assert dotted.get_ydata() == pytest.approx(table["value"].tolist())
    line = diagnosis_data(diagnosis, None, None)["charts"][1]["lines"][0]
    assert line["uniform"] == pytest.approx(line["values"])
    trace = make_trace("QTT_S", [3, 3, 3, 4, 3])
    layout = step_layout(trace.step_ids)
    ones = torch.stack([layout.pairs_within(window) > 0 for window in of_layers])
    diagnosis = diagnose(make_saliency(ones.float(), trace, windows=of_layers))
    assert diagnosis.decay.isnan().tolist() == [True, False]
    assert diagnosis.uniform_decays.isnan().tolist() == [True, False]
    assert diagnosis.uniform_decay == pytest.approx(float(diagnosis.decay[1]))
    assert "in 1 of 2 layers" in diagnosis.reasons["decay"]


def test_windows_are_saved_and_old_files_say_that_they_have_none(tmp_path: Any) -> None:
    trace = make_trace("QTTS", [3, 3, 3, 3])
    sal = make_saliency(torch.rand(2, 4, 4).tril(), trace, windows=(3, None))
    sal.save(tmp_path / "map")
    back = StepSaliency.load(tmp_path / "map")
    assert back.windows == (3, None)
    assert torch.equal(diagnose(back).lock_in, diagnose(sal).lock_in)
    without = replace(sal, windows=None)
    without.save(tmp_path / "old")
    with pytest.warns(UserWarning, match="does not say which keys its layers see"):
        old = StepSaliency.load(tmp_path / "old")
    assert old.windows is None
    assert torch.equal(diagnose(old).lock_in, diagnose(without).lock_in)


def test_windows_that_do_not_fit_are_refused() -> None:
    trace = make_trace("QTTS", [3, 3, 3, 3])
    maps = torch.rand(2, 4, 4).tril()
    with pytest.raises(ValueError, match="1 windows for 2 layers"):
        make_saliency(maps, trace, windows=(3,))
    layout = step_layout(trace.step_ids)
    with pytest.raises(ValueError, match="3 windows for the totals of 2 layers"):
        normalise(maps, layout, "mean", windows=(3, None, 3))
