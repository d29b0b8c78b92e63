"""The page in a headless Chromium."""

import asyncio
import json
from urllib.parse import quote

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason="no websocket client to drive a browser with")

from dynamics import record
from dynamics.cli.main import main
from dynamics.record import Row
from dynamics.report.names import Words, compact, number
from dynamics.report.plot.style import DARK
from dynamics.report.plot.values import Values
from tests.report.conftest import write_run
from tests.watch.browser import CHROMIUM, in_browser
from tests.watch.test_serve import serving

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

DRAWN = "document.documentElement?.dataset.drawn"
EVIL_NAME = "<img src=x onerror=hacked=1>&run=d0#%25'\""
EVIL = '</script><img src=x onerror="window.hacked=1">\'"&<b>'


def text(selector):
    return f"document.querySelector({json.dumps(selector)})?.textContent ?? ''"


def profile(title):
    """The heights of the points of the first line in a profile's panel."""
    return (
        "(() => { const figure = [...document.querySelectorAll('#profiles figure')]"
        f".find((f) => f.textContent.startsWith({json.dumps(title)}));"
        " return figure.querySelector('path.line').getAttribute('d'); })()"
    )


def readout(i=0):
    return f"document.querySelectorAll('#profiles figure output')[{i}].textContent"


def set_slider(i):
    return f"(() => {{ const s = byId('slider'); s.value = {i}; s.dispatchEvent(new Event('input')); }})()"


async def settled(browser):
    """Wait until what was asked for is drawn."""
    await browser.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_list_and_overlay_of_runs_live(make, small, place, tmp_path_factory):
    make("d0")
    make("e0", "encoder")
    small(EVIL_NAME, run=EVIL)
    write_run(
        place / "checkpoints" / EVIL_NAME,
        {"run": EVIL, "kind": "fit", "label": EVIL, "status": "failed", "error": EVIL},
    )

    write_run(place / "checkpoints" / "empty", {"run": "empty", "kind": "fit", "status": "interrupted"})

    async def visit(browser):
        await browser.open(f"{address}/")
        await browser.until("document.querySelectorAll('#rows tr').length === 4")
        assert EVIL in await browser.run(text("#rows .state-failed + div"))
        # Choose two runs and overlay them, with the keyboard alone.
        await browser.run("byId('find').focus()")
        for key in ("Tab", " ", "Tab", "Tab", " "):
            await browser.press(key)
        assert await browser.run("[...chosen].length") == 2
        await browser.run("byId('choose-none').click(); choose('d0', true); choose('e0', true); byId('open').click()")
        await browser.until(DRAWN)
        assert await browser.run("document.querySelectorAll('#legend li').length") == 2

        # The slider: all views show its step.
        newest = await browser.run(profile("Anisotropy"))
        await browser.run(set_slider(3))
        await settled(browser)
        earlier = await browser.run(profile("Anisotropy"))
        assert earlier != newest
        assert await browser.run(text("#slider-text")) == "step 4 of 200"
        assert await browser.run(text("#profiles-section .at")) == "at step 4"
        assert "step=4" in await browser.run("location.hash")
        await browser.run("byId('slider').focus()")
        await browser.press("ArrowRight")
        await settled(browser)
        assert await browser.run(text("#slider-text")) == "step 8 of 200"
        # Values are those of the record; arrow keys read the points.
        frame = record.read("d0")
        is_here = (frame["metric"] == "anisotropy") & (frame["site"] == "residual") & (frame["step"] == 8)
        value = frame[is_here & (frame["layer"] == 1)]["value"].item()
        await browser.run("document.querySelector('#profiles svg').focus()")
        await browser.press("ArrowRight")
        assert (await browser.run(readout())).startswith(f"decoder (causal, clm), layer 1: {value:#.3g} [")
        mean = frame[is_here & (frame["layer"] > 0)]["value"].mean()
        assert await browser.run(text("#numbers tbody tr td:nth-child(3)")) == f"{mean:#.3g}"

        # The layers: layer 0 is out until it is chosen, and a layer that is switched off is in no view.
        points = await browser.run(f"{profile('Anisotropy')}.split('L').length")
        assert points == 4
        await browser.run("document.querySelector('#layers input').click()")
        await settled(browser)
        assert await browser.run(f"{profile('Anisotropy')}.split('L').length") == 5
        await browser.run("document.querySelectorAll('#layers input')[4].click()")
        await settled(browser)
        assert await browser.run(f"{profile('Anisotropy')}.split('L').length") == 4
        chosen = frame[is_here & (frame["layer"] < 4)]["value"].mean()
        assert await browser.run(text("#numbers tbody tr td:nth-child(3)")) == f"{chosen:#.3g}"
        assert await browser.run("document.querySelector('#maps canvas').height") == 4

        # Who uses the keyboard stays where they are when all is drawn anew.
        layer = "[...document.querySelectorAll('#layers input')].indexOf(document.activeElement)"
        await browser.run("byId('more-controls').open = true; document.querySelectorAll('#layers input')[2].focus()")
        for points in (3, 4):
            await browser.press(" ")
            await settled(browser)
            assert await browser.run(f"{profile('Anisotropy')}.split('L').length") == points
            assert await browser.run(layer) == 2

        # Heads come when they are asked for.
        assert not any("api/heads" in request for request in browser.requests)
        await browser.run("byId('heads-open').open = true")
        await browser.until("document.querySelectorAll('#heads canvas').length === 2")
        assert await browser.run("document.querySelector('#heads canvas').width") == 4

        # A new part: its step is the newest, and shown.
        await browser.run("byId('slider').focus()")
        await browser.press("End")
        await settled(browser)
        assert "step 200 of 200 (newest)" in await browser.run(text("#slider-text"))
        rows = [Row("d0", "", "", 256, "residual", layer, -1, "anisotropy", 0.2 * layer) for layer in range(5)]
        record.Record(place / "checkpoints" / "d0").write(256, rows)
        await browser.until(f"({text('#slider-text')}).startsWith('step 256 of 256 (newest)')", seconds=20)
        assert "encoder (bidirectional, mlm): 200" in await browser.run(text("#slider-text"))

        # At the width of a phone nothing is wider than the page.
        await browser.resize(400, 800, dark=True)
        await settled(browser)
        assert await browser.run("document.documentElement.scrollWidth <= innerWidth")
        await browser.run("location.hash = ''")
        await browser.until("!byId('list').hidden")
        assert await browser.run("document.documentElement.scrollWidth <= innerWidth")

        # A run that has measured nothing, and one that is not there, are said to be so.
        await browser.run("location.hash = '#run=empty&run=nowhere'")
        await browser.until(f"({text('#problems')}).includes('empty: nothing has been measured yet.')")
        assert "There is no run named nowhere here." in await browser.run(text("#problems"))
        assert await browser.run("byId('controls').hidden && byId('profiles-section').hidden")

        # A hostile name is text, in the overlay too.
        await browser.run(f"location.hash = new URLSearchParams([['run', {json.dumps(EVIL_NAME)}]])")
        await browser.until("document.querySelectorAll('#legend li').length === 1")
        assert EVIL in await browser.run(text("#legend"))
        assert await browser.run(text("#title")) == EVIL_NAME
        assert await browser.run("document.images.length") == 0
        assert await browser.run("window.hacked ?? 0") == 0
        assert await browser.run("byId('connection').hidden")
        assert browser.troubles == []
        assert {request.split("/")[2] for request in browser.requests if request != "about:blank"} == {address[7:]}

    with serving() as address:
        in_browser(tmp_path_factory.mktemp("profile"), visit)


def test_numbers_and_steps_are_written_as_in_the_report(small, place, tmp_path_factory):
    small("a")
    main(["watch", "--once", "page.html"])
    values = [0, 0.61234, -0.5, 12.345, 99.96, -123.4, 123456.0, 3.4e6, 0.00123, 0.0999951, 4.99e-4, 2e-6, -3.21e-12]
    places = [0, 0.25, 512, 1000, 1024, 2300, 2500, 16384, 65536, 131072, 143000, 1234567, 2300000, 3e6]

    async def visit(browser):
        await browser.open((place / "page.html").as_uri())
        await browser.until("globalThis.compact && document.querySelectorAll('#rows tr').length")
        for name, given, rule in (("number", values, number), ("compact", places, compact)):
            assert await browser.run(f"{given}.map((value) => {name}(value))") == [rule(value) for value in given]
        assert await browser.run("number(null)") == number(np.nan)

    in_browser(tmp_path_factory.mktemp("profile"), visit)


def test_what_is_drawn_follows_the_rules_of_the_report(make, place, tmp_path_factory):
    make("d0")
    make("e1", "encoder", seed=1)
    young = record.Record(place / "checkpoints" / "young")
    young.add_curves([Row("young", "", "", 1, "train", -1, -1, "loss", 5.0)])
    young.flush()
    main(["watch", "--once", "page.html"])

    async def visit(browser):
        await browser.resize(1400, 1000, dark=True)
        await browser.open(f"{(place / 'page.html').as_uri()}#run=d0&run=e1&run=young")
        await browser.until(DRAWN)
        assert await browser.run("drawn.series.length") == 3
        drawn = await browser.run("channels(getComputedStyle(document.querySelector('#legend path.line')).stroke)")
        dark = "#" + "".join(f"{channel:02x}" for channel in drawn)
        assert dark == DARK[await browser.run("drawn.series[0].look.colour")]
        # A run without geometry yet leaves the axis as it is, and history is no setting.
        assert "over layer." in await browser.run("document.querySelector('#profiles svg').getAttribute('aria-label')")
        names = await browser.run(
            "[...document.querySelectorAll('#settings tbody th')].map((cell) => cell.textContent)"
        )
        assert {"seed", "label"} < {*names}
        assert not {*names} & {"created", "finished", "status"}
        # A layer that never has a value is left out of means, any other gap leaves a gap.
        groups = "[[1, [1, 2, null]], [2, [3, null, null]]].map(([at, values]) => [at, {layers: [1, 2, 3], values}])"
        assert await browser.run(f"[1, 2].map((at) => meanOver(new Map({groups}), at, () => true))") == [1.5, None]
        # Colours diverge, and axes are logarithmic, where they are in the report.
        key = "residual/norm_of_mean"
        await browser.run(f"Object.assign(drawn.words['{key}'], {{signed: true, wide: true}})")
        for values in ([-0.04, 1], [-0.06, 1], [-2, -1]):
            is_signed = await browser.run(f"mapScale('{key}', {values}).stops === drawn.scales.signed")
            assert is_signed == Values.of(Words("norm", signed=True), values).diverging
        for most in (4.9, 5.1):
            lines = f"[{{look: drawn.series[0].look, points: [{{x: 1, y: 1}}, {{x: 2, y: {most}}}]}}]"
            chart = f"lineChart({{title: '', width: 400, x: {{label: ''}}, y: {{wide: true}}, lines: {lines}}})"
            ticks = await browser.run(f"[...{chart}.querySelectorAll('text')].map((text) => text.textContent)")
            assert ("4" not in ticks) == Values.of(Words("norm", wide=True), [1, most]).log
        assert browser.troubles == []

    in_browser(tmp_path_factory.mktemp("profile"), visit)


def test_one_file_works_from_the_disk(make, small, place, tmp_path_factory):
    make("d0")
    small(EVIL_NAME, run=EVIL)
    write_run(place / "checkpoints" / EVIL_NAME, {"run": EVIL, "kind": "fit", "label": EVIL})
    main(["watch", "--once", "page.html"])

    async def visit(browser):
        file = (place / "page.html").as_uri()
        await browser.open(f"{file}#run=d0&run={quote(EVIL_NAME)}&step=4&layers=1,3")
        await browser.until(DRAWN)
        assert await browser.run(text("#slider-text")) == f"step 4 of 200; {EVIL}: 0"
        assert await browser.run(f"{profile('Anisotropy')}.split('L').length") == 2
        await browser.run("byId('heads-open').open = true")
        await browser.until("document.querySelectorAll('#heads canvas').length > 0")
        await browser.run("location.hash = ''")
        await browser.until("document.querySelectorAll('#rows tr').length === 2")
        await asyncio.sleep(0)
        assert await browser.run("byId('connection').hidden")
        assert await browser.run("document.images.length") == 0
        assert browser.troubles == []
        assert {request for request in browser.requests if request.split("#")[0] not in (file, "about:blank")} == set()

    in_browser(tmp_path_factory.mktemp("profile"), visit)
