"""Tables, files and text of a map."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from maps import make_saliency, make_trace, random_maps
from safetensors.torch import save_file
from segment_tokenizers import unchecked_calls

from step_saliency.saliency import map_files
from step_saliency.saliency.result import StepSaliency

TRACE = make_trace(
    "_QTT_SS",
    [1, 4, 1, 3, 2, 2, 1],
    id="p/0",
    question="Why <b>7</b> & not 8?",
    response="<think>…</think> 7",
    meta={"is_correct": True, "seed": 3, "tags": ["a", "ü"]},
)


@pytest.mark.parametrize("heads", [(), (3,)])
@pytest.mark.parametrize("rows", ["query", "target"])
def test_the_table_gives_back_the_maps(heads, rows):
    maps = random_maps(TRACE, 2, *heads)
    sal = make_saliency(maps, TRACE, layers=[4, 9], n_layers=12, rows=rows)
    frame = sal.to_frame()
    back = torch.zeros_like(maps)
    layer = torch.tensor(frame["layer"].map({4: 0, 9: 1}).to_numpy())
    query, key = (torch.tensor(frame[f"{axis}_step"].to_numpy()) for axis in ("query", "key"))
    head = (torch.tensor(frame["head"].to_numpy(dtype=int)),) if heads else ()
    back[(layer, *head, query, key)] = torch.tensor(frame["saliency"].to_numpy())
    assert torch.equal(back, maps * sal.defined)
    assert not frame.duplicated(["layer", "head", "query_step", "key_step"]).any()
    assert len(frame) == 2 * (heads or (1,))[0] * int(sal.defined.sum())


def test_the_table_leaves_out_what_is_undefined():
    frame = make_saliency(random_maps(TRACE, 1), TRACE).to_frame()
    assert (frame["key_step"] <= frame["query_step"]).all()
    assert 6 not in set(frame["query_step"])  # the last token alone: it predicts nothing
    assert 6 in set(
        make_saliency(random_maps(TRACE, 1), TRACE, last_row=True).to_frame()["query_step"]
    )


def test_the_table_names_regions_and_lacks_heads_of_averaged_maps():
    frame = make_saliency(random_maps(TRACE, 2), TRACE).to_frame()
    assert frame["head"].dtype == "Int64"
    assert frame["head"].isna().all()
    assert list(frame.columns) == [
        "layer", "head", "query_step", "key_step", "query_region", "key_region", "saliency",
    ]  # fmt: skip
    for axis in ("query", "key"):
        names = [TRACE.steps[step].region.value for step in frame[f"{axis}_step"]]
        assert frame[f"{axis}_region"].tolist() == names
    assert frame["saliency"].dtype == np.float32


def titles(figure) -> list[str]:
    return [title for axes in figure.axes if (title := axes.get_title(loc="left"))]


def shown(view) -> str:
    """A view without the name of its place in a page, which is drawn anew each time."""
    return re.sub(r"circuits-vis-[\w-]+", "", view.cdn_src)


@pytest.mark.parametrize("layer", [-3, 9, np.int64(9), torch.tensor(9)], ids=repr)
def test_a_layer_is_named_in_any_way_that_step_saliency_takes(layer):
    sal = make_saliency(random_maps(TRACE, 2), TRACE, layers=[4, 9], n_layers=12)
    with unchecked_calls():
        assert torch.equal(sal.layer(layer), sal.maps[1])
        assert titles(sal.plot(layer)) == ["Layer 9"]
        tokens = sal.plot_tokens(torch.ones(len(TRACE), len(TRACE)), layer)
        assert titles(tokens) == ["Layer 9, tokens", "Layer 9, steps"]
        assert shown(sal.view(layer)) == shown(sal.view(9)) != shown(sal.view(4))
        assert shown(sal.view_step(3, layer)) == shown(sal.view_step(3, 9))


@pytest.mark.parametrize("layers", [[-8, 9], np.array([4, 9]), torch.tensor([4, -3])], ids=repr)
def test_several_layers_are_drawn_in_panels(layers):
    sal = make_saliency(random_maps(TRACE, 2), TRACE, layers=[4, 9], n_layers=12)
    with unchecked_calls():
        assert titles(sal.plot(layers)) == ["Layer 4", "Layer 9"]


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (-1, "layer -1 was not computed; there are \\[4, 9\\]"),
        (12, "the model has layers 0 to 11"),
        (9.0, "whole numbers"),
        ("max", "whole numbers"),
    ],
)
def test_layers_that_are_not_there(layer, message):
    sal = make_saliency(random_maps(TRACE, 2), TRACE, layers=[4, 9], n_layers=12)
    for call in (sal.layer, sal.plot, sal.view):
        with unchecked_calls(), pytest.raises(ValueError, match=message):
            call(layer)


def test_low_precision_maps_make_tables_too():
    maps = random_maps(TRACE, 2).to(torch.bfloat16)
    sal = make_saliency(maps, TRACE)
    assert sal.to_frame()["saliency"].sum() == pytest.approx((maps * sal.defined).float().sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_saved_map_comes_back_the_same(tmp_path, dtype):
    sal = make_saliency(
        random_maps(TRACE, 2, 3).to(dtype), TRACE, layers=[1, 5], n_layers=8, rows="target"
    )
    path = tmp_path / "new" / "map.safetensors"
    sal.save(path)
    back = StepSaliency.load(path)
    assert back.maps.dtype == dtype
    assert torch.equal(back.maps, sal.maps)
    assert torch.equal(back.trace.tokens, TRACE.tokens)
    assert back.trace.steps == TRACE.steps
    for name in ("id", "question", "response", "meta"):
        assert getattr(back.trace, name) == getattr(TRACE, name)
    for name in ("layers", "n_layers", "objective", "method", "pool", "rows", "last_row"):
        assert getattr(back, name) == getattr(sal, name)
    pd.testing.assert_frame_equal(back.to_frame(), sal.to_frame())


def test_a_file_cut_short_anywhere_is_noticed(tmp_path):
    path = tmp_path / "map.safetensors"
    make_saliency(random_maps(TRACE, 2), TRACE).save(path)
    whole = path.read_bytes()
    for length in sorted({0, 1, 7, 8, 9, 50, len(whole) // 2, len(whole) - 1}):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="cut short"):
            StepSaliency.load(path)


def test_other_files_are_no_maps(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"maps": torch.zeros(1, 2, 2)}, path)
    with pytest.raises(ValueError, match="no saved map"):
        StepSaliency.load(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="no saved map"):
        StepSaliency.load(path)
    with pytest.raises(FileNotFoundError):
        StepSaliency.load(tmp_path / "absent.safetensors")


def test_a_write_that_breaks_off_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "map.safetensors"
    sal = make_saliency(random_maps(TRACE, 2), TRACE)
    sal.save(path)
    before = path.read_bytes()

    def half(tensors, name, metadata):
        save_file(tensors, name, metadata)
        data = name.read_bytes()
        name.write_bytes(data[: len(data) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(map_files, "save_file", half)
    with pytest.raises(OSError, match="disk full"):
        make_saliency(random_maps(TRACE, 2, seed=1), TRACE).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_map_says_what_it_is():
    text = repr(make_saliency(random_maps(TRACE, 2, 3), TRACE, layers=[1, 5], n_layers=8))
    assert text == (
        "StepSaliency('p/0', 2 of 8 layers, 3 heads, 7 steps (2 template, 1 question, 2 thinking, "
        "2 summary), objective='next_token', pool='mean', rows='query', method='hooks')"
    )


def test_a_map_shows_itself_in_a_notebook_with_its_text_escaped():
    html = make_saliency(random_maps(TRACE, 2), TRACE)._repr_html_()
    assert "Why &lt;b&gt;7&lt;/b&gt; &amp; not 8?" in html
    assert html.startswith('<div class="tex2jax_ignore mathjax_ignore">')  # dollars stay dollars
    assert "<b>7</b>" not in html
    assert 'src="data:image/png;base64,iVBOR' in html
    assert "<script" not in html
