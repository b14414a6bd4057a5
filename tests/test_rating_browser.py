"""The rating sheet in a real browser: a rater's hour by keyboard and mouse, and what a hostile completion can do there."""

import shutil
from collections import Counter

import pytest

from osler.rating.items import draw_items
from osler.rating.results import read_results
from osler.rating.sheet import write_sheets
from test_comparing import ATTACK, right, written, wrong, wrote
from test_report import SAMPLES

pytestmark = pytest.mark.slow
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LEAST_CONTRAST = 4.5
"""Of text, by WCAG 2.2, level AA."""
CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = (c) => c.slice(0, 3).map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
  const behind = (one) => { for (let at = one; at; at = at.parentElement) {
    const c = rgb(getComputedStyle(at).backgroundColor); if (c[3] === 255) return c; } return [255, 255, 255, 255]; };
  const texts = [...document.body.querySelectorAll("*")].filter((one) => one.checkVisibility() && !one.disabled
    && [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
  return texts.map((one) => { const [a, b] = [light(rgb(getComputedStyle(one).color)), light(behind(one))];
    return [one.tagName + "." + one.className, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]; });
}"""


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser is installed: one of {', '.join(BROWSERS)}")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield started
        started.close()


@pytest.fixture
def sheets(tmp_path):
    """The sheets of two raters on six items of two runs."""
    runs = [
        written(tmp_path / name, [make(sample) for make, sample in zip(plan, SAMPLES, strict=False)])
        for name, plan in (("base", [right, wrong, wrong, right]), ("grpo", [right] * 4))
    ]
    write_sheets(draw_items(runs, 6), tmp_path / "sheets")
    return tmp_path / "sheets"


@pytest.fixture
def visit(browser):
    """Open a file in a fresh profile; the page keeps what it asked for, what went wrong and what it alerted."""
    contexts = []

    def call(file, before=None, **options):
        context = browser.new_context(accept_downloads=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.asked, page.wrong, page.alerted = [], [], []
        page.on("request", lambda request: page.asked.append(request.url.partition(":")[0]))
        page.on("console", lambda message: page.wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on("dialog", lambda dialog: (page.alerted.append(dialog.message), dialog.dismiss()))
        if before:
            page.add_init_script(before)
        page.goto(file.as_uri())
        return page

    yield call
    for context in contexts:
        context.close()


def shown(page):
    """The code of the one item that is shown."""
    visible = [one for one in page.locator("article").all() if one.is_visible()]
    assert len(visible) == 1
    return visible[0].get_attribute("data-code")


def chosen(page, name, code):
    return page.evaluate(f"document.forms[0].elements['{name}-{code}'].value")


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


def saved(page, file):
    with page.expect_download() as download:
        page.get_by_role("button", name="Save CSV file").click()
    download.value.save_as(file)
    return file


def test_raters_work_by_keyboard_and_their_files_are_read_back(visit, sheets, tmp_path):
    files, given = [], {}
    for rater, keys in ((1, "142536"), (2, "141414")):
        page = visit(sheets / f"rater-{rater}.html")
        assert page.locator("#count").inner_text() == "0 of 6 done"
        for item in range(6):
            first, second = keys[item % 3 * 2 : item % 3 * 2 + 2]
            given[rater, shown(page)] = (first, second)
            press(page, first, second)
            meant = chosen(page, "correct", shown(page)), chosen(page, "sound", shown(page))
            assert meant == tuple(["yes", "no", "cannot say"][(int(key) - 1) % 3] for key in (first, second))
            assert page.locator("#count").inner_text() == f"{item + 1} of 6 done"
            press(page, "n")
        assert page.get_by_role("progressbar", name="Items done").evaluate("bar => bar.value") == 6
        files.append(saved(page, tmp_path / f"saved-{rater}.csv"))
        assert page.get_by_role("status").inner_text() == "Saved. Send the file back."
        assert (set(page.asked) - {"file", "data", "blob"}, page.wrong, page.alerted) == (set(), [], [])
    results = read_results(sheets, files)
    assert results.raters == ("1", "2")
    tallies = [Counter(keys[0] for (who, _), keys in given.items() if who == rater) for rater in (1, 2)]
    assert [tally["3"] for tally in tallies] == [2, 0]
    assert sum(model.cannot_say["correct"] for model in results.models) == 2
    assert sum(model.correct.n for model in results.models) == 10
    assert next(one for one in results.agreements if one.kind == "human-human").kappa.n == 4


def test_answers_outlive_the_page_and_are_of_one_sheet(visit, sheets, tmp_path):
    page = visit(sheets / "rater-1.html")
    first = shown(page)
    note = 'ångström; "quoted",\nsecond line'
    page.get_by_role("group", name="Is the final answer correct?").get_by_label("Cannot say").check()
    page.get_by_role("group", name="Is the reasoning sound?").get_by_label("Yes").check()
    page.get_by_label("Note").locator("visible=true").fill(note)
    page.reload()
    assert (chosen(page, "correct", first), chosen(page, "sound", first)) == ("cannot say", "yes")
    assert chosen(page, "note", first) == note
    assert shown(page) != first, "the page opens at the first open item"
    text = saved(page, tmp_path / "half.csv").read_bytes().decode("utf-8-sig")
    assert '"ångström; ""quoted"",\nsecond line"' in text
    assert page.get_by_role("status").inner_text() == "Saved. 5 of 6 items are still open."
    page.goto((sheets / "rater-2.html").as_uri())
    assert page.locator("#count").inner_text() == "0 of 6 done"


def test_buttons_go_from_item_to_item(visit, sheets):
    page = visit(sheets / "rater-1.html")
    codes = [one.get_attribute("data-code") for one in page.locator("article").all()]
    previous, after, gap = (
        page.get_by_role("button", name=name, exact=True) for name in ("Previous", "Next", "Next open item")
    )
    assert previous.is_disabled()
    after.click()
    assert shown(page) == codes[1]
    assert page.evaluate("document.activeElement.id") == f"item-{codes[1]}", "a screen reader hears which item it is"
    press(page, "1", "4")
    previous.click()
    gap.click()
    assert shown(page) == codes[2]
    for _ in range(3):
        after.click()
    assert after.is_disabled()


def test_keys_are_letters_in_a_note_and_can_be_switched_off(visit, sheets):
    page = visit(sheets / "rater-1.html")
    code = shown(page)
    page.get_by_label("Note").locator("visible=true").press_sequentially("1n4")
    assert (shown(page), chosen(page, "correct", code), chosen(page, "note", code)) == (code, "", "1n4")
    page.get_by_label("Use these keys").uncheck()
    page.locator("h2:visible").first.focus()
    press(page, "1", "n")
    assert (shown(page), chosen(page, "correct", code)) == (code, "")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_by_day_and_by_night(visit, sheets, scheme):
    page = visit(sheets / "rater-1.html", color_scheme=scheme)
    press(page, "1")
    found = page.evaluate(CONTRASTS)
    assert len(found) > 20
    assert [one for one in found if one[1] < LEAST_CONTRAST] == []
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(15, 19, 24)") == (scheme == "dark")


def test_every_field_has_a_label_and_every_picture_words(visit, sheets):
    page = visit(sheets / "rater-1.html")
    assert page.evaluate("[...document.querySelectorAll('input, textarea')].every(one => one.labels.length === 1)")
    assert page.evaluate("[...document.images].every(one => one.alt && one.naturalWidth > 1)")
    assert page.evaluate("document.images.length") >= 6


def test_a_narrow_screen_needs_no_scrolling_sideways(visit, sheets):
    page = visit(sheets / "rater-1.html", viewport={"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_hostile_completion_is_only_text(visit, tmp_path):
    hostile = [wrote(sample, f"{ATTACK}</script></form><answer>A</answer>") for sample in SAMPLES[:2]]
    write_sheets(draw_items([written(tmp_path / "run", hostile)], 2), tmp_path / "sheets", 1)
    page = visit(tmp_path / "sheets" / "rater-1.html")
    press(page, "1", "4", "n", "1", "4")
    assert page.locator("#count").inner_text() == "2 of 2 done"
    assert (page.alerted, page.wrong) == ([], [])


def test_a_script_that_is_not_the_sheets_own_does_not_run(visit, sheets):
    page = visit(sheets / "rater-1.html")
    page.evaluate("const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s)")
    assert page.evaluate("window.ran") is None
    assert any("Content Security Policy" in text for text in page.wrong)


def test_a_browser_that_keeps_nothing_says_so_and_still_saves(visit, sheets, tmp_path):
    page = visit(sheets / "rater-1.html", before="Storage.prototype.setItem = () => { throw new Error('full'); }")
    page.get_by_role("group", name="Is the final answer correct?").get_by_label("Yes").check()
    assert "keeps nothing" in page.get_by_role("status").inner_text()
    assert ',"yes",' in saved(page, tmp_path / "x.csv").read_text(encoding="utf-8")


def test_without_scripts_the_page_says_what_to_do(visit, sheets):
    page = visit(sheets / "rater-1.html", java_script_enabled=False)
    assert "rater-1.csv" in page.locator("noscript").inner_text()
