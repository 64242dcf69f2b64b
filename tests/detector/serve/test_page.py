"""The page in a real Chromium: what people choose, drop and paste, what goes wrong, keyboards and narrow windows."""

import json
import os

import pytest

from detector.cli import main
from tests.detector.serve.packages import needed
from tests.detector.serve.process import running

needed()
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, which drives the browser")
BROWSER = os.environ.get("NPR_BROWSER", "")
if not BROWSER:
    pytest.skip("needs a browser: NPR_BROWSER=/usr/bin/chromium, or make page", allow_module_level=True)

MILLISECONDS = 60_000
GONE = "The service does not answer. Is it still running?"
LIMITS = ("--max-file-bytes", "50000", "--max-pixels", "20000")

# Makes an event with files, as dropping and pasting do.
EVENT = """
([kind, files]) => {
  const transfer = new DataTransfer();
  for (const [name, base64] of files) {
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    transfer.items.add(new File([bytes], name));
  }
  const options = { bubbles: true, cancelable: true };
  const event = kind === "paste"
    ? new ClipboardEvent("paste", { ...options, clipboardData: transfer })
    : new DragEvent(kind, { ...options, dataTransfer: transfer });
  return document.body.dispatchEvent(event);
}
"""


@pytest.fixture(scope="module")
def address(weights):
    with running(weights, *LIMITS) as (_, address):
        yield address


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page_of(browser):
    """Opens a page; fails where a script failed or the page's own rules were broken."""
    faults, contexts = [], []

    def open_page(address, **options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(MILLISECONDS)
        page.on("pageerror", lambda error: faults.append(str(error)))
        # Who listens only when a key is to open the chooser, listens too late on a busy machine.
        page.on("filechooser", lambda chooser: None)
        page.on("console", lambda message: faults.append(message.text) if "Policy" in message.text else None)
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def payload(name, data):
    return {"name": name, "mimeType": "application/octet-stream", "buffer": data}


def finished(page, number):
    """The articles, once there are so many and each has its answer."""
    page.locator("article[aria-busy=false]").nth(number - 1).wait_for()
    return page.locator("article")


def send(page, kind, files):
    import base64

    return page.evaluate(EVENT, [kind, [[name, base64.b64encode(data).decode()] for name, data in files]])


def test_chosen_pictures_get_the_verdict_of_npr_detect(address, page_of, weights, file_of, tmp_path, capsys):
    (tmp_path / "a.jpg").write_bytes(file_of("JPEG", (90, 70), quality=20))
    capsys.readouterr()
    main(["detect", str(tmp_path / "a.jpg"), "--weights", str(weights), "--json"])
    expected = json.loads(capsys.readouterr().out)
    page = page_of(address)
    page.get_by_label("Choose pictures").set_input_files(tmp_path / "a.jpg")
    article = finished(page, 1).first
    assert f"Score {expected['score']:.4f}," in article.inner_text()
    assert article.locator(".verdict").get_attribute("class") == f"verdict {expected['verdict']}"
    assert article.locator(".doubt li").all_inner_texts() == [reason["text"] for reason in expected["reasons"]]
    assert article.locator(".facts li").first.inner_text().startswith("JPEG, 90x70")
    assert "quality 20" in article.inner_text()
    for image in article.locator("img").all():
        assert image.evaluate("image => image.complete && image.naturalWidth > 0")
        assert len(image.get_attribute("alt")) > 20
    assert page.get_by_role("status").inner_text() == f"a.jpg: {expected['verdict']}, score {expected['score']:.4f}."
    over, under = (article.locator(name).bounding_box() for name in (".activation", ".image"))
    assert (over["x"], over["y"]) == pytest.approx((under["x"], under["y"]), abs=1)
    assert 1 <= over["width"] / under["width"] <= 96 / 90 + 0.02  # features of 8 pixels, the last beyond the edge
    article.get_by_label("Map over the picture").fill("0")
    assert article.locator(".activation").evaluate("image => getComputedStyle(image).opacity") == "0"
    assert "Why it is unsure" in article.inner_text()


def test_dropped_and_pasted(address, page_of, file_of):
    page = page_of(address)
    assert send(page, "dragover", [("a.png", file_of())]) is False  # the browser does not open it itself
    assert page.locator("#drop.over").count() == 1
    assert send(page, "drop", [("a.png", file_of()), ("b.png", file_of())]) is False
    finished(page, 2)
    assert page.locator("#drop.over").count() == 0
    assert send(page, "paste", [("image.png", file_of())]) is False
    assert send(page, "paste", []) is True  # text goes where it is meant
    assert finished(page, 3).locator("h3").all_inner_texts() == ["a.png", "b.png", "image.png"]
    assert finished(page, 3).locator(".words").count() == 3


def test_files_that_are_none_and_those_that_are_too_large(address, page_of, file_of):
    page = page_of(address)
    page.get_by_text("up to 0.0477 MB each").wait_for()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    files = [
        payload("text.png", b"no image"),
        payload("cut.png", file_of()[:900]),
        payload("huge.png", b"\0" * 50001),
        payload("bomb.ppm", b"P6 60000 60000 255\n"),
    ]
    page.get_by_label("Choose pictures").set_input_files(files)
    articles = finished(page, 4)
    errors = articles.locator(".error").all_inner_texts()
    expected = ["is not an image in one of the formats", "is damaged", "more than the limit of", "has too many pixels"]
    for error, words in zip(errors, expected, strict=True):
        assert error.startswith("No verdict: it ")
        assert words in error
    assert len(asked) == 3  # the huge one was not sent
    assert articles.locator(".again:visible").count() == articles.locator(".found:visible").count() == 0


def test_ten_at_once(address, page_of, file_of, weights, tmp_path, capsys):
    for number in range(10):
        (tmp_path / f"{number}.png").write_bytes(file_of())
    paths = sorted(tmp_path.iterdir())
    capsys.readouterr()
    main(["detect", *map(str, paths), "--weights", str(weights), "--json"])
    expected = [json.loads(line)["score"] for line in capsys.readouterr().out.splitlines()]
    page = page_of(address)
    page.get_by_label("Choose pictures").set_input_files(paths)
    words = finished(page, 10).locator(".words").all_inner_texts()
    assert [text.split(",")[0] for text in words] == [f"Score {score:.4f}" for score in expected]
    page.get_by_text("All 10 pictures are done.").wait_for()
    page.get_by_role("button", name="Remove all").click()
    assert page.locator("article").count() == 0
    assert page.evaluate("document.activeElement.id") == "results-title"


def test_a_service_that_is_gone(weights, page_of, file_of):
    with running(weights) as (process, address):
        page = page_of(address)
        page.get_by_text("npr-kernels").wait_for()
        page.context.set_offline(True)
        page.get_by_label("Choose pictures").set_input_files([payload("a.png", file_of())])
        article = finished(page, 1).first
        assert article.locator(".error").inner_text() == GONE
        page.context.set_offline(False)
        article.get_by_role("button", name="Try a.png again").click()
        article.locator(".words").wait_for()
        assert article.locator(".error:visible").count() == 0
        process.kill()
        process.wait()
        page.get_by_label("Choose pictures").set_input_files([payload("b.png", file_of())])
        assert finished(page, 2).last.locator(".error").inner_text() == GONE


def test_the_token_is_asked_for(weights, page_of, file_of):
    with running(weights, environment={"NPR_SERVE_TOKEN": "secret"}) as (_, address):
        page = page_of(address)
        field = page.get_by_label("This service asks for a token")
        field.wait_for()
        assert field.evaluate("field => field === document.activeElement")
        field.fill("secret")
        field.press("Enter")
        page.get_by_text("npr-kernels").wait_for()
        page.get_by_label("Choose pictures").set_input_files([payload("a.png", file_of())])
        finished(page, 1).locator(".words").wait_for()


def test_by_keyboard(address, page_of, file_of):
    page = page_of(address)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files([payload("a.png", file_of()), payload("b.png", file_of())])
    finished(page, 2)
    for name in ("Remove all", "Remove a.png", "Map over the picture", "Remove b.png", "Map over the picture"):
        page.keyboard.press("Tab")
        named = "document.activeElement.ariaLabel || (document.activeElement.labels?.[0] || document.activeElement)"
        assert page.evaluate(f"({named}).innerText ?? ({named})").strip() == name
    page.get_by_role("button", name="Remove b.png").press("Enter")
    assert page.evaluate("document.activeElement.ariaLabel") == "Remove a.png"


def test_names_are_shown_and_not_obeyed(address, page_of, file_of):
    name = "<img src=x onerror=document.title=1>.png"
    page = page_of(address)
    page.get_by_label("Choose pictures").set_input_files([payload(name, file_of())])
    assert finished(page, 1).locator("h3").inner_text() == name
    assert page.title() == "Is this picture generated?"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_and_can_be_read(address, page_of, file_of, scheme, width):
    page = page_of(address, color_scheme=scheme, viewport={"width": width, "height": 800})
    files = [payload(30 * "long" + ".png", file_of(size=(200, 20))), payload("text.png", b"no image")]
    page.get_by_label("Choose pictures").set_input_files(files)
    finished(page, 2)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    light = {}
    for selector in ("body", "#drop", ".limits", "article", ".verdict", ".error", ".quiet", "figcaption", ".remove"):
        for name in ("color", "backgroundColor"):
            text = page.locator(selector).first.evaluate(f"element => getComputedStyle(element).{name}")
            light[selector, name] = luminance(text)
    assert (light["body", "backgroundColor"] > 0.5) == (scheme == "light")
    for selector, behind in {
        "body": "body", "#drop": "#drop", ".limits": ".limits", ".verdict": "article", ".error": "article",
        ".quiet": "article", "figcaption": "article", ".remove": ".remove",
    }.items():  # fmt: skip
        pair = light[selector, "color"], light[behind, "backgroundColor"]
        assert (max(pair) + 0.05) / (min(pair) + 0.05) >= 4.5, selector  # WCAG 2.2, 1.4.3


def luminance(colour):
    """Relative luminance as WCAG defines it, of "rgb(1, 2, 3)"; transparent ones are not looked at."""
    values = [float(part) for part in colour.split("(")[1].rstrip(")").split(",")][:3]
    linear = [v / 255 / 12.92 if v / 255 <= 0.04045 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
