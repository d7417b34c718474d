"""The page in a browser: both images load, the slider moves, and no network request is made."""

import json
import re
import shutil

import pytest

from dkic.evaluation.page import page


@pytest.fixture
def index(report):
    return report.out / "index.html"


def test_the_page_is_one_file_without_network_requests(index):
    text = index.read_text()
    data = re.search(r'<script type="application/json" id="data">(.*)</script>', text)[1]
    assert not re.search(r"https?:|src=|href=|@import|url\(|fetch\(", text.replace(data, ""))
    content = json.loads(data)
    assert all(source.startswith("data:image/") for source in content["files"].values())
    assert all(chart["source"].startswith("data:image/svg+xml;base64,") for chart in content["charts"])
    assert "LPIPS alone does not reward realism" in content["realism"]


def test_text_cannot_end_the_script_element():
    text = page({"remarks": ["</script><script>alert(1)</script>"]})
    assert text.count("</script>") == 2


@pytest.fixture(scope="module")
def browser():
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("there is no chromium and chromedriver: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--window-size=1200,1000",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    yield running
    running.quit()


def test_two_codecs_are_compared(index, browser):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    def of(name: str):
        return browser.find_element(By.ID, name)

    def loaded(side: str, size: list[int]) -> None:
        image = f"document.getElementById('{side}-image')"
        script = f"return {image}.complete && [{image}.naturalWidth, {image}.naturalHeight]"
        WebDriverWait(browser, 30).until(lambda b: b.execute_script(script) == size)

    def clipped() -> float:
        return float(re.search(r"inset\(0px ([\d.]+)% 0px 0px\)", of("left-layer").value_of_css_property("clip-path"))[1])

    browser.get(index.as_uri())
    assert [option.text for option in Select(of("image")).options] == ["a <b> & 'c'", "upright"]
    assert [option.text for option in Select(of("target")).options] == ["0.4", "1.2"]
    for side in ("left", "right"):
        loaded(side, [192, 176])
    assert of("left-label").text == "original"
    assert [option.text for option in Select(of("right")).options] == ["original", "jpeg", "dkic:small"]
    Select(of("target")).select_by_visible_text("1.2")
    Select(of("left")).select_by_visible_text("jpeg")
    Select(of("right")).select_by_visible_text("dkic:small")
    for side in ("left", "right"):
        loaded(side, [192, 176])
    assert of("left-image").get_attribute("src").startswith("data:image/jpeg")
    assert of("right-image").get_attribute("src").startswith("data:image/webp")
    verdicts = r"SSIMULACRA2 -?[\d.]+, DISTS 0\.\d{3}, LPIPS 0\.\d{3}, PSNR \d\d\.\d\d, MS-SSIM 0\.\d{4}"
    assert re.fullmatch(rf"jpeg \(\d\.\d{{3}} bpp: {verdicts}\)", of("left-label").text)

    assert clipped() == 50
    width = of("stage").size["width"]
    ActionChains(browser).click_and_hold(of("handle")).move_by_offset(width // 4, 0).release().perform()
    assert clipped() == pytest.approx(25, abs=0.5)
    assert int(of("slider").get_attribute("value")) == pytest.approx(750, abs=5)
    browser.execute_script("const s = document.getElementById('slider'); s.value = 100; s.dispatchEvent(new Event('input'))")
    assert clipped() == 90

    at_first = of("left-image").value_of_css_property("transform")
    of("in").click()
    of("in").click()
    enlarged = of("left-image").value_of_css_property("transform")
    assert enlarged != at_first and enlarged == of("right-image").value_of_css_property("transform")
    assert of("zoom").text == "400 %"
    of("fit").click()
    Select(of("image")).select_by_visible_text("upright")
    loaded("left", [161, 208])

    charts = browser.execute_script("return [...document.querySelectorAll('#charts img')].map(i => i.naturalWidth > 100)")
    assert charts == [True] * 4
    assert of("table").text.startswith("codec 0.4 bpp: actual SSIMULACRA2 DISTS LPIPS PSNR MS-SSIM 1.2 bpp: actual")
    assert "BD-rate against jpeg" in of("bd").text and "not reward realism" in of("realism").text
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    fetched = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in fetched if not name.startswith("data:")] == []
