"""The HTML page of a trace: what it holds, that it asks for nothing, and what it does in a
browser."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from browser import Visit
from browser import chromium as chromium
from maps import make_saliency, make_trace, random_maps
from matplotlib.colors import to_hex

from step_saliency import cli
from step_saliency.diagnosis import diagnose, mean_curves
from step_saliency.plotting.style import CORRECT_COLOUR, MAP_COLOURS, REGION_COLOURS
from step_saliency.report import html_page, page
from step_saliency.report.packing import encoded_length, pack_maps
from step_saliency.report.sources import SCRIPT
from step_saliency.report.stored_maps import maps_within
from step_saliency.runs.folder import RunFolder
from step_saliency.runs.pages import write_reports
from step_saliency.trace import Step, Trace

TRACE = make_trace("_QTTT_SS", [1, 5, 2, 3, 4, 2, 3, 2], id="demo")
HOSTILE = (
    "</script><script>window.pwned = 1</script>",
    '<img src="x" onerror="window.pwned = 1">',
    "<!-- <script> --> ]]> \u2028\u2029 \x00 \ud800",
    "\"'`${window.pwned = 1}` &lt;b&gt; @@js@@ {{data}}",
)


def of_texts(texts, **fields):
    """A trace whose steps say these things: question, thinking, ..., summary."""
    regions = ["question", *["thinking"] * (len(texts) - 2), "summary"]
    steps = tuple(
        Step(2 * i, 2 * i + 2, region, text)
        for i, (region, text) in enumerate(zip(regions, texts, strict=True))
    )
    return Trace(tokens=torch.arange(2 * len(texts)), steps=steps, **fields)


class Elements(HTMLParser):
    """Elements of a page as a browser's parser sees them."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.contents, self.attributes, self.inside = [], {}, [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.contents.setdefault(tag, []).append("")
        self.inside = tag

    def handle_endtag(self, tag):  # noqa: ARG002
        self.inside = None

    def handle_data(self, data):
        if self.inside:
            self.contents[self.inside][-1] += data


@pytest.fixture
def sal():
    return make_saliency(random_maps(TRACE, 4, 3), TRACE)


def test_sixteen_bits_keep_every_entry_to_a_fifth_of_a_percent():
    trace = make_trace("Q" + "T" * 40)
    generator = torch.Generator().manual_seed(0)
    maps = (10 ** (-30 * torch.rand(3, 41, 41, generator=generator).double())).tril()
    maps[1, 7, 3] = 0
    maps[2] = 0
    defined = torch.ones(41, 41, dtype=torch.bool).tril()
    defined[5, :6] = False
    packed = pack_maps(maps, defined, bits=16)
    rows, columns = np.tril_indices(41)
    truth = maps.where(defined, torch.nan).numpy()[:, rows, columns]
    assert packed.values() == pytest.approx(truth, rel=2e-3, abs=0, nan_ok=True)
    assert len(trace.steps) == 41


def test_eight_bits_keep_entries_to_three_percent_over_six_decades():
    maps = (10 ** (-10 * torch.rand(1, 30, 30, generator=torch.Generator().manual_seed(0)))).tril()
    defined = torch.ones(30, 30, dtype=torch.bool).tril()
    rows, columns = np.tril_indices(30)
    truth, shown = maps.numpy()[:, rows, columns], pack_maps(maps, defined, bits=8).values()
    far_down = truth < truth.max() / 1e6
    assert far_down.sum() > 50
    assert shown[~far_down] == pytest.approx(truth[~far_down], rel=0.03)
    assert shown[far_down] == pytest.approx(truth.max() / 1e6, rel=0.01)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_entries_that_are_no_saliency_are_refused(bad):
    maps = random_maps(TRACE, 1)
    maps[0, 3, 1] = bad
    with pytest.raises(ValueError, match=r"negative or non-finite|NaN or infinite|goes down to"):
        page(make_saliency(maps, TRACE))


def test_hostile_text_stays_data():
    trace = of_texts(["q", *HOSTILE, "s"], id='</title><script>window.pwned="1"</script>')
    text = page(make_saliency(random_maps(trace, 2), trace))
    elements = Elements(text)
    assert elements.tags.count("script") == 2
    assert "img" not in elements.tags
    assert [step["text"] for step in data_of(text)["steps"]] == ["q", *HOSTILE, "s"]
    assert elements.contents["title"] == [f"{trace.id} · step-saliency"]
    assert elements.contents["h1"] == [trace.id]
    assert "\u2028" not in text


def data_of(text):
    return json.loads(Elements(text).contents["script"][0])


def test_the_page_asks_for_nothing_and_forbids_it(sal):
    text = page(sal)
    elements = Elements(text)
    links = [value for name, value in elements.attributes if name in ("src", "href", "action")]
    assert links == ["data:,", "#map"]
    assert not re.findall(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", text)
    (policy,) = [value for _, value in elements.attributes if value and "default-src" in value]
    assert policy.startswith("default-src 'none'")
    for name, content in (
        ("script", elements.contents["script"][1]),
        ("style", elements.contents["style"][0]),
    ):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy


def test_the_page_takes_its_colours_from_the_palette(sal):
    text = page(sal)
    (style,) = Elements(text).contents["style"]
    light = style.partition("@media screen and (prefers-color-scheme: dark)")[0]
    for region, colour in REGION_COLOURS.items():
        assert f"--{region}: {colour};" in light
    assert f"--correct: {CORRECT_COLOUR};" in light
    scale = {to_hex(colour) for colour in mpl.colormaps[MAP_COLOURS](np.linspace(0, 1, 2001))}
    stops = data_of(text)["colours"]
    assert stops[0] == to_hex(mpl.colormaps[MAP_COLOURS](0.0))
    assert set(stops) <= scale


def test_every_part_of_the_script_is_on_the_page(sal):
    script = Elements(page(sal)).contents["script"][1]
    assets = Path(html_page.__file__).with_name("assets")
    parts = {file.stem: file.read_text(encoding="utf-8") for file in assets.glob("*.js")}
    assert set(parts) == set(SCRIPT)
    assert all(part in script for part in parts.values())


@pytest.mark.parametrize("n_heads", [None, 8])
def test_a_page_of_200_steps_in_32_layers_is_below_three_megabytes(n_heads):
    trace = of_texts(["A step of some length, in words. " * 4] * 200, id="long")
    lead = (32,) if n_heads is None else (32, n_heads)
    text = page(make_saliency(random_maps(trace, *lead), trace))
    assert 1_000_000 < len(text.encode()) <= 3_000_000
    data = data_of(text)
    assert data["maps"]["bits"] == 16
    if n_heads:
        kept = [len(of_layer) for of_layer in data["heads"]["kept"]]
        assert min(kept) == sum(kept) // 32 > 0
        told = f"holds {sum(kept)} of 256 heads, those with the largest total, at least {min(kept)}"
        assert told in data["precision"]


def test_heads_that_are_kept_are_those_with_the_largest_total():
    maps = random_maps(TRACE, 2, 5)
    maps[0, 3] *= 50
    maps[1, 1] *= 50
    sal = make_saliency(maps, TRACE)
    assert data_of(page(sal))["heads"]["kept"] == [[0, 1, 2, 3, 4]] * 2
    n_entries = 8 * 9 // 2
    of_means, of_a_head = 4 * (3 * n_entries * 2) // 3, 4 * (2 * n_entries) // 3
    data = maps_within(sal, of_means + of_a_head)
    assert data["heads"]["kept"] == [[3], [1]]
    assert "2 of 10 heads, those with the largest total, at least 1 of each" in data["precision"]
    maps[1, 4] *= 20
    data = maps_within(sal, of_means + of_a_head + of_a_head // 2)
    assert data["heads"]["kept"] == [[3], [1, 4]]
    maps[1, 1] *= 4
    data = maps_within(sal, of_means + of_a_head // 2)
    assert data["heads"]["kept"] == [[], [1]]
    assert "1 of 10 heads, those with the largest total, in layers 1." in data["precision"]
    assert maps_within(sal, of_means)["heads"] is None


def test_numbers_of_the_diagnosis_are_those_of_the_diagnosis(sal):
    diagnosis = diagnose(sal)
    charts = {chart["title"]: chart for chart in data_of(page(sal))["diagnosis"]["charts"]}
    lock_in = charts["Lock-in"]["lines"][0]["values"]
    assert lock_in == pytest.approx(diagnosis.lock_in.tolist(), rel=1e-5)
    decay = charts["Decay"]["lines"][0]["values"]
    assert decay == pytest.approx(diagnosis.decay.tolist(), rel=1e-5)


def test_a_trace_without_summary_says_why_there_is_no_decay():
    trace = make_trace("QTTT", id="cut")
    data = data_of(page(make_saliency(random_maps(trace, 2), trace)))
    assert data["diagnosis"]["charts"][1]["lines"][0]["values"] == [None, None]
    assert "the trace has no summary steps" in data["diagnosis"]["reasons"]


def test_what_does_not_belong_to_the_map_is_refused(sal):
    other = make_trace("QTTS", id="other")
    with pytest.raises(ValueError, match="diagnosis is of trace 'other'"):
        page(sal, diagnose(make_saliency(random_maps(other, 4), other)))
    with pytest.raises(ValueError, match=r"lacks the columns \['edit', 'head'\]"):
        page(sal, effects=pd.DataFrame({"layer": [0]}))


def test_intervals_of_a_run_reach_the_page(sal):
    traces = [
        make_trace("QTTTSS", id=f"t{i}", meta={"problem": f"p{i // 2}", "is_correct": i % 2 == 0})
        for i in range(6)
    ]
    maps = [make_saliency(random_maps(t, 4, seed=i), t) for i, t in enumerate(traces)]
    curves = mean_curves([diagnose(m) for m in maps], n_resamples=200)
    data = data_of(page(maps[0], curves=curves))
    lines = {line["colour"]: line for line in data["diagnosis"]["charts"][0]["lines"]}
    assert set(lines) == {"lock-in", "correct", "error"}
    row = curves[
        (curves["metric"] == "lock_in") & (curves["layer"] == 2) & (curves["group"] == "error")
    ].iloc[0]
    told = [lines["error"][name][2] for name in ("values", "lower", "upper")]
    assert told == pytest.approx([row["estimate"], row["lower"], row["upper"]], rel=1e-5)
    assert (lines["error"]["n"], lines["error"]["traces"]) == (3, 3)


@pytest.fixture
def run_folder(tmp_path):
    (tmp_path / "manifest.json").write_text(
        json.dumps({"format": RunFolder.FORMAT, "settings": {"model": "some-model"}})
    )
    for i in range(4):
        meta = {"problem": f"p{i // 2}", "is_correct": i % 2 == 0}
        trace = make_trace("QTTTSS", id=f"p{i // 2}#{i % 2}", meta=meta)
        file = tmp_path / "maps" / f"p{i // 2}-{i % 2}.safetensors"
        make_saliency(random_maps(trace, 4, seed=i), trace).save(file)
    return tmp_path


def test_the_command_writes_a_page_per_trace(run_folder, capsys):
    assert cli.main(["report", str(run_folder)]) == 0
    files = sorted((run_folder / "report").iterdir())
    assert [file.name for file in files] == ["p0-0.html", "p0-1.html", "p1-0.html", "p1-1.html"]
    data = data_of(files[3].read_text(encoding="utf-8"))
    assert data["facts"]["model"] == "some-model"
    assert data["facts"]["answer"] == "error"
    assert data["diagnosis"]["indices"]["columns"][-1] == "error − correct, same problem"
    assert "p1-1.html (0.0" in capsys.readouterr().out


def test_the_command_writes_one_trace_to_a_file(run_folder, capsys):
    out = run_folder / "one.html"
    effects = run_folder / "effects.csv"
    pd.DataFrame({"layer": [0, 1], "head": None, "edit": "oeb", "rows_seen": [5, 6]}).to_csv(
        effects
    )
    arguments = ["--trace", "p1#0", "--out", str(out), "--effects", str(effects)]
    assert cli.main(["report", str(run_folder), *arguments]) == 0
    data = data_of(out.read_text(encoding="utf-8"))
    assert data["effects"]["groups"][0]["columns"]["rows_seen"] == [5, 6]
    assert cli.main(["report", str(run_folder), "--trace", "absent"]) == 2
    assert "no trace 'absent'; there are 4: p0#0" in capsys.readouterr().err


def test_effects_of_a_trace_that_is_named_by_a_number(tmp_path):
    file, table = tmp_path / "map.safetensors", tmp_path / "effects.csv"
    trace = make_trace("_QTTT_SS", [1, 5, 2, 3, 4, 2, 3, 2], id="7")
    make_saliency(random_maps(trace, 4, 3), trace).save(file)
    effects = pd.DataFrame({"trace": [7, 8], "layer": 0, "edit": "oeb", "rows_seen": [5, 6]})
    effects.assign(head=None).to_csv(table, index=False)
    write_reports(file, effects=table)
    data = data_of(file.with_suffix(".html").read_text(encoding="utf-8"))
    assert data["effects"]["groups"][0]["columns"]["rows_seen"] == [5]


def test_the_command_takes_a_single_map(run_folder):
    file = run_folder / "maps" / "p0-1.safetensors"
    assert cli.main(["report", str(file)]) == 0
    assert data_of(file.with_suffix(".html").read_text(encoding="utf-8"))["steps"]


@pytest.fixture
def visit(sal, tmp_path, chromium):
    return opened(chromium, tmp_path, page(sal, effects=EFFECTS))


EFFECTS = pd.DataFrame(
    {
        "layer": [0, 0, 3],
        "head": pd.array([0, 1, None], dtype="Int64"),
        "edit": ["oeb", "oeb", "<b>smi</b>"],
        "rows_seen": [40, 40, None],
        "rows_shifted": [12, 0, None],
        "injections": [None, None, 4],
    }
)


def opened(browser, folder: Path, text, **context):
    file = folder / "page.html"
    file.write_text(text, encoding="utf-8")
    return Visit(browser, file, **context)


def shown_value(visit):
    """The number in the readout."""
    found = re.search(r": ([\d.e−]+) nats", visit.text("#readout .head"))
    assert found, visit.text("#readout")
    return float(found[1].replace("−", "-"))


def click_cell(visit, row, column, n=6):
    box = visit.page.locator("#map").bounding_box()
    position = {"x": (column + 0.5) * box["width"] / n, "y": (row + 0.5) * box["height"] / n}
    visit.page.locator("#map").click(position=position)


def selected(visit):
    """The chosen query step and key step, as the text shows them."""
    query = visit.page.get_attribute("#steps [aria-selected=true]", "id")
    key = visit.page.get_attribute("#steps li.key", "id")
    return int(query.removeprefix("step-")), int(key.removeprefix("step-"))


def test_it_opens_without_complaints_or_requests(visit):
    assert visit.complaints == []
    assert [url[:5] for url in visit.requests] == ["file:"]
    assert visit.page.locator("#steps li").count() == 6
    assert visit.page.locator(".chart").count() == 4


def test_layers_with_windows_have_uniform_lines_of_their_own(chromium, tmp_path):
    trace, windows = make_trace("QTTTSS", [3] * 6), (4, None, 4, None)
    sal = make_saliency(random_maps(trace, 4), trace, windows=windows)
    sal = replace(sal, maps=sal.maps * sal.seen)
    text = page(sal)
    uniform = data_of(text)["diagnosis"]["charts"][1]["lines"][0]["uniform"]
    assert uniform == pytest.approx(diagnose(sal).uniform_decays.tolist())
    assert len(set(uniform)) == 2
    visit = opened(chromium, tmp_path, text)
    assert visit.complaints == []
    # decay, thinking on question and thinking, summary on all three; lock-in is beyond uniform
    assert visit.page.locator(".chart path.uniform").count() == 6
    assert visit.page.locator(".chart line.uniform").count() == 1


def test_the_slider_changes_the_map(visit, sal):
    before = visit.pixels()
    click_cell(visit, 4, 2)
    for place, layer in ((3, 2), (4, 3)):
        visit.page.fill("#layer", str(place))
        assert visit.text("#layer-name") == f"layer {layer}"
        assert shown_value(visit) == pytest.approx(float(sal.maps[layer, :, 6, 3].mean()), rel=6e-3)
    assert visit.pixels() != before


def test_heads_are_chosen_and_shown(visit, sal):
    visit.page.fill("#layer", "2")
    click_cell(visit, 4, 2)
    for head in range(3):
        visit.page.select_option("#head", str(head))
        assert shown_value(visit) == pytest.approx(float(sal.maps[1, head, 6, 3]), rel=0.08)
    assert "head 2" in visit.text("#readout .head")


def test_a_head_is_itself_where_layers_hold_different_numbers(chromium, sal, tmp_path, monkeypatch):
    of_layers, of_a_head = encoded_length(2 * 5 * 36), encoded_length(36)
    maps = partial(maps_within, room=of_layers + 7 * of_a_head)
    monkeypatch.setattr(html_page, "maps_within", lambda sal, room: maps(sal))
    text = page(sal)
    kept = data_of(text)["heads"]["kept"]
    assert len({len(of_layer) for of_layer in kept}) > 1
    visit = opened(chromium, tmp_path, text)
    click_cell(visit, 4, 2)
    for layer, heads in enumerate(kept):
        visit.page.fill("#layer", str(layer + 1))
        for head in heads:
            visit.page.select_option("#head", str(head))
            expected = float(sal.maps[layer, head, 6, 3])
            assert shown_value(visit) == pytest.approx(expected, rel=0.08)


def test_a_click_on_a_cell_marks_its_steps_and_a_click_on_a_step_its_row(visit, sal):
    click_cell(visit, 3, 1)
    assert selected(visit) == (4, 2)
    assert "step 4 ← step 2" in visit.text("#readout .head")
    visit.page.click("#step-7")
    query, key = selected(visit)
    mean = sal.maps.mean((0, 1))[7].clone()
    mean[[0, 5]] = 0
    assert (query, key) == (7, int(mean.argmax()))
    assert visit.page.get_attribute("#cell", "y") == "5"
    assert visit.page.get_attribute("#hover-cell", "visibility") == "hidden"
    assert visit.page.locator("#steps li.hover").count() == 0
    assert f"step 7 ← step {key}" in visit.text("#readout .head")


def test_hovering_shows_a_pair_and_leaving_shows_the_chosen_one(visit):
    click_cell(visit, 3, 1)
    box = visit.page.locator("#map").bounding_box()
    visit.page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.4)
    assert "step 3 ← step 2" in visit.text("#readout .head")
    assert visit.page.locator("#steps li.hover").count() == 2
    visit.page.mouse.move(5, 5)
    assert "step 4 ← step 2" in visit.text("#readout .head")


def test_shares_are_of_the_steps_that_count(visit, sal):
    visit.page.fill("#layer", "1")
    visit.page.click("#step-6")
    row = sal.maps[0].mean(0)[6, [1, 2, 3, 4, 6]]
    parts = visit.page.locator("#steps .part").all_inner_texts()[:5]
    told = [float(part.removesuffix("%").removeprefix("< ")) for part in parts]
    assert told == pytest.approx((100 * row / row.sum()).tolist(), abs=0.11)


def test_the_keyboard_reaches_everything(visit):
    click_cell(visit, 4, 2)
    visit.page.focus("#layer")
    for target in ("value", "scale", "template", "map"):
        visit.page.keyboard.press("Tab")
        assert visit.page.evaluate("document.activeElement.id") == target
    keys = ["ArrowUp", "ArrowRight", "ArrowRight", "ArrowRight", "Home", "End", "ArrowDown"]
    pairs = [(4, 3), (4, 4), (4, 4), (4, 4), (4, 1), (4, 4), (6, 4)]
    for key, pair in zip(keys, pairs, strict=True):
        visit.page.keyboard.press(key)
        assert selected(visit) == pair, key
    visit.page.keyboard.press("PageUp")
    assert visit.text("#layer-name") == "layer 0"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert visit.page.evaluate(outline) == "solid"
    visit.page.focus("#step-6")
    visit.page.keyboard.press("ArrowUp")
    assert selected(visit)[0] == 4
    assert visit.page.evaluate("document.activeElement.id") == "step-4"


def test_names_and_roles_are_there_for_screen_readers(visit):
    names = "[...document.querySelectorAll('select, input')].map(e => e.labels[0].innerText.trim())"
    assert all(visit.page.evaluate(names))
    assert visit.page.get_attribute("#readout", "aria-live") == "polite"
    for element in ("#map", "#steps"):
        name = visit.page.get_attribute(element, "aria-labelledby")
        assert visit.text(f"#{name}")
    assert all(chart.get_attribute("aria-label") for chart in visit.page.locator("svg.chart").all())
    visit.page.fill("#layer", "3")
    assert visit.page.get_attribute("#layer", "aria-valuetext") == "layer 2"


def test_template_steps_can_be_shown(visit):
    visit.page.check("#template")
    assert visit.page.locator("#steps li").count() == 8
    assert len(visit.pixels()) == 4 * 8 * 8


def test_effects_are_shown_for_each_edit(visit):
    assert visit.page.is_visible("#effects")
    titles = visit.page.locator("#effect-groups h3").all_inner_texts()
    assert titles == ["oeb", "<b>smi</b>"]
    assert "rows shifted" in visit.text("#effect-groups section:first-child")
    assert visit.page.get_attribute("td[title^='L0H0']", "title") == "L0H0: 40"


def test_hostile_text_does_nothing_in_a_browser(chromium, tmp_path):
    trace = of_texts(["q", *HOSTILE, "s"], id="<script>window.pwned = 1</script>")
    sal = make_saliency(random_maps(trace, 2), trace)
    facts = {"model": "<img src=x onerror='window.pwned = 1'>"}
    visit = opened(chromium, tmp_path, page(sal, facts=facts))
    for step in range(len(trace.steps)):
        visit.page.click(f"#step-{step}")
    visit.page.wait_for_timeout(50)
    assert visit.page.evaluate("window.pwned") is None
    assert visit.complaints == []
    assert len(visit.requests) == 1
    assert visit.page.locator("img").count() == 0
    assert visit.page.locator("script").count() == 2
    told = visit.page.locator("#step-1 .words").text_content()
    assert told == HOSTILE[0]
    assert visit.page.locator("#step-4 .words").text_content() == HOSTILE[3]


def test_light_dark_and_print(sal, chromium, tmp_path):
    text = page(sal)
    light = opened(chromium, tmp_path, text, color_scheme="light")
    dark = opened(chromium, tmp_path, text, color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    assert light.page.evaluate(ground) == "rgb(255, 255, 255)"
    assert dark.page.evaluate(ground) == "rgb(20, 22, 26)"
    assert light.pixels() != dark.pixels()
    dark.page.emulate_media(media="print")
    assert dark.page.evaluate(ground) == "rgb(255, 255, 255)"
    assert dark.pixels() == light.pixels()
    assert not dark.page.is_visible("#map-hint")
    assert dark.page.is_visible("#step-7")


def test_a_name_that_no_file_can_hold(tmp_path):
    trace = make_trace("QT", [2, 3], id="half \ud800 pair")
    (tmp_path / "page.html").write_text(page(make_saliency(random_maps(trace, 1), trace)))
    assert "half ? pair" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("regions", ["T", "_", "Q"])
def test_one_step(regions, chromium, tmp_path):
    trace = make_trace(regions, [3], id="short")
    visit = opened(chromium, tmp_path, page(make_saliency(random_maps(trace, 1), trace)))
    if visit.page.is_enabled("#template"):
        visit.page.click("#template")
    visit.page.focus("#map")
    for key in ("ArrowUp", "ArrowLeft", "End", "PageUp"):
        visit.page.keyboard.press(key)
    assert visit.complaints == []
    assert visit.page.locator("#steps li").count() == 1


def test_one_layer_and_no_text(chromium, tmp_path):
    trace = Trace.from_tokens([1, 2, 3], starts=[0, 1, 2], regions=["template"] * 3)
    visit = opened(chromium, tmp_path, page(make_saliency(random_maps(trace, 1), trace)))
    assert visit.complaints == []
    assert visit.page.locator("#steps li").count() == 3
    assert visit.text("#layer-name") == "layer 0"
