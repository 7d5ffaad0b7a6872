"""The annotation page in a real browser: two people, keys alone, a killed server, hostile text, phone and laptop."""

import json
import os
import shutil
import signal

import pytest
from test_annotate import Served

from mlxrlhf.annotate.store import Store
from mlxrlhf.tasks.answers import format_answer
from mlxrlhf.tasks.task import load_tasks

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
#: what a model could write to be run instead of read
HOSTILE = (
    '<img src=x onerror="window.owned=1"><script>window.owned=1</script>\n```python\n</span></div>'
    "<svg onload=window.owned=1>\nprint('<b>bold</b>')\n```\n{{7*7}} ${window.owned=1} javascript:alert(1)"
)


def find_browser():
    names = (
        os.environ.get("CHROMIUM"),
        "chromium",
        "chromium-browser",
        "google-chrome",
        "google-chrome-stable",
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    )
    return next((found for name in names if name and (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser():
    path = find_browser()
    if path is None:
        reason = "no Chromium: install chromium or google-chrome, or name one in the environment variable CHROMIUM"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def serve(tmp_path):
    running = []

    def start(rows, *arguments, port=0):
        (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        running.append(Served(tmp_path, "--data", "pairs.jsonl", "--repeats", "0", *arguments, port=port))
        return running[-1]

    start.db = tmp_path / "data" / "annotations.db"
    yield start
    for one in running:
        if one.process.poll() is None:
            one.stop(signal.SIGKILL)


def plain(count):
    return [
        {"prompt": f"Request {i}", "chosen": f"def f():\n    return {i}", "rejected": f"no answer {i}"}
        for i in range(count)
    ]


class Person:
    """Someone at the keyboard, in a browser profile of their own."""

    def __init__(self, browser, url, name, **context):
        self.context = browser.new_context(**context)
        self.context.set_default_timeout(10_000)
        self.errors = []
        self.open(url)
        self.page.wait_for_selector("#start:visible")
        self.keys(*name, "Enter")
        self.page.wait_for_selector("#work:visible")

    def open(self, url):
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.errors.append(error))
        self.page.on(
            "console",
            lambda m: (
                m.type == "error"
                and "Failed to load" not in m.text
                and "ERR_CONNECTION" not in m.text
                and self.errors.append(m.text)
            ),
        )
        self.page.goto(url)

    def keys(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def shows(self, done, left):
        self.page.wait_for_function(
            "([d, l]) => document.getElementById('done').textContent === d && "
            "document.getElementById('left').textContent === l && !document.body.hasAttribute('aria-busy')",
            arg=[str(done), str(left)],
        )

    def text(self, selector):
        return self.page.inner_text(selector)


def stored(path):
    store = Store(path)
    votes = store.votes()
    store.close()
    return votes


def test_two_people_at_once_by_keyboard_alone(browser, serve):
    server = serve(plain(4), "--overlap", "2")
    ann, bob = (Person(browser, server.url, name) for name in ("Ann", "Bob"))
    assert ann.text("#prompt") != bob.text("#prompt"), "the least annotated first"
    for i in range(4):
        for person, choice in ((ann, "1"), (bob, "2")):
            # Slightly, clearly, much; two reasons, one taken back; a rationale with every key in it.
            person.keys("4", choice, choice, choice, "5", "8", "5", "r")
            person.page.keyboard.type("12 3su?d")
            assert (
                person.page.locator("[data-answer][aria-pressed=true]").get_attribute("data-answer")
                == {"1": "left", "2": "right"}[choice]
            ), "keys do nothing in a field"
            person.keys("Escape", "Enter")
            person.shows(i + 1, 3 - i)
    ann.page.wait_for_selector("#finished:visible")
    votes = stored(serve.db)
    assert len(votes) == 8 and {(v.strength, v.reasons, v.rationale) for v in votes} == {(3, ("style",), "12 3su?d")}
    assert all((v.choice == "b") == (v.swapped == (v.annotator == "Ann")) for v in votes), "left is what stood left"
    assert len({(v.annotator, v.item) for v in votes}) == 8 and all(0 < v.seconds < 60 for v in votes)
    bob.keys("u")
    bob.shows(3, 1)
    assert bob.page.locator("[data-strength][aria-checked=true]").inner_text() == "much"
    bob.keys("3", "Enter")
    bob.shows(4, 0)
    assert [v.choice for v in stored(serve.db)].count("tie") == 1
    assert bob.text("#alpha") == "–" and "3 of 20 shared items" in bob.text("#facts"), "too few, one of them voted anew"
    bob.keys("?")
    assert bob.page.is_visible("#help")
    bob.keys("Escape")
    assert not bob.page.is_visible("#help") and not ann.errors + bob.errors


def test_a_killed_server_loses_nothing(browser, serve):
    server = serve(plain(4))
    ann = Person(browser, server.url, "Ann")
    ann.keys("1", "Enter")
    ann.shows(1, 3)
    prompt = ann.text("#prompt")
    ann.keys("2", "2", "6")
    server.stop(signal.SIGKILL)
    ann.keys("Enter")
    ann.page.wait_for_selector("#trouble:visible")
    assert "does not answer" in ann.text("#trouble") and ann.text("#done") == "1", "nothing is said to be saved"
    votes = stored(serve.db)
    assert len(votes) == 1, "what was said to be saved is on disk"
    serve(plain(4), port=server.port)
    ann.keys("Enter")
    ann.shows(2, 2)
    assert not ann.page.is_visible("#trouble") and ann.text("#prompt") != prompt
    votes = stored(serve.db)
    assert len(votes) == 2 and (votes[1].strength, votes[1].reasons) == (2, ("readability",))
    assert not ann.errors


def test_reload_second_tab_and_undo(browser, serve):
    server = serve(plain(5))
    ann = Person(browser, server.url, "Ann")
    ann.keys("1", "Enter")
    ann.shows(1, 4)
    first, prompt = ann.page, ann.text("#prompt")
    ann.keys("2", "2", "7", "r", "w", "h", "y")
    ann.page.reload()
    ann.page.wait_for_selector("#work:visible")
    assert ann.text("#prompt") == prompt, "a reload in mid-item shows the same item and the same draft"
    assert ann.page.get_attribute("[data-answer=right]", "aria-pressed") == "true"
    assert ann.page.get_attribute("[data-reason=efficiency]", "aria-pressed") == "true"
    assert ann.page.input_value("#rationale") == "why"
    # A second tab of the same person shows the same item; whoever votes second is told, and nothing is lost.
    ann.open(server.url)
    ann.keys("Enter")  # the name is filled in
    ann.page.wait_for_selector("#work:visible")
    assert ann.text("#prompt") == prompt
    ann.keys("1", "Enter")
    ann.shows(2, 3)
    ann.page = first
    ann.keys("Enter")
    ann.page.wait_for_selector("#trouble:visible")
    assert "another tab" in ann.text("#trouble")
    ann.shows(2, 3)
    assert len(stored(serve.db)) == 2
    # Undo after a reload.
    ann.page.reload()
    ann.page.wait_for_selector("#work:visible")
    ann.keys("u")
    ann.shows(1, 4)
    assert ann.text("#prompt") == prompt and len(stored(serve.db)) == 1
    ann.keys("s")
    ann.shows(2, 3)
    assert [v.choice for v in stored(serve.db)][-1] == "skip" and not ann.errors


def test_a_hostile_answer_stays_inert(browser, serve):
    rows = [{"prompt": HOSTILE, "chosen": HOSTILE, "rejected": HOSTILE + "!", "tests": ["assert '<img src=x>' == 1"]}]
    server = serve(rows, "--overlap", "2")
    ann = Person(browser, server.url, "<img>")
    for key in ("d", "d", "1", "Enter"):
        ann.keys(key)
    ann.page.wait_for_selector(".badge.bad >> nth=1")
    assert ann.page.evaluate("window.owned") is None
    assert ann.page.evaluate(
        "document.querySelectorAll('img, svg, b, main script, iframe').length"
    ) == ann.page.evaluate("document.querySelectorAll('#said b, .facts b, .meter b').length")
    for selector in ("#prompt", "#left-body", "#right-body"):
        assert "<script>window.owned=1</script>" in ann.text(selector)
    assert "</span></div><svg onload=window.owned=1>" in ann.text("#left-body .code")
    assert ann.text("#who") == "<img>" and not ann.errors
    # The browser itself refuses text that is to become HTML, and any script that is not the page's.
    refused = ann.page.evaluate(
        "() => { try { document.body.innerHTML = '<i>x</i>'; return false } "
        "catch (error) { return error instanceof TypeError } }"
    )
    assert refused


def test_test_results_come_after_the_vote(browser, serve):
    task = load_tasks()[0]
    wrong = "def f(:"
    rows = [
        {"prompt": "p", "chosen": format_answer(task.solution), "rejected": format_answer(wrong), "task": task.name}
    ]
    server = serve(rows)
    ann = Person(browser, server.url, "Ann")
    good, bad = ("left", "right") if task.solution.splitlines()[0] in ann.text("#left-body") else ("right", "left")
    assert not ann.page.is_visible(".badge") and not ann.page.is_visible("#tests")
    status, _, _ = server.ask("POST", "/api/tests", {"annotator": "Ann", "assignment": 1})
    assert status == 409
    ann.keys("1", "Enter")
    ann.page.wait_for_selector("#tests:visible")
    assert ann.text(f"#badge-{good}") == "passes its tests" and ann.text(f"#badge-{bad}") == "fails its tests"
    assert len(stored(serve.db)) == 1
    ann.keys("Enter")
    ann.page.wait_for_selector("#finished:visible")


def test_another_host_needs_the_token(browser, serve):
    server = serve(plain(2), "--host", "0.0.0.0")
    base = f"http://127.0.0.1:{server.port}/"
    page = browser.new_context().new_page()
    assert page.goto(base).status == 403
    ann = Person(browser, base + "?" + server.url.partition("?")[2], "Ann")
    assert "token" not in ann.page.url
    ann.keys("1", "Enter")
    ann.shows(1, 1)


def test_a_name_that_was_made_to_point_here_is_refused(browser, serve):
    server = serve(plain(1))
    launched = browser.browser_type.launch(
        executable_path=find_browser(), args=[*FLAGS, "--host-resolver-rules=MAP rebound.example 127.0.0.1"]
    )
    page = launched.new_page()
    assert page.goto(f"http://rebound.example:{server.port}/").status == 421
    launched.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1366, 800), (390, 844)])
def test_the_page_fits_laptop_and_phone(browser, serve, scheme, size):
    wide = "x = " + " + ".join(f"some_long_name_{i}" for i in range(40))
    server = serve([{"prompt": "w" * 300, "chosen": f"```python\n{wide}\n```", "rejected": wide.replace(" ", "")}])
    ann = Person(browser, server.url, "Ann", viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    for keys in ((), ("1", "r"), ("Escape", "d")):
        ann.keys(*keys)
        assert ann.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), keys
        for button in ann.page.query_selector_all("#dock button:visible"):
            box = button.bounding_box()
            inside = box["x"] + box["width"] <= size[0] or "chip" in button.get_attribute("class")  # chips scroll
            assert box["height"] >= 24 and inside
    dark = ann.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(v) for v in dark[4:-1].split(",")) < 200) == (scheme == "dark")
