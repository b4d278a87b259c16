"""Pictures: what they show is what the maps and diagnoses hold."""

import io
import json
import re
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
import torch
from maps import make_saliency, make_trace, random_maps
from matplotlib.colors import LogNorm, to_hex
from matplotlib.figure import Figure

from step_saliency.diagnosis import diagnose
from step_saliency.plotting.grid import Grid
from step_saliency.plotting.style import REGION_COLOURS, png
from step_saliency.plotting.token_maps import MOST_CELLS
from step_saliency.plotting.views import token_view
from step_saliency.trace import Region, Trace

TRACE = make_trace("_QTTT_SS", [1, 5, 2, 3, 4, 2, 3, 2], id="demo")
COUNTED = [1, 2, 3, 4, 6, 7]


@pytest.fixture
def sal():
    return make_saliency(random_maps(TRACE, 4, 3), TRACE)


def images(figure):
    return [image for ax in figure.axes for image in ax.images]


def strips(ax):
    """Colour, start and stop of the region strips along the left edge, in cells from the top."""
    n = ax.images[0].get_array().shape[0]
    bars = [line for line in ax.get_children() if str(line.get_label()).startswith("_")]
    upright = [line for line in bars if hasattr(line, "get_xdata") and not any(line.get_xdata())]
    return [
        (to_hex(line.get_color()), *(round(n * (1 - y)) for y in line.get_ydata()))
        for line in upright
    ]


def test_the_picture_holds_the_map_of_the_layer(sal):
    (image,) = images(sal.plot(2, log=False))
    expected = sal.maps[2].mean(0)[COUNTED][:, COUNTED]
    shown = image.get_array()
    assert shown.filled(-1) == pytest.approx(
        expected.where(sal.defined[COUNTED][:, COUNTED], -1).numpy(), rel=1e-6
    )


def test_the_picture_holds_one_head_or_the_mean_of_the_layers(sal):
    (of_head,) = images(sal.plot(1, head=2, template=True, log=False))
    assert of_head.get_array().filled(0) == pytest.approx(sal.maps[1, 2].numpy(), rel=1e-6)
    (mean,) = images(sal.plot(template=True, log=False))
    assert mean.get_array().filled(0) == pytest.approx(sal.maps.mean((0, 1)).numpy(), rel=1e-5)


def test_a_log_scale_masks_zeros_and_what_causality_forbids():
    maps = random_maps(TRACE, 1)
    maps[0, 4, 2] = 0
    sal = make_saliency(maps, TRACE)
    (image,) = images(sal.plot(0))
    assert isinstance(image.norm, LogNorm)
    expected = np.triu(np.ones((6, 6), bool), 1)
    expected[3, 1] = True
    assert np.array_equal(np.ma.getmaskarray(image.get_array()), expected)
    (linear,) = images(sal.plot(0, log=False))
    assert not np.ma.getmaskarray(linear.get_array())[3, 1]
    assert linear.norm.vmin == 0


def test_the_log_scale_ends_at_the_largest_entry_and_spans_five_decades_at_most():
    maps = torch.ones(1, 8, 8).tril() * 1e-12
    maps[0, 7, 6] = 3.0
    (image,) = images(make_saliency(maps, TRACE).plot(0))
    assert (image.norm.vmin, image.norm.vmax) == pytest.approx((3e-5, 3.0))


def test_a_small_map_has_no_entry_beyond_its_scale(sal):
    """Two in a hundred may be; of fewer than fifty that is none."""
    figure = sal.plot(0)
    (image,) = images(figure)
    entries = image.get_array().compressed()
    assert len(entries) < 50
    assert image.norm.vmin == pytest.approx(entries[entries > 0].min())
    assert image.colorbar.extend == "neither"


def test_a_map_of_zeros_is_drawn_and_empty():
    figure = make_saliency(torch.zeros(1, 8, 8), TRACE).plot(0)
    png(figure)
    assert images(figure)[0].get_array().filled(0).sum() == 0


def test_regions_are_bordered_where_they_change_and_coloured_along_the_edge(sal):
    ax = sal.plot(0).axes[0]
    (segments,) = {tuple(map(tuple, np.concatenate(c.get_segments()))) for c in ax.collections}
    assert {x for x, _ in segments} | {y for _, y in segments} == {-0.5, 0.5, 3.5, 5.5}
    assert strips(ax) == [
        (REGION_COLOURS[Region.QUESTION], 0, 1),
        (REGION_COLOURS[Region.THINKING], 1, 4),
        (REGION_COLOURS[Region.SUMMARY], 4, 6),
    ]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "question",
        "thinking",
        "summary",
    ]


def test_ticks_keep_the_numbers_of_the_steps_in_the_trace(sal):
    ax = sal.plot(0).axes[0]
    shown = dict(zip(ax.get_xticks(), (t.get_text() for t in ax.get_xticklabels()), strict=True))
    assert shown == {cell: str(step) for cell, step in enumerate(COUNTED)}


@pytest.mark.parametrize("n", [1, 7, 12, 13, 100, 251, 4000])
@pytest.mark.parametrize("block", [1, 3])
def test_long_maps_get_few_ticks_and_each_marks_the_cell_that_holds_its_number(n, block):
    numbers = np.arange(5, 5 + n * block, block)
    ticks = Grid(numbers, (Region.THINKING,) * n, block).ticks()
    assert len(ticks) <= 12
    assert len(ticks) >= min(n, 3) - 1
    for cell, number in ticks.items():
        assert numbers[cell] <= number < numbers[cell] + block


def test_several_layers_share_one_colour_scale(sal):
    figure = sal.plot([0, 3])
    first, second = images(figure)
    assert first.norm is second.norm
    shown = sal.maps[[0, 3]].mean(1)[:, COUNTED][:, :, COUNTED]
    assert first.norm.vmax == pytest.approx(shown.max().item(), rel=1e-5)
    assert [ax.get_title(loc="left") for ax in figure.axes[:2]] == ["Layer 0", "Layer 3"]


def test_the_colour_bar_names_quantity_pooling_and_unit(sal):
    label = sal.plot(0).axes[-1].get_ylabel()
    assert "saliency" in label
    assert "mean per token pair" in label
    assert "(nats)" in label


def test_a_map_goes_into_axes_that_are_given(sal):
    figure = Figure()
    left, _ = figure.subplots(1, 2)
    assert sal.plot(1, ax=left) is figure
    assert len(left.images) == 1


DARK = {"axes.grid": True, "text.color": "white", "axes.labelcolor": "white"}
DARK |= {"figure.facecolor": "black", "savefig.facecolor": "black", "xtick.color": "white"}


def pixels(figure):
    return mpl.image.imread(io.BytesIO(png(figure, dpi=60)))


def test_a_theme_of_the_notebook_changes_no_picture(sal):
    """White words on a light ground, and a grid over the cells, before."""
    token_map = torch.rand(len(TRACE), len(TRACE)).tril()
    draw = (sal.plot, lambda: sal.plot_tokens(token_map, 0), diagnose(sal).plot)
    plain = [pixels(one()) for one in draw]
    with mpl.rc_context(DARK):
        themed = [pixels(one()) for one in draw]
    assert all(np.array_equal(a, b) for a, b in zip(plain, themed, strict=True))


def test_axes_of_a_dark_theme_keep_their_colours_and_the_legend_is_read_on_its_own_ground(sal):
    with mpl.rc_context(DARK):
        ax = Figure().subplots()
        figure = sal.plot(0, ax=ax)
    assert to_hex(figure.axes[-1].yaxis.label.get_color()) == "#ffffff"
    assert {to_hex(text.get_color()) for text in ax.get_legend().get_texts()} == {"#000000"}
    assert not any(line.get_visible() for line in ax.get_xgridlines())


def test_a_token_map_may_be_an_array(sal):
    token_map = torch.rand(len(TRACE), len(TRACE)).tril()
    assert np.array_equal(
        *(pixels(sal.plot_tokens(one, 0)) for one in (token_map, token_map.numpy()))
    )


def test_thin_lines_of_heads_are_in_the_legend(sal):
    def named(figure):
        return [text.get_text() for text in figure.legends[0].get_texts()]

    assert named(diagnose(sal).plot())[-1] == "one head"
    averaged = make_saliency(sal.mean_heads, TRACE)
    assert "one head" not in named(diagnose(averaged).plot())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": 9}, "the model has layers 0 to 3"),
        ({"layer": 0, "head": 3}, "head=3 is not among the 3 heads"),
        ({"layer": [0, 1], "title": "a"}, "single map"),
        ({"vmin": 0}, "vmin=0 is not above 0"),
        ({"vmin": 1, "vmax": 0.1}, "a colour scale cannot go from 1 up to 0.1"),
    ],
)
def test_layers_and_heads_that_are_not_there_are_refused(sal, arguments, message):
    with pytest.raises(ValueError, match=message):
        sal.plot(**arguments)


def test_a_head_of_averaged_maps_is_refused():
    with pytest.raises(ValueError, match="averaged over heads"):
        make_saliency(random_maps(TRACE, 2), TRACE).plot(0, head=1)


def lines(ax):
    return {line.get_color(): line for line in ax.lines if len(line.get_xdata()) == 4}


def test_depth_curves_draw_the_numbers_of_the_diagnosis(sal):
    diagnosis = diagnose(sal)
    figure = diagnosis.plot()
    thinking, lock_in, summary, decay = figure.axes
    assert lock_in.lines[-2].get_ydata().tolist() == diagnosis.lock_in.tolist()
    assert decay.lines[-2].get_ydata().tolist() == diagnosis.decay.tolist()
    for ax, query in ((thinking, Region.THINKING), (summary, Region.SUMMARY)):
        for key in (Region.QUESTION, query):
            drawn = lines(ax)[REGION_COLOURS[key]].get_ydata()
            assert drawn.tolist() == diagnosis.share(query, key).tolist()
    heads = [line.get_ydata().tolist() for line in lock_in.lines[:3]]
    assert heads == diagnosis.lock_in_heads.T.tolist()
    assert f"{diagnosis.lock_in_index:.3f}" in lock_in.get_title(loc="left")


def test_depth_curves_shade_the_bands_that_are_chosen(sal):
    ax = diagnose(sal, bands={"shallow": [0, 1], "deep": [3]}).plot().axes[0]
    spans = [(p.get_x(), p.get_x() + p.get_width()) for p in ax.patches]
    assert spans == [(-0.5, 1.5), (2.5, 3.5)]


def test_depth_curves_of_a_trace_without_summary_say_so():
    trace = make_trace("QTTT")
    figure = diagnose(make_saliency(random_maps(trace, 4), trace)).plot()
    assert "the trace has no summary steps" in [text.get_text() for text in figure.axes[3].texts]
    png(figure)


def test_the_token_map_stands_beside_the_step_map(sal):
    n = len(TRACE.tokens)
    token_map = torch.rand(n, n).tril() + 0.1
    figure = sal.plot_tokens(token_map, 1, log=False)
    tokens, steps = images(figure)
    kept = [t for t, step in enumerate(TRACE.step_ids.tolist()) if step in COUNTED]
    allowed = torch.ones(n, n, dtype=torch.bool).tril()
    allowed[-1] = False  # the last position predicts nothing
    expected = token_map.where(allowed, -1)[kept][:, kept]
    assert tokens.get_array().filled(-1) == pytest.approx(expected.numpy())
    assert steps.get_array().filled(0).max() == pytest.approx(
        sal.maps[1].mean(0)[COUNTED][:, COUNTED].max().item(), rel=1e-5
    )
    assert strips(figure.axes[0])[1] == (REGION_COLOURS[Region.THINKING], 5, 14)


def test_a_token_map_too_fine_to_draw_keeps_its_strongest_entries():
    trace = make_trace("QTS", [50, MOST_CELLS + 500, 100])
    n = len(trace.tokens)
    token_map = torch.full((n, n), 1e-3).tril()
    token_map[1201, 333] = 5.0
    figure = make_saliency(random_maps(trace, 1), trace).plot_tokens(token_map, 0)
    shown = images(figure)[0].get_array()
    assert shown.shape == (n / 2, n / 2)
    assert shown[600, 166] == 5.0
    assert (shown.filled(0) > 1).sum() == 1


def test_a_token_map_of_another_trace_is_refused(sal):
    with pytest.raises(ValueError, match=r"of shape \[5, 5\] and the trace has 22 positions"):
        sal.plot_tokens(torch.zeros(5, 5), 0)


def payload(view):
    """What a circuitsvis view hands to the browser."""
    return json.loads(re.search(r"\n\s+(\{\"[^\n]*\})\s*\n", str(view)).group(1))


def test_the_attention_view_shows_each_head_as_shares_of_the_row(sal):
    data = payload(sal.view(2))
    chosen = sal.maps[2][:, COUNTED][:, :, COUNTED]
    expected = chosen / chosen.sum(-1, keepdim=True)
    assert np.array(data["attention"]) == pytest.approx(expected.numpy(), abs=1e-6)
    assert data["tokens"][:2] == ["1 Q Q1", "2 T T2"]


def test_the_attention_view_of_all_layers_names_them(sal):
    data = payload(sal.view())
    names = data["attentionHeadNames"]
    assert names == [f"layer {layer}" for layer in range(4)]
    assert np.array(data["attention"]).sum(-1) == pytest.approx(np.ones((4, 6)), abs=1e-5)


def test_the_step_view_colours_the_text_by_one_row(sal):
    data = payload(sal.view_step(4, layer=1))
    assert data["tokens"] == [TRACE.steps[step].text for step in COUNTED]
    expected = sal.maps[1].mean(0)[4, COUNTED]
    assert np.array(data["values"]).ravel() == pytest.approx(expected.numpy(), rel=1e-5)
    with pytest.raises(ValueError, match="query_step=8 is not among the 8 steps"):
        sal.view_step(8)


def test_the_token_view_takes_one_value_or_several_for_each_token():
    data = payload(token_view(["a", "b"], torch.tensor([0.5, 1.0])))
    assert np.array(data["values"]).ravel().tolist() == [0.5, 1.0]
    several = payload(token_view(["a", "b"], torch.rand(2, 3), labels=["x", "y", "z"]))
    assert several["labels"] == ["x", "y", "z"]
    with pytest.raises(ValueError, match="2 tokens and 3 values"):
        token_view(["a", "b"], torch.rand(3))


def test_no_text_ends_the_script_of_a_view():
    hostile = "</script><img src=x onerror=alert(1)><!--"
    trace = Trace.from_tokens(
        [1, 2, 3], starts=[0, 1], regions=["question", "thinking"], texts=["Why?", hostile]
    )
    sal = make_saliency(random_maps(trace, 2), trace)
    views = [sal.view(), sal.view(0), sal.view_step(1), token_view([hostile], torch.ones(1))]
    views.append(token_view([hostile], torch.ones(1, 2), labels=[hostile, "b"]))
    for view in views:
        for source in (view.local_src, view.cdn_src):
            assert source.count("</script>") == 1
            assert "<img" not in source.rpartition("render(")[2]
        assert hostile in json.dumps(payload(view))


def test_figures_show_themselves_and_leave_no_state_behind(sal):
    before, managed = dict(mpl.rcParams), pyplot_figures()
    figure = sal.plot(0)
    assert figure._repr_png_().startswith(b"\x89PNG")
    png(diagnose(sal).plot())
    assert dict(mpl.rcParams) == before
    assert pyplot_figures() == managed


def pyplot_figures() -> list[int]:
    """Figures that pyplot manages; other tests may have left some."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    return [] if pyplot is None else list(pyplot.get_fignums())


def test_importing_the_pictures_changes_nothing_and_maps_do_not_import_them():
    code = (
        "import sys\n"
        "import step_saliency.saliency.result, step_saliency.diagnosis\n"
        "assert 'matplotlib' not in sys.modules, 'matplotlib was imported'\n"
        "assert 'circuitsvis' not in sys.modules, 'circuitsvis was imported'\n"
        "import matplotlib as mpl\n"
        "settings = lambda: dict(dict.items(mpl.rcParams))  # a look-up would settle the backend\n"
        "before = settings()\n"
        "import step_saliency.report, step_saliency.plotting.views\n"
        "assert settings() == before, 'settings were changed'\n"
        "assert 'matplotlib.pyplot' not in sys.modules, 'pyplot was imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_is_cut_off_at_the_edge_of_a_figure(sal):
    n = len(TRACE.tokens)
    figures = [
        sal.plot(0),
        sal.plot([0, 1, 2]),
        sal.plot([0, 1, 2, 3, 0]),
        diagnose(sal).plot(),
        sal.plot_tokens(torch.rand(n, n).tril(), 0),
    ]
    for figure in figures:
        figure.draw_without_rendering()
        for ax in figure.axes:
            box = ax.get_tightbbox()
            assert box.x0 >= 0
            assert box.y0 >= 0
            assert box.x1 <= figure.bbox.x1
            assert box.y1 <= figure.bbox.y1
