"""The page as a browser shows it: nothing is fetched, nothing missing, nothing sticks out, everything can be read."""

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from stages.report import report
from tests.reported import Shape, write_all

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not find_spec("playwright") or not CHROMIUM.is_file(), reason="needs playwright and Chromium"),
]


class Watched:
    """A page and all that it asked for and complained of."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("study")
    shape = Shape(datasets=("text", "vision"), methods=("vanilla", "sft", "grpo"), seeds=(0, 1, 2))
    run = write_all(folder, shape)
    (folder / "run.json").write_text(run.canonical_json())
    report.main(str(folder / "run.json"))
    return (folder / "report/report.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any, address: str) -> Iterator[Any]:
    """Opens the page in a window that is so wide, in these colours; scripts may be off."""
    contexts = []

    def open_page(width: int = 1280, colours: str = "light", scripts: bool = True) -> Watched:
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=colours, java_script_enabled=scripts
        )
        contexts.append(context)
        watched = Watched(context.new_page())
        watched.page.goto(address)
        return watched

    yield open_page
    for context in contexts:
        context.close()


def test_the_page_asks_for_nothing_and_complains_of_nothing(opened: Any, address: str) -> None:
    watched = opened()
    # Pictures further down are decoded when they are seen.
    watched.page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    watched.page.wait_for_load_state("networkidle")
    assert [url for url in watched.requests if not url.startswith("data:")] == [address]
    assert watched.complaints == []


def test_every_figure_and_picture_is_visible(opened: Any) -> None:
    page = opened().page
    figures = page.locator("figure svg")
    assert figures.count() == 2 * 3
    for place in range(figures.count()):
        box = figures.nth(place).bounding_box()
        assert figures.nth(place).is_visible() and box["width"] > 100 and box["height"] > 30
    broken = "images => images.filter(i => i.checkVisibility()).filter(i => !i.complete || !i.naturalWidth).length"
    page.evaluate("document.querySelectorAll('img').forEach(image => { image.loading = 'eager'; })")
    page.wait_for_load_state("networkidle")
    assert page.locator("img").count() >= 4
    assert page.locator("img").evaluate_all(broken) == 0


def test_every_link_of_the_contents_goes_somewhere(opened: Any) -> None:
    page = opened().page
    links = page.locator("a[href^='#']")
    targets = links.evaluate_all("links => links.map(link => link.getAttribute('href').slice(1))")
    assert len(targets) >= 8
    assert [target for target in targets if page.locator(f"[id='{target}']").count() != 1] == []


def test_a_figure_opens_its_table_by_keyboard(opened: Any) -> None:
    """Without scripts, too."""
    page = opened(scripts=False).page
    figure = page.locator("figure details").first
    assert not figure.locator("table").is_visible()
    figure.locator("summary").focus()
    page.keyboard.press("Enter")
    assert figure.locator("table").is_visible()
    assert figure.locator("tbody tr").count() == 200
    page.keyboard.press("Enter")
    assert not figure.locator("table").is_visible()


def test_the_skip_link_is_first_and_is_seen_when_it_has_the_focus(opened: Any) -> None:
    page = opened().page
    page.keyboard.press("Tab")
    link = page.locator(":focus")
    assert link.inner_text() == "Skip to the findings"
    assert link.bounding_box()["x"] >= 0
    assert link.evaluate("link => getComputedStyle(link).outlineStyle") != "none"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_makes_the_page_scroll_sideways(opened: Any, width: int) -> None:
    page = opened(width).page
    for opened_all in (False, True):
        page.evaluate("all => document.querySelectorAll('details').forEach(part => { part.open = all; })", opened_all)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("toggled", [False, True])
def test_text_can_be_read_in_light_and_dark(opened: Any, colours: str, toggled: bool) -> None:
    page = opened(colours=colours).page
    if toggled:
        page.get_by_role("button").click()
    dark = (colours == "dark") != toggled
    assert (luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) < 0.1) == dark
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    pairs = page.evaluate(COLOURS)
    assert len(pairs) > 5
    assert {(front, back): f"{contrast(front, back):.2f}" for front, back in pairs if contrast(front, back) < 4.5} == {}


# Colour of every text and of what is behind it.
COLOURS = """() => {
  const found = new Map();
  const behind = element => {
    for (let part = element; part; part = part.parentElement) {
      const colour = getComputedStyle(part).backgroundColor;
      if (colour !== "rgba(0, 0, 0, 0)") return colour;
    }
  };
  for (const element of document.querySelectorAll("body, body *")) {
    const said = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!said || element.closest("svg, script") || !element.checkVisibility()) continue;
    const pair = [getComputedStyle(element).color, behind(element)];
    found.set(pair.join(), pair);
  }
  return [...found.values()];
}"""


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)` (WCAG 2.2)."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(front: str, back: str) -> float:
    """Contrast ratio of two colours (WCAG 2.2); AA asks 4.5 of text."""
    light, dark = sorted((luminance(front), luminance(back)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("rgb(255, 255, 255)", "rgb(0, 0, 0)") == pytest.approx(21)
    assert contrast("rgb(118, 118, 118)", "rgb(255, 255, 255)") == pytest.approx(4.54, abs=0.01)


def test_print_is_light_and_shows_the_details_of_findings(opened: Any) -> None:
    page = opened(colours="dark").page
    page.emulate_media(media="print")
    assert luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) > 0.9
    assert not page.locator("nav").is_visible() and not page.get_by_role("button").is_visible()
    assert page.locator(".finding table").first.is_visible()
    assert page.locator("figure svg").first.is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_without_scripts_everything_is_there(opened: Any) -> None:
    page = opened(scripts=False).page
    assert not page.get_by_role("button").is_visible()
    titles = page.locator("h2").all_inner_texts()
    assert titles == [
        "Findings",
        "Accuracy",
        "Figures",
        "Answers that changed after a reflection",
        "Responses, not selected",
        "Runs",
        "Settings against the paper's",
        "Run it again",
    ]
