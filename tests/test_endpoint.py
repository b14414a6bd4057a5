"""A model behind a server: against a real one on this machine, which answers by a script."""

import asyncio
import base64
import io
import itertools
import json
import subprocess
import sys
import threading
import time
import traceback
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from PIL.ImageCms import ImageCmsProfile, createProfile

from osler.errors import DataError, ModelError, RecipeError
from osler.images import blank_of, noise_of, open_image
from osler.judging.server import check_endpoint
from osler.model import endpoint as module
from osler.model.endpoint import LOOK_AHEAD, Endpoint, answers, parse_endpoint

SECRET = "sk-very-secret-0123456789"
NAME = "lab/seer-72b"
PHANTOM = "phantom:test/0/3"
SOON = {"retry-after-ms": "1"}
DROP = object()


def said(content, reason="stop", tokens=7, **more):
    """A reply: status, headers, body."""
    usage = {} if tokens is None else {"usage": {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}}
    choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": content}}
    return 200, {}, {"id": "1", "object": "chat.completion", "created": 0, "model": NAME, "choices": [choice], **usage, **more}


def failed(status, message="no", **headers):
    return status, headers, {"error": {"message": message, "type": "t", "code": None, "param": None}}


def text_of(request):
    return request["messages"][0]["content"][-1]["text"]


def image_of(part):
    head, data = part["image_url"]["url"].split(",", 1)
    assert (part["type"], head) == ("image_url", "data:image/png;base64")
    return base64.b64decode(data)


class Server:
    """Answers by `script(request, number)`: a reply, or DROP. It keeps what it was sent."""

    def __init__(self, script, names=(NAME,)):
        self.script, self.names = script, names
        self.requests, self.headers, self.paths = [], [], []
        self.now = self.most = 0
        self.lock = threading.Lock()

    def answer(self, path, headers, request):
        with self.lock:
            self.paths.append(path)
            self.headers.append(dict(headers))
            if request is None:
                if self.names is None:
                    return failed(404)
                return 200, {}, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.names]}
            number = len(self.requests)
            self.requests.append(request)
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            return self.script(request, number)
        finally:
            with self.lock:
                self.now -= 1


@contextmanager
def serving(script=lambda request, number: said("yes"), **more):
    server = Server(script, **more)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.reply(server.answer(self.path, self.headers, None))

        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self.reply(server.answer(self.path, self.headers, request))

        def reply(self, reply):
            if reply is DROP:
                self.close_connection = True
                return
            status, headers, body = reply
            payload = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"content-type": "application/json", "content-length": str(len(payload)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_):
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_):
            pass  # a client that gave up

    http = Quiet(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    server.endpoint = Endpoint(f"http://127.0.0.1:{http.server_port}/v1", NAME)
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    for name in ("OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_CUSTOM_HEADERS"):
        monkeypatch.delenv(name, raising=False)


def ask(endpoint, *texts, max_tokens=5, **more):
    return list(answers(endpoint, [(text, ()) for text in texts], max_tokens, **more))


def refused(endpoint, *texts, **more):
    """The message of the ModelError, in which neither the key nor a traceback with it stands."""
    with pytest.raises(ModelError) as caught:
        ask(endpoint, *(texts or ("Is it there?",)), **more)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert endpoint.url in str(caught.value)
    return str(caught.value)


# --- the spec


@pytest.mark.parametrize(
    ("spec", "url", "name"),
    [
        ("openai:http://localhost:8000/v1#a", "http://localhost:8000/v1", "a"),
        ("openai:https://h.org/v1/#Qwen/Qwen2-VL-72B:q4#2", "https://h.org/v1", "Qwen/Qwen2-VL-72B:q4#2"),
        ("openai:http://[::1]:80#a b", "http://[::1]:80", "a b"),
    ],
)
def test_a_spec_names_url_and_model(spec, url, name):
    assert parse_endpoint(spec) == Endpoint(url, name)


@pytest.mark.parametrize(
    "spec",
    [
        "openai:",
        "openai:#a",
        "openai:http://h/v1",
        "openai:http://h/v1#",
        "openai:h:80/v1#a",
        "openai:ftp://h#a",
        "http://h#a",
        "openai:http://h:x/v1#a",
        "openai:http://[::1#a",
        "openai:http:///v1#a",
        "openai:http:h/v1#a",
        "openai:http://h h/v1#a",
        "openai:http://h/\x01#a",
        "openai:http://256.1.1.1/v1#a",
        "openai:http://h:99999/v1#a",
    ],
)
def test_what_names_no_endpoint_is_an_error_that_says_what_to_write(spec):
    with pytest.raises(RecipeError, match=r"names no endpoint.*Write openai:URL#NAME, as in openai:http://localhost") as caught:
        parse_endpoint(spec)
    assert repr(spec) in str(caught.value)


@pytest.mark.parametrize("url", [f"http://me:{SECRET}@h/v1", f"http://{SECRET}@h/v1", f"http://h/v1?key={SECRET}"])
def test_a_key_in_the_url_is_refused_and_not_repeated(url):
    with pytest.raises(RecipeError, match="OPENAI_API_KEY") as caught:
        parse_endpoint(f"openai:{url}#a")
    assert SECRET not in str(caught.value)


# --- answers


def test_replies_come_back_exactly_with_tokens_and_cut_offs():
    replies = [said("  <answer>Ä\n</answer> "), said("cut", "length", 5), said(None, tokens=None), said("", "length")]
    with serving(lambda request, number: replies[int(text_of(request))]) as server:
        found = ask(server.endpoint, "0", "1", "2", "3")
    assert [(one.text, one.tokens, one.truncated) for one in found] == [
        ("  <answer>Ä\n</answer> ", 7, False),
        ("cut", 5, True),
        ("", None, False),
        ("", 7, True),
    ]


def test_a_request_holds_what_it_should_and_nothing_else():
    with serving() as server:
        ask(server.endpoint, "Why?", max_tokens=9)
    assert server.requests == [
        {
            "model": NAME,
            "max_tokens": 9,
            "temperature": 0,
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}],
        }
    ]
    assert server.paths == ["/v1/chat/completions"]
    assert {name.lower(): value for name, value in server.headers[0].items()}["authorization"] == f"Bearer {SECRET}"


def test_a_server_without_a_key_gets_a_dummy(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with serving() as server:
        assert ask(server.endpoint, "?")[0].text == "yes"


def test_answers_come_in_the_order_of_the_prompts_whatever_the_order_in_which_they_are_ready():
    delays = np.random.default_rng(0).uniform(0, 0.06, 40)

    def script(request, number):
        time.sleep(delays[int(text_of(request))])
        return said(f"to {text_of(request)}")

    with serving(script) as server:
        found = ask(server.endpoint, *map(str, range(40)), concurrency=8)
    assert [one.text for one in found] == [f"to {number}" for number in range(40)]
    assert [text_of(request) for request in server.requests] != [str(number) for number in range(40)]


@pytest.mark.parametrize("concurrency", [1, 4])
def test_as_many_requests_are_under_way_as_asked_for_and_one_slow_answer_keeps_the_others_going(concurrency):
    def script(request, number):
        time.sleep(0.4 if text_of(request) == "0" else 0.01)
        return said(text_of(request))

    with serving(script) as server:
        started = iter(answers(server.endpoint, [(str(i), ()) for i in range(30)], 5, concurrency=concurrency))
        assert next(started).text == "0"
        ready = len(server.requests)
        assert [one.text for one in started] == [str(i) for i in range(1, 30)]
    assert server.most == concurrency
    assert ready >= LOOK_AHEAD * concurrency - 1 if concurrency > 1 else ready <= 2


def test_prompts_are_read_as_they_are_needed_and_stopping_stops():
    read = itertools.count()

    def script(request, number):
        time.sleep(0 if int(text_of(request)) < 5 else 30)
        return said(text_of(request))

    with serving(script) as server:
        endless = answers(server.endpoint, ((str(i), ()) for i in read), 5, concurrency=3)
        assert [one.text for one in itertools.islice(endless, 5)] == list("01234")
        assert next(read) <= 5 + LOOK_AHEAD * 3
        started = time.perf_counter()
        endless.close()
        assert time.perf_counter() - started < 3, "what is under way is given up, not waited for"


def test_no_request_at_a_time_is_no_answer_and_an_error():
    with pytest.raises(RecipeError, match="concurrency is 0"):
        ask(Endpoint("http://localhost:9/v1", NAME), "?", concurrency=0)


def test_no_prompts_no_requests():
    with serving() as server:
        assert ask(server.endpoint) == []
        assert server.paths == []


def test_nothing_but_the_url_is_contacted(monkeypatch):
    with serving() as other:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, other.endpoint.url.removesuffix("/v1"))
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        elsewhere = other.endpoint.url + "/chat/completions"
        with serving(lambda request, number: said("yes") if number == 0 else (307, {"location": elsewhere}, {})) as server:
            ask(server.endpoint, "?")
            assert "HTTP 307" in refused(server.endpoint)
        assert other.paths == []


def test_it_runs_where_an_event_loop_runs_already():
    async def notebook(endpoint):
        return ask(endpoint, "?")

    with serving() as server:
        assert asyncio.run(notebook(server.endpoint))[0].text == "yes"


LEFT_OPEN = """
import sys
from osler.model.endpoint import Endpoint, answers

def first(url, kept):
    completions = answers(Endpoint(url, "a"), ((str(i), ("phantom:test/0/3",)) for i in range(99)), 5, concurrency=3)
    kept.append(completions)
    for completion in completions:
        raise KeyboardInterrupt(completion.text)

kept = []
first(sys.argv[1], kept)
"""


def test_python_ends_where_the_answers_were_left_open():
    def script(request, number):
        time.sleep(30 if number else 0)
        return said("the first")

    with serving(script) as server:
        command = [sys.executable, "-c", LEFT_OPEN, server.endpoint.url]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert ended.stderr.splitlines()[-1] == "KeyboardInterrupt: the first"
    assert "ignored" not in ended.stderr


# --- what goes wrong and is tried again


@pytest.mark.parametrize("reply", [failed(429, **SOON), failed(500, **SOON), failed(503, **SOON), failed(408, **SOON), DROP])
def test_what_passes_is_tried_again(reply):
    with serving(lambda request, number: reply if number < 2 else said("at last")) as server:
        assert ask(server.endpoint, "?")[0].text == "at last"
        assert len(server.requests) == 3


def test_retry_after_is_heeded():
    at = []

    def script(request, number):
        at.append(time.monotonic())
        return failed(429, retry_after="2") if number == 0 else said("yes")

    with serving(script) as server:
        ask(server.endpoint, "?")
    assert 2 <= at[1] - at[0] < 4, "the back-off alone would have waited half a second"


def test_a_request_that_hangs_is_asked_again():
    def script(request, number):
        time.sleep(0 if number else 2)
        return said(str(number))

    with serving(script) as server:
        assert ask(server.endpoint, "?", timeout_s=0.3)[0].text == "1"


@pytest.mark.parametrize(("status", "do"), [(429, "--resume"), (500, "--resume")])
def test_what_does_not_pass_is_given_up(status, do, monkeypatch):
    monkeypatch.setattr(module, "RETRIES", 2)
    with serving(lambda request, number: failed(status, f"busy, key {SECRET}", **SOON)) as server:
        message = refused(server.endpoint, "Is it there?")
        assert len(server.requests) == 3
    assert f"HTTP {status} after 3 tries (busy, key ...)" in message
    assert do in message
    assert "Is it there?" in message


def test_a_server_that_is_not_there(monkeypatch):
    monkeypatch.setattr(module, "RETRIES", 0)
    with serving() as server:
        endpoint = server.endpoint
    assert "cannot be reached" in refused(endpoint)


def test_a_server_that_hangs_for_good(monkeypatch):
    monkeypatch.setattr(module, "RETRIES", 0)
    with serving(lambda request, number: time.sleep(2)) as server:
        assert "no answer came in time" in refused(server.endpoint, timeout_s=0.2)


# --- what is wrong at once


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (failed(404, f"the model does not exist, {SECRET}"), "HTTP 404 (the model does not exist, ...)"),
        (failed(400, "too\nlong " + "x" * 900), "HTTP 400 (too long xxx"),
        (failed(401, f"bad key {SECRET}"), "HTTP 401, OPENAI_API_KEY is refused"),
        (failed(403), "HTTP 403, OPENAI_API_KEY is refused"),
        ((422, {}, b"plain"), "HTTP 422"),
        ((200, {}, b'{"choices": [{"mess'), 'no chat completion (\'{"choices"'),
        ((200, {"content-type": "text/html"}, b"<html>" + SECRET.encode()), "no chat completion ('<html>...')"),
        ((200, {}, {"choices": []}), "no chat completion"),
        ((200, {}, {"detail": "hm"}), "no chat completion"),
        ((200, {}, [1, 2]), "no chat completion"),
        ((200, {}, "yes"), "no chat completion"),
        ((200, {}, {"choices": [{"message": None}]}), "no chat completion"),
        (said([{"type": "text", "text": "yes"}]), "no chat completion"),
    ],
)
def test_what_will_not_pass_is_an_error_at_once(reply, message):
    with serving(lambda request, number: reply) as server:
        found = refused(server.endpoint)
        assert len(server.requests) == 1
    assert message in found
    assert NAME in found
    assert len(found) < 500


def test_a_key_that_is_absent_is_said_to_be(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with serving(lambda request, number: failed(401)) as server:
        assert "OPENAI_API_KEY is not set" in refused(server.endpoint)


@pytest.mark.parametrize("key", [SECRET + "\nX-More: 1", "schlüssel-" + SECRET])
def test_a_key_that_no_header_can_carry_is_not_repeated(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with serving() as server, pytest.raises(ModelError, match="OPENAI_API_KEY") as caught:
        ask(server.endpoint, "?")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_what_came_before_an_error_is_handed_out():
    with serving(lambda request, number: failed(400) if text_of(request) == "3" else said(text_of(request))) as server:
        found = answers(server.endpoint, [(str(i), ()) for i in range(9)], 5)
        assert [next(found).text for _ in range(3)] == ["0", "1", "2"]
        with pytest.raises(ModelError, match="asked '3'"):
            next(found)


def test_an_image_that_cannot_be_opened_is_named(tmp_path):
    with serving() as server, pytest.raises(DataError, match=r"gone\.png"):
        list(answers(server.endpoint, [("?", (str(tmp_path / "gone.png"),))], 5))


# --- images


@pytest.fixture
def pictures(tmp_path):
    """Two files: a JPEG that lies on its side, and a PNG that says a lot beside its pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    exif, notes = Image.Exif(), PngImagePlugin.PngInfo()
    exif[0x0112], exif[0x010E] = 6, "PATIENT NAME"
    notes.add_text("Comment", "PATIENT NAME")
    profile = ImageCmsProfile(createProfile("sRGB")).tobytes()
    Image.fromarray(pixels).save(tmp_path / "side.jpg", exif=exif, quality=95)
    Image.fromarray(pixels).save(tmp_path / "cancer.png", exif=exif, pnginfo=notes, icc_profile=profile, dpi=(72, 72))
    return str(tmp_path / "side.jpg"), str(tmp_path / "cancer.png")


def test_images_arrive_upright_before_the_text_and_without_what_else_their_files_said(pictures):
    references = [*pictures, blank_of(pictures[0]), noise_of(pictures[1], 3), PHANTOM]
    with serving() as server:
        list(answers(server.endpoint, [("What is it?", tuple(references))], 5))
    *parts, text = server.requests[0]["messages"][0]["content"]
    assert text == {"type": "text", "text": "What is it?"}
    for reference, part in zip(references, parts, strict=True):
        data, expected = image_of(part), open_image(reference)
        arrived = Image.open(io.BytesIO(data))
        assert arrived.format == "PNG"
        assert np.array_equal(np.asarray(arrived), np.asarray(expected))
        assert not arrived.info
        assert chunks(data) == {b"IHDR", b"IDAT", b"IEND"}
    assert [Image.open(io.BytesIO(image_of(part))).size for part in parts[:4]] == [(24, 40)] * 4
    sent = json.dumps(server.requests) + json.dumps(server.headers)
    assert not any(word in sent for word in ("PATIENT", "cancer", "side", str(pictures[0])))


def chunks(png):
    found, place = set(), 8
    while place < len(png):
        found.add(png[place + 4 : place + 8])
        place += 12 + int.from_bytes(png[place : place + 4], "big")
    return found


@pytest.mark.parametrize(
    ("size", "budget", "expected"), [((40, 24), 240, (20, 12)), ((40, 24), 960, (40, 24)), ((900, 1), 9, (90, 1))]
)
def test_large_images_are_scaled_down_to_the_budget(tmp_path, size, budget, expected):
    Image.new("RGB", size, "red").save(tmp_path / "a.png")
    with serving() as server:
        list(answers(server.endpoint, [("?", (str(tmp_path / "a.png"),))], 5, max_pixels=budget))
    assert Image.open(io.BytesIO(image_of(server.requests[0]["messages"][0]["content"][0]))).size == expected


# --- the check


def test_a_model_that_is_served_passes_and_sees_one_token_and_one_image():
    with serving() as server:
        check_endpoint(server.endpoint)
    assert [request["max_tokens"] for request in server.requests] == [1]
    assert Image.open(io.BytesIO(image_of(server.requests[0]["messages"][0]["content"][0]))).size == (56, 56)


def test_a_model_that_reads_text_alone_passes_where_no_images_are_asked_about():
    def script(request, number):
        return failed(400, "no images") if len(request["messages"][0]["content"]) > 1 else said("y")

    with serving(script) as server:
        check_endpoint(server.endpoint, with_images=False)
        with pytest.raises(ModelError, match=r"HTTP 400 \(no images\)"):
            check_endpoint(server.endpoint)


def test_a_name_that_is_not_served_is_refused_with_those_that_are():
    with serving(names=("lab/seer-7b", "other")) as server:
        with pytest.raises(ModelError, match=r"Did you mean 'lab/seer-7b'\? Known: lab/seer-7b, other") as caught:
            check_endpoint(server.endpoint)
        assert server.endpoint.url in str(caught.value)
        assert NAME in str(caught.value)
        assert str(caught.value).endswith("Name one that is listed.")
        assert len(server.requests) == 1  # a server may serve what it does not list: asked, this one repeats the name


def test_a_server_that_answers_for_an_alias_is_taken_and_the_name_told(capsys):
    with serving(lambda request, number: said("y", model="gpt-4.1-2025-04-14")) as server:
        check_endpoint(server.endpoint)
    assert f"{NAME} was asked for, and the server answers as 'gpt-4.1-2025-04-14'" in capsys.readouterr().err


def test_a_server_that_keeps_no_list_is_asked_a_token():
    with serving(names=None) as server:
        check_endpoint(server.endpoint)
        assert len(server.requests) == 1
    refusing = serving(lambda request, number: failed(404, "no such model"), names=None)
    with refusing as server, pytest.raises(ModelError, match="no such model"):
        check_endpoint(server.endpoint)


def test_a_check_of_a_server_that_is_not_there_fails_soon():
    with serving() as server:
        endpoint = server.endpoint
    started = time.perf_counter()
    with pytest.raises(ModelError, match="cannot be reached after 3 tries"):
        check_endpoint(endpoint)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("status", [401, 403])
def test_a_bad_key_is_found_by_the_check(status):
    refusing, message = (
        serving(lambda request, number: failed(status, f"bad {SECRET}")),
        f"HTTP {status}, OPENAI_API_KEY is refused",
    )
    with refusing as server, pytest.raises(ModelError, match=message) as caught:
        check_endpoint(server.endpoint)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
