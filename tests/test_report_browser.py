"""The report in Chromium, at the width of a phone."""

import json
import re
import shutil
import subprocess

import pytest
from result_files import PRIOR, WITHIN, put, put_evaluation, put_squares

from bioclip2_jax.report.build import build_results

_MEASURE = """
<iframe id="page" src="report.html" style="width: 375px; height: 800px; border: 0"></iframe>
<script>onload = () => {
  const inside = document.getElementById("page").contentDocument;
  const boxes = (svg) => [...svg.querySelectorAll('g[id*="-text_"]')]
    .map((text) => text.getBoundingClientRect()).filter((box) => box.width && box.height);
  const clash = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
  const overlaps = [...inside.querySelectorAll("svg")].filter((svg) => {
    const all = boxes(svg);
    return all.some((a, i) => all.slice(i + 1).some((b) => clash(a, b)));
  }).map((svg) => svg.getAttribute("aria-label"));
  const measured = {
    width: inside.documentElement.scrollWidth,
    window: inside.documentElement.clientWidth,
    texts: [...inside.querySelectorAll("svg")].map((svg) => boxes(svg).length),
    broken: [...inside.images].filter((image) => !image.naturalWidth).length,
    images: inside.images.length,
    unmarked: [...inside.querySelectorAll(".scroll")].filter((box) =>
      box.scrollWidth > box.clientWidth
      && !getComputedStyle(box).backgroundAttachment.includes("local")).length,
    scrolling: [...inside.querySelectorAll(".scroll")].filter((box) =>
      box.scrollWidth > box.clientWidth).length,
    overlaps,
  };
  document.body.innerHTML = "<pre>" + JSON.stringify(measured) + "</pre>";
}</script>"""


def test_on_a_phone_nothing_is_cut_broken_or_overlapping(tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser",
                                                    "google-chrome"))), None)  # fmt: skip
    if browser is None:
        pytest.skip("no Chromium on this machine")
    put_evaluation(tmp_path / "out", put_squares(tmp_path / "squares"), PRIOR)
    put(tmp_path / "out" / "within.json", WITHIN)
    build_results([tmp_path / "out"], tmp_path / "report.html")
    (tmp_path / "measure.html").write_text(_MEASURE)
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --allow-file-access-from-files"
    done = subprocess.run(
        [browser, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
        + ["--enable-logging=stderr", "--v=0", (tmp_path / "measure.html").as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ":CONSOLE" not in done.stderr
    measured = json.loads(re.search(r"<pre>(.*?)</pre>", done.stdout)[1])
    assert measured["width"] == measured["window"] <= 375  # beside a scroll bar
    assert (measured["broken"], measured["images"]) == (0, 5)
    assert measured["overlaps"] == []
    assert measured["unmarked"] == 0 < measured["scrolling"]
    assert (
        len(measured["texts"]) == 6 and min(measured["texts"]) > 0 and sum(measured["texts"]) > 20
    )
