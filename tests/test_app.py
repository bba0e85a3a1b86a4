"""Laws of the app, driven as its users drive it: through its API, and in a real browser."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import soundfile
from conftest import ROOT, buzz

pytest.importorskip("gradio", reason="pip install gradio")

from llasa_lite import CHECKPOINTS, Llasa, audio, builtin_voices


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """`python app.py` in a process of its own; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("app")
    environment = {"GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_TEMP_DIR": str(folder)}
    with open(folder / "log.txt", "w") as log:
        process = subprocess.Popen(
            [sys.executable, ROOT / "app.py"], cwd=ROOT, env=os.environ | environment, stdout=log, stderr=log
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            assert process.poll() is None, (folder / "log.txt").read_text()
            try:
                urllib.request.urlopen(address, timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail("the app did not answer: " + (folder / "log.txt").read_text())
        yield address
        assert "A request failed." not in (folder / "log.txt").read_text()  # how the app logs what it did not foresee
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def client(server):
    from gradio_client import Client

    return Client(server, verbose=False)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    from gradio_client import handle_file

    return handle_file(str(audio.save(buzz(1.5), tmp_path_factory.mktemp("clip") / "clip.wav")))


def speak(client, text="Oh.", voice="", seed=7, clip=None, transcript="", endpoint="/speak", **more):
    settings = dict(model="nano", temperature=0.7, top_p=0.95, random_seed=False) | more
    return client.predict(
        text=text, voice=voice, seed=seed, clip=clip, transcript=transcript, api_name=endpoint, **settings
    )


# -- through the API -------------------------------------------------------------------------------------------------


def test_what_the_app_speaks_can_be_made_again_from_its_receipt(client):
    played, summary, wave, receipt, seed = speak(client)
    with open(receipt) as file:
        told = json.load(file)
    again = Llasa.replay(told)
    samples, rate = soundfile.read(wave, dtype="float32")
    assert rate == 16_000 and seed == told["seed"] == 7
    np.testing.assert_allclose(samples, again.wav, atol=1e-3)
    assert f"{len(samples) / rate:.1f} s" in summary and "seed 7" in summary
    assert len(soundfile.read(played)[0]) == len(samples)


def test_a_stream_ends_with_what_speak_returns(client):
    *_, whole, receipt, _ = speak(client)
    *_, streamed, streamed_receipt, seed = speak(client, endpoint="/stream")
    assert soundfile.info(whole).frames == soundfile.info(streamed).frames and seed == 7


def test_one_visitors_choice_does_not_touch_anothers(server):
    from gradio_client import Client

    mine, theirs = Client(server, verbose=False), Client(server, verbose=False)
    before = soundfile.read(speak(mine)[2])[0]
    speak(theirs, "Yes.", seed=1, temperature=1.5, top_p=0.5)
    np.testing.assert_array_equal(soundfile.read(speak(mine)[2])[0], before)


def test_a_drawn_seed_is_shown(client):
    seeds = {speak(client, random_seed=True, seed=7)[-1] for _ in range(2)}
    assert len(seeds) == 2 and 7 not in seeds


def test_an_own_clip_is_a_voice(client, clip):
    *_, receipt, _ = speak(client, voice="my clip", clip=clip, transcript="hello there.")
    with open(receipt) as file:
        told = json.load(file)
    assert told["voice_text"] == "hello there." and len(told["voice_codes"]) == pytest.approx(75, abs=10)


def test_continue_gives_the_answer_alone_and_after_its_clip(client, clip):
    whole, alone, summary, wave, receipt, seed = client.predict(
        model="nano", clip=clip, transcript="hello there.", text="Oh.", random_seed=False, seed=3, temperature=0.7,
        top_p=0.95, api_name="/continue",
    )  # fmt: skip
    frames = {name: soundfile.info(path).frames for name, path in {"whole": whole, "alone": alone}.items()}
    assert frames["whole"] - frames["alone"] == pytest.approx(1.5 * 16_000, abs=3200) and frames["alone"] > 0


def test_transcribe_reads_what_the_library_reads(client, clip):
    text, probability, summary = client.predict(model="nano", clip=clip, api_name="/transcribe")
    heard = Llasa.from_pretrained().transcribe(clip["path"])
    assert text == heard.text and probability == pytest.approx(heard.probability, abs=1e-3)


@pytest.mark.parametrize(
    "given, sentence",
    [
        (dict(text=""), "There is no text to speak"),
        (dict(text="🎈"), "There is nothing to say in this text"),
        (dict(text="a" * 5000), "The text has 5,000 characters"),
        (dict(voice="my clip"), "There is no clip yet"),
        (dict(seed=0.5), "A seed is a whole number"),
        (dict(model="llasa-8b"), "needs a GPU|Cannot load"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_input_reaches_the_visitor_as_its_sentence(client, given, sentence):
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match=sentence):
        speak(client, **given)


def test_a_text_file_named_wav_gives_its_sentence(client, tmp_path):
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    (tmp_path / "notes.wav").write_text("dear diary")
    with pytest.raises(AppError, match="Cannot read .* as audio"):
        client.predict(model="nano", clip=handle_file(str(tmp_path / "notes.wav")), api_name="/transcribe")


def test_files_of_the_server_cannot_be_asked_for(server):
    """Neither as a clip that was never uploaded, nor by address."""
    asked = {"data": ["nano", {"path": str(ROOT / "README.md"), "meta": {"_type": "gradio.FileData"}}]}
    request = urllib.request.Request(
        f"{server}/gradio_api/call/transcribe", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    event = json.load(urllib.request.urlopen(request))["event_id"]
    answer = urllib.request.urlopen(f"{server}/gradio_api/call/transcribe/{event}").read().decode()
    assert "event: error" in answer and "was not uploaded by a user" in answer
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{server}/gradio_api/file={ROOT / 'README.md'}")
    assert refused.value.code in (403, 404)


def test_licences_are_shown_where_models_are_chosen(server):
    page = json.load(urllib.request.urlopen(f"{server}/config"))
    (radio,) = [c for c in page["components"] if c["props"].get("elem_id") == "model"]
    choices = {name: label for label, name in radio["props"]["choices"]}
    assert list(choices) == list(CHECKPOINTS)
    assert all(CHECKPOINTS[name].licence in label for name, label in choices.items())


def test_every_builtin_voice_can_be_chosen(server):
    page = json.load(urllib.request.urlopen(f"{server}/config"))
    (dropdown,) = [c for c in page["components"] if c["props"].get("elem_id") == "speak-voice"]
    assert set(builtin_voices()) <= {name for _, name in dropdown["props"]["choices"]}


# -- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="pip install selenium")
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not (binary and driver):
        pytest.skip("no Chromium with its chromedriver here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    options.add_argument("--headless=new")
    options.add_argument("--no-sandbox")  # which a container's root needs
    options.add_argument("--disable-dev-shm-usage")
    options.add_argument("--window-size=1280,1200")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    page = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield page
    page.quit()


def until(page, what, seconds=120):
    """Wait until a JavaScript expression is true; its value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := page.execute_script(f"return {what}"):
            return value
        time.sleep(0.2)
    raise AssertionError(f"this did not become true: {what}\n{page.find_element('tag name', 'body').text}")


def opened(page, server):
    page.get(server)
    until(page, "document.querySelector('#speak-button') && document.querySelector('#speak-text textarea')")
    until(page, "document.querySelector('#speak-text textarea').value.length > 0")
    return page


def type_text(page, text):
    box = page.find_element("css selector", "#speak-text textarea")
    box.clear()
    box.send_keys(text)


def test_a_click_on_speak_gives_sound(browser, server):
    page = opened(browser, server)
    type_text(page, "Oh, yes.")
    page.find_element("id", "speak-button").click()
    summary = until(page, "/seed \\d+/.test(document.querySelector('#speak-summary').innerText) && "
                          "document.querySelector('#speak-summary').innerText")  # fmt: skip
    seconds = float(re.match(r"([\d.]+) s of speech", summary)[1])
    minutes, rest = until(
        page, "(t => t && t !== '0:00' && t)(document.querySelector('#speak-audio #duration')?.innerText)"
    ).split(":")
    assert 60 * int(minutes) + int(rest) == pytest.approx(seconds, abs=1)
    errors = [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"]
    assert not errors


def test_an_error_is_told_in_its_own_words(browser, server):
    page = opened(browser, server)
    type_text(page, "?!")
    page.find_element("id", "speak-button").click()
    until(page, "document.body.innerText.includes('There is nothing to say in this text')")


def test_the_page_fetches_nothing_from_elsewhere(browser, server):
    page = opened(browser, server)
    names = page.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert names and not [name for name in names if not name.startswith((server, "data:", "blob:"))]
