"""A judge behind a real server on this machine, which answers by a script: exactly, late, wrongly, or not at all."""

import asyncio
import fcntl
import json
import logging
import subprocess
import sys
import threading
import time
import traceback

import pytest
import typer
from typer.testing import CliRunner

from osler.cli.judging import judge
from osler.errors import DataError, ModelError, RecipeError, RunError
from osler.judging.assessment import assess
from osler.judging.breaker import Breaker
from osler.judging.cache import ScoreCache, scores_folder
from osler.judging.client import Judge, Settings
from osler.judging.prompts import Item
from osler.judging.replies import REASONS, Reply
from osler.judging.server import Server
from osler.model.endpoint import Endpoint
from osler.runs import Run, read_json
from osler.schema import Outcome, Parsed, Record, Sample, Verdict
from test_endpoint import DROP, NAME, PHANTOM, SECRET, SOON, _environment, failed, said, serving, text_of  # noqa: F401

QUICK = Settings(retries=1)


def verdict(correct=1, sound=1, why="so", **more):
    return said(json.dumps({"correct": correct, "sound": sound, "why": why}), **more)


def item(number=0, thought="It is large.", **more):
    return Item(f"Question {number}?", ("liver",), "liver", thought, **more)


def items(count):
    return [item(number) for number in range(count)]


def number_in(request):
    return int(text_of({"messages": request["messages"][1:]}).split("Question ")[1].split("?")[0])


def of_item(request):
    """Whether `request` is about an item of a test, and not one of the checks before."""
    return len(request["messages"]) == 2 and "Question " in text_of({"messages": request["messages"][1:]})


def judging(script=lambda request, number: verdict(), **more):
    """A server whose checks succeed; `script` is asked about items only, with their number so far."""
    counted = []

    def answer(request, number):
        if not of_item(request):
            return said("yes")
        counted.append(request)
        return script(request, len(counted) - 1)

    return serving(answer, **more)


def asked(server):
    return [request for request in server.requests if of_item(request)]


@pytest.fixture
def cache(tmp_path):
    return ScoreCache(tmp_path / "cache")


@pytest.fixture
def score(cache):
    def call(server, some, settings=QUICK, breaker=None, **more):
        with Judge(server.endpoint, settings, cache, breaker) as judge:
            return judge.score(some, **more)

    return call


# --- what is asked and what comes back


def test_scores_come_back_in_order_with_what_they_took(score):
    def script(request, number):
        time.sleep(0.02 * (5 - number_in(request)))
        return verdict(number_in(request) % 2, 1, f"of {number_in(request)}")

    with judging(script) as server:
        found = score(server, [*items(5), item(5, thought=None)])
    assert [(one.correct, one.sound, one.why) for one in found] == [
        *((n % 2, 1, f"of {n}") for n in range(5)),
        (1, None, "of 5"),
    ]
    assert all(one.unscored is None and not one.cached and one.seconds > 0 for one in found)
    assert {(one.tokens_in, one.tokens_out) for one in found} == {(1, 7)}


def test_a_request_holds_rules_data_schema_and_seed(score):
    with judging() as server:
        score(server, [item(3)], Settings(seed=4, max_tokens=50), repeat=1)
    (request,) = asked(server)
    assert (request["model"], request["temperature"], request["seed"], request["max_tokens"]) == (NAME, 0.0, 5, 50)
    assert request["response_format"]["json_schema"]["schema"]["additionalProperties"] is False
    assert [one["role"] for one in request["messages"]] == ["system", "user"]
    assert "Question 3?" not in request["messages"][0]["content"]
    assert "BEGIN" in text_of({"messages": request["messages"][1:]})


def test_a_server_that_takes_no_schema_is_asked_without(score):
    with serving(lambda request, number: failed(400) if "response_format" in request else verdict(0)) as server:
        assert [one.correct for one in score(server, items(2))] == [0, 0]
    assert sum("response_format" in request for request in server.requests) == 1, "it is tried once, before the first item"


def test_images_are_sent_only_where_the_judge_sees(score, cache):
    with judging() as server:
        score(server, [item(0, images=(PHANTOM,))])
        score(server, [item(0, images=(PHANTOM,))], Settings(see_images=True))
        blind, seeing = (request["messages"][1]["content"] for request in asked(server))
        with pytest.raises(DataError, match=r"nowhere\.png"):
            score(server, [item(0, images=("nowhere.png",))], Settings(see_images=True))
    assert [part["type"] for part in blind] == ["text"]
    assert [part["type"] for part in seeing] == ["image_url", "text"]
    assert len(asked(server)) == 2


def test_equal_items_are_asked_once(score):
    with judging() as server:
        found = score(server, [item(0), item(1), item(0)])
    assert len(asked(server)) == 2
    assert [one.cached for one in found] == [False, False, True]
    assert (found[2].correct, found[2].seconds) == (1, None)


def test_nothing_to_judge_asks_nothing(score):
    with judging() as server:
        assert score(server, []) == []
    assert server.paths == []


# --- what goes wrong


@pytest.mark.parametrize(
    ("reply", "reason", "detail"),
    [
        (said("YES"), "unparseable", None),
        (said(""), "unparseable", None),
        (said('{"correct": 1, "sound": 1}'), "unparseable", None),
        (verdict(reason="length"), "truncated", None),
        ((200, {"content-type": "text/html"}, b"<html>correct: 1</html>"), "garbage", None),
        ((200, {}, b'{"choices": [{"mess'), "garbage", None),
        ((200, {}, {"correct": 1, "sound": 1, "why": "no completion"}), "garbage", None),
        (failed(400, "too long"), "refused", "HTTP 400"),
        (failed(422), "refused", "HTTP 422"),
        (failed(429, **SOON), "failed", "HTTP 429"),
        (failed(500, **SOON), "failed", "HTTP 500"),
        (failed(401), "failed", "HTTP 401"),
        (DROP, "failed", "connection"),
    ],
)
def test_what_gives_no_score_is_unscored_with_its_reason_and_not_wrong(score, cache, reply, reason, detail):
    with judging(lambda request, number: reply if number_in(request) else verdict()) as server:
        found = score(server, items(2))
    assert (found[0].correct, found[0].unscored) == (1, None)
    bad = found[1]
    assert (bad.correct, bad.sound, bad.unscored, bad.detail, bad.cached) == (None, None, reason, detail, False)
    assert reason in REASONS


def test_failures_are_not_cached_and_scores_are(score):
    with judging(lambda request, number: said("YES") if number_in(request) and number < 2 else verdict()) as server:
        assert [one.unscored for one in score(server, items(2))] == [None, "unparseable"]
        again = score(server, items(2))
        assert len(asked(server)) == 3
    assert [(one.correct, one.cached) for one in again] == [(1, True), (1, False)]


@pytest.mark.parametrize("reply", [failed(429, **SOON), failed(500, **SOON), DROP])
def test_what_passes_is_tried_again(score, reply):
    with judging(lambda request, number: reply if number == 0 else verdict()) as server:
        assert score(server, [item()])[0].correct == 1
    assert len(asked(server)) == 2


def test_retry_after_is_heeded(score):
    at = []

    def script(request, number):
        at.append(time.monotonic())
        return failed(429, retry_after="1.2") if number == 0 else verdict()

    with judging(script) as server:
        assert score(server, [item()])[0].correct == 1
    assert 1.2 <= at[1] - at[0] < 3, "the back-off alone would have waited half a second"


def test_a_batch_ends_at_its_deadline_with_what_it_has(score):
    def script(request, number):
        time.sleep(0.01 if number_in(request) < 3 else 20)
        return verdict()

    with judging(script) as server:
        started = time.monotonic()
        found = score(server, items(12), Settings(concurrency=4), max_seconds=3.0)
        assert time.monotonic() - started < 10
    assert [one.unscored for one in found] == [None] * 3 + ["deadline"] * 9
    assert server.most <= 4


def test_a_request_that_hangs_is_given_up(score):
    with judging(lambda request, number: time.sleep(2) or verdict()) as server:
        (found,) = score(server, [item()], Settings(timeout_s=0.3, retries=0))
    assert (found.unscored, found.detail) == ("failed", "timeout")


@pytest.mark.parametrize(
    ("script", "names", "message"),
    [
        (lambda request, number: verdict(), ["lab/seer-7b"], "unknown model 'lab/seer-72b'. Did you mean 'lab/seer-7b'?"),
        (lambda request, number: failed(401, SECRET), [NAME], "OPENAI_API_KEY is refused"),
        (lambda request, number: failed(404, SECRET), None, "HTTP 404 (...)"),
        (lambda request, number: said("yes") if len(request["messages"]) == 1 else failed(403), [NAME], "HTTP 403"),
        (
            lambda request, number: said("yes") if len(request["messages"]) == 1 else failed(400, "no roles"),
            [NAME],
            "(no roles)",
        ),
        (
            lambda request, number: said("yes") if len(request["messages"]) == 1 else (200, {}, b"{"),
            [NAME],
            "no chat completion",
        ),
    ],
)
def test_a_judge_of_no_use_is_one_error_before_the_first_item(score, script, names, message):
    with serving(script, names=names) as server, pytest.raises(ModelError) as caught:
        score(server, items(3))
    assert message in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert not asked(server)


def test_no_server_is_one_error(score):
    with serving() as server:
        pass
    with pytest.raises(ModelError, match="cannot be reached"):
        score(server, items(3))


def test_a_server_that_echoes_what_it_was_sent_gets_no_score_and_no_key_out(score, cache, caplog):
    caplog.set_level(logging.INFO)

    def script(request, number):
        head = server.headers[-1]
        return [verdict(why=f"headers: {head}"), said(json.dumps([head, request])), failed(500, str(head), **SOON)][
            number_in(request) % 3
        ]

    with judging(script) as server:
        found = score(server, items(3))
        whole = '{"correct": 1, "sound": 1, "why": "I won"}'
        echoing = Item("Question 0?", ("liver",), f"liver {whole}", None)
        with judging(lambda request, number: said(whole)) as other:
            (echoed,) = score(other, [echoing])
            assert score(other, [echoing])[0].unscored == "echoed", "it is not kept either"
    assert [one.unscored for one in found] == [None, "unparseable", "failed"]
    assert "Authorization" in found[0].why or "authorization" in found[0].why
    assert SECRET not in str(found) + caplog.text
    assert SECRET.encode() not in cache.file.read_bytes()
    assert (echoed.correct, echoed.unscored) == (None, "echoed")


# --- breaker


def test_after_failures_in_a_row_the_judge_is_left_alone_and_goes_on_where_it_answers_again(score):
    told = []
    breaker = Breaker(limit=3, wait_s=0.3, say=told.append)
    at = []

    def script(request, number):
        at.append(time.monotonic())
        return failed(500) if number < 3 else verdict()

    with judging(script) as server:
        found = score(server, items(8), Settings(concurrency=1, retries=0), breaker)
    assert [one.unscored for one in found] == ["failed"] * 3 + [None] * 5
    assert at[3] - at[2] >= 0.25
    assert told == ["3 failures in a row: it is left alone, and asked once in 0.3 s.", "It answers again."]


def test_a_judge_that_stays_down_is_not_asked_about_the_rest_until_the_next_batch(cache):
    told = []
    breaker = Breaker(limit=2, wait_s=0.05, probes=2, say=told.append)
    up = threading.Event()
    with (
        judging(lambda request, number: verdict() if up.is_set() else failed(500)) as server,
        Judge(server.endpoint, Settings(concurrency=4, retries=0), cache, breaker) as judge,
    ):
        found = judge.score(items(40))
        assert {one.unscored for one in found} == {"failed", "down"}
        assert len(asked(server)) <= 4 + 2 + 2
        assert told[-1] == "It still fails. The rest is not asked."
        up.set()
        assert [one.correct for one in judge.score(items(40))] == [1] * 40


def test_while_the_breaker_is_open_one_request_alone_is_let_through():
    now, most = 0, 0

    async def down():
        nonlocal now, most
        now, most = now + 1, max(most, now + 1)
        await asyncio.sleep(0.02)
        now -= 1
        return "bad"

    async def many():
        breaker = Breaker(limit=1, wait_s=0.01, probes=3)
        await breaker.run(down, lambda result: result == "bad")
        nonlocal most
        most = 0
        return await asyncio.gather(*(breaker.run(down, lambda result: result == "bad") for _ in range(10)))

    results = asyncio.run(many())
    assert most == 1
    assert results.count("bad") == 3
    assert results.count(None) == 7


def test_a_success_between_failures_keeps_the_breaker_closed():
    async def some():
        breaker = Breaker(limit=2)
        for result in ("bad", "good", "bad", "good", "bad"):

            async def give(result=result):
                return result

            await breaker.run(give, lambda found: found == "bad")
        return breaker.is_open

    assert asyncio.run(some()) is False


# --- cache


def test_the_key_stands_for_all_that_the_scores_depend_on(cache):
    def key(url="http://a/v1", name="n", some=None, repeat=0, **settings):
        return Judge(Endpoint(url, name), Settings(**settings), cache).key(some or item(images=(PHANTOM,)), repeat)

    other = "phantom:test/0/4"
    keys = [
        key(),
        key(url="http://b/v1"),
        key(name="m"),
        key(repeat=1),
        key(seed=1),
        key(temperature=0.5),
        key(max_tokens=9),
        key(see_images=True),
        key(see_images=True, some=item(images=(other,))),
        *(key(some=item(**{name: "x"})) for name in ("thought", "rationale")),
        key(some=item(options=("liver",))),
        key(some=item(1)),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == key(concurrency=2, timeout_s=3, retries=0)
    assert key() == key(some=item(images=(other,))), "a judge that sees no image scores the same"


def test_the_rules_are_part_of_the_key(cache, monkeypatch):
    judge = Judge(Endpoint("http://a/v1", "n"), None, cache)
    before = judge.key(item())
    monkeypatch.setattr("osler.judging.prompts._RULES", "Be kind.")
    assert judge.key(item()) != before


def test_scores_are_kept_below_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("OSLER_CACHE", str(tmp_path))
    assert scores_folder() == tmp_path / "judge"
    assert ScoreCache().find("a") is None
    assert not (tmp_path / "judge").exists(), "looking leaves nothing"
    ScoreCache().keep("a", Reply(correct=1, sound=0, why="Ä"))
    assert ScoreCache().find("a") == Reply(correct=1, sound=0, why="Ä")


WRITER = """
import sys
from pathlib import Path
from osler.judging.cache import ScoreCache
from osler.judging.replies import Reply

cache, first = ScoreCache(Path(sys.argv[1])), int(sys.argv[2])
for number in range(first, first + 30):
    cache.keep(str(number), Reply(correct=1, sound=0, why=str(number)))
"""


def test_two_processes_share_it(tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, tmp_path, first]) for first in ("0", "20")]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert [ScoreCache(tmp_path).find(str(number)).why for number in range(50)] == [str(number) for number in range(50)]


def test_a_damaged_cache_is_one_error(tmp_path):
    (tmp_path / "scores.sqlite").write_bytes(b"no database, and longer than a header of sqlite, which is 100 bytes" * 9)
    with pytest.raises(ModelError, match=r"scores\.sqlite: scores cannot be kept there.*remove the file"):
        ScoreCache(tmp_path).find("a")


# --- osler judge


def record(number, right=True, thought="It is large.", tokens=None, group=None):
    sample = Sample(f"row {number}", (PHANTOM,), f"Question {number}?", ("liver",), group=group or f"case {number}")
    answer = "liver" if right else "hepar"
    found = Verdict(Outcome.CORRECT if right else Outcome.INCORRECT, Outcome.CORRECT, answer, "liver")
    completion = f"<think>{thought}</think><answer>{answer}</answer>" if thought else answer
    parsed = Parsed(answer, answer, thought, True)
    return Record(sample, "p", completion, parsed, found, "think", number + 5 if tokens is None else tokens, False, 0.1)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("OSLER_CACHE", str(tmp_path / "cache"))

    def make(*records, name="run"):
        made = Run.create(tmp_path / name, "eval", state="done")
        made.append("records", *(one.to_json() for one in records))
        return made.path

    return make


def osler_judge(*arguments):
    app = typer.Typer()
    app.command()(judge)
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})


def spec(server):
    return f"openai:{server.endpoint.url}#{NAME}"


def lines(path):
    return [json.loads(line) for line in (path / "judged.jsonl").read_text(encoding="utf-8").splitlines()]


def by_hand(request, number):
    """Rows 0 to 3 right, of which 0 to 2 sound; of the others 4 is sound; 7 cannot be read."""
    row = number_in(request)
    return said("hm") if row == 7 else verdict(int(row < 4), int(row in (0, 1, 2, 4)))


def eight():
    return [record(number, right=number < 3) for number in range(8)]


def test_the_summary_by_hand(run):
    path = run(*eight(), record(8, thought=None))
    with judging(by_hand) as server:
        found = assess(path, spec(server))
    assert found == read_json(path / "judge.json")
    (one,) = found["judges"]
    assert (one["rows"], one["unscored"], one["no_thought"], one["shortened"]) == (9, {"unparseable": 1}, 1, 0)
    assert (one["answer"]["value"], one["answer"]["n"]) == (4 / 8, 8)
    assert (one["reasoning"]["value"], one["reasoning"]["n"]) == (4 / 7, 7)
    assert (one["exact_match"]["value"], one["exact_match"]["n"]) == (4 / 8, 8)
    assert one["by_judge"]["counts"] == [3, 1, 1, 2]
    assert one["by_grader"]["counts"] == [3, 0, 1, 3]
    assert one["grader"]["table"] == [[3, 1], [1, 3]]
    assert one["spent"]["asked"] == 9
    assert (one["spent"]["tokens_in"], one["spent"]["tokens_out"]) == (9, 63)
    assert (found["between"], found["retests"], found["unjudged"]) == (None, [], 1)
    assert [line["id"] for line in lines(path)] == [f"row {number}" for number in range(9)]
    assert lines(path)[7]["unscored"] == "unparseable"
    assert lines(path)[7]["correct"] is None


def test_the_same_command_goes_on_where_it_ended(run):
    path = run(*eight())
    with judging(lambda request, number: verdict() if number < 3 else failed(400)) as server:
        first = assess(path, spec(server))
        assert first["unjudged"] == 5
        scored = {line["id"]: line for line in lines(path) if line["unscored"] is None}
        assert len(scored) == 3
        (path.parent / "cache" / "judge" / "scores.sqlite").unlink()
        server.script = lambda request, number: verdict(0) if of_item(request) else said("yes")
        before = len(asked(server))
        second = assess(path, spec(server))
        assert len(asked(server)) - before == 5, "what is scored is not asked again, even without the cache"
    assert second["unjudged"] == 0
    assert len(lines(path)) == 8
    assert {line["id"]: line for line in lines(path) if line["id"] in scored} == scored
    third = assess(path, spec(server))
    assert third["judges"] == second["judges"], "with all lines there the server is not needed"


def test_a_line_cut_short_by_a_crash_is_asked_again(run):
    path = run(*eight())
    with judging() as server:
        assess(path, spec(server))
        whole = (path / "judged.jsonl").read_bytes()
        (path / "judged.jsonl").write_bytes(whole[:-30])
        found = assess(path, spec(server))
    assert found["unjudged"] == 0
    assert len(lines(path)) == 8
    assert lines(path)[7]["cached"] is True


def test_lines_of_records_that_changed_are_judged_anew(run):
    path = run(*eight())
    with judging() as server:
        assess(path, spec(server))
        (path / "records.jsonl").unlink()
        Run.open(path).append("records", *(one.to_json() for one in [record(0, thought="Else."), *eight()[1:]]))
        assess(path, spec(server))
    assert len(asked(server)) == 9
    assert len(lines(path)) == 8


def test_two_judges_and_a_second_time(run):
    def other(request, number):
        row = number_in(request)
        return verdict(int(row < 4), int(row < 2))

    def wavering(request, number):
        again = number >= 8
        return verdict(int(number_in(request) < (2 if again else 4)), 1)

    path = run(*eight())
    with judging(wavering) as first, judging(other) as second:
        found = assess(path, spec(first), spec(second), repeat=2)
    between, (retest,) = found["between"], found["retests"]
    assert between["answer"]["kappa"]["value"] == 1.0
    assert between["answer"]["table"] == [[4, 0], [0, 4]]
    assert (between["reasoning"]["kappa"]["value"], between["reasoning"]["kappa"]["agreement"]["value"]) == (0.0, 2 / 8)
    assert retest["answer"]["table"] == [[4, 0], [2, 2]]
    assert retest["answer"]["kappa"]["value"] == pytest.approx(0.5)
    assert retest["reasoning"]["kappa"]["value"] is None
    assert retest["reasoning"]["kappa"]["n"] == 8
    assert len(lines(path)) == 24
    assert {request["seed"] for request in asked(first)} == {0, 1}
    assert len(asked(second)) == 8


def test_a_judge_that_likes_length_has_a_slope(run):
    rows = [record(number, tokens=20 + 5 * (number % 40)) for number in range(120)]
    with judging(
        lambda request, number: verdict(1, int((number_in(request) % 40) + 7 * (number_in(request) % 3) > 22))
    ) as server:
        found = assess(run(*rows, record(120, tokens=0)), spec(server))
    slope = found["judges"][0]["length_slope"]
    assert slope["ci_low"] > 0
    assert (slope["n"], found["judges"][0]["no_tokens"]) == (120, 1)


def test_fewer_rows_are_among_more_and_the_file_keeps_all(run):
    path = run(*eight())
    with judging() as server:
        assert assess(path, spec(server), rows=3)["rows"] == 3
        few = {line["id"] for line in lines(path)}
        assert assess(path, spec(server), rows=6)["rows_of_run"] == 8
        assert few < {line["id"] for line in lines(path)}
        assert len(asked(server)) == 6
        assess(path, spec(server), rows=3)
    assert len(lines(path)) == 6


def test_time_that_is_up_leaves_the_rest_for_next_time(run):
    path = run(*eight())
    with judging(lambda request, number: verdict() if number_in(request) < 4 else time.sleep(20)) as server:
        found = assess(path, spec(server), max_seconds=3.0)
    assert found["judges"][0]["unscored"] == {"deadline": 4}
    assert found["unjudged"] == 4


def test_nothing_is_written_where_a_judge_is_of_no_use(run):
    path = run(*eight())
    with judging() as first, judging(names=["another"]) as second:
        with pytest.raises(ModelError, match="unknown model"):
            assess(path, spec(first), spec(second))
        assert not asked(first), "both are checked before either is asked"
    assert not (path / "judged.jsonl").exists()
    assert not (path / "judge.json").exists()


def test_what_cannot_be_judged_is_an_error(run, tmp_path):
    with pytest.raises(RunError, match="no run folder"):
        assess(tmp_path, "openai:http://localhost:1/v1#a")
    with pytest.raises(RunError, match=r"no records\.jsonl.*osler eval"):
        assess(run(name="empty"), "openai:http://localhost:1/v1#a")
    with pytest.raises(RecipeError, match=r"unknown kind of judge 'gpt-4o'\..* Write openai:URL#NAME, chat:MODEL"):
        assess(run(name="x"), "gpt-4o")
    with pytest.raises(RecipeError, match="the same judge"):
        assess(run(name="y"), "openai:http://localhost:1/v1#a", "openai:http://localhost:1/v1/#a")
    path = run(record(0), name="z")
    (path / "judged.jsonl").write_text('{"id": "row 0"}\n{}\n')
    with pytest.raises(RunError, match=r"judged\.jsonl, line 1 is no judgement"):
        assess(path, "openai:http://localhost:1/v1#a")


def test_the_command_prints_and_writes_and_shows_no_key(run, tmp_path):
    path, out = run(*eight()), tmp_path / "elsewhere"
    with judging(by_hand) as server:
        shown = osler_judge(path, "--judge", spec(server), "--out", out)
        printed = osler_judge(path, "--judge", spec(server), "--out", out, "--json")
    assert shown.exit_code == printed.exit_code == 0
    for line in ("answer correct", "reasoning sound", "1 unparseable", "exact match", "+0.72", "judge.json"):
        assert line in shown.stdout, shown.stdout
    assert shown.stderr.endswith("1 judgements have no scores. The same command asks for them again.\n")
    assert json.loads(printed.stdout) == read_json(out / "judge.json")
    assert not (path / "judged.jsonl").exists()
    everything = shown.output + printed.output + (out / "judged.jsonl").read_text() + (out / "judge.json").read_text()
    assert SECRET not in everything


def test_a_server_that_names_its_models_by_the_key_is_not_quoted():
    with (
        serving(names=(f"model-{SECRET}",)) as server,
        Judge(server.endpoint, QUICK) as judge,
        pytest.raises(ModelError) as error,
    ):
        judge.check()
    assert "unknown model" in str(error.value)
    assert SECRET not in str(error.value)


def test_a_server_that_drips_is_given_up(score, monkeypatch):
    monkeypatch.setattr(Server, "longest_s", property(lambda server: 0.5))
    with judging(lambda request, number: time.sleep(5)) as server:
        started = time.monotonic()
        (found,) = score(server, items(1))
        assert time.monotonic() - started < 4
    assert (found.unscored, found.detail) == ("failed", "timeout")


def test_two_commands_do_not_write_to_one_file(run, tmp_path):
    path = run(*eight())
    held = (path / "judged.lock").open("w")
    fcntl.flock(held, fcntl.LOCK_EX)
    with judging() as server, pytest.raises(RunError, match="another osler judge writes to"):
        assess(path, spec(server))
    held.close()


def test_texts_without_a_judge_go_into_a_new_folder(run, tmp_path):
    summary = assess(run(*eight()), None, out=tmp_path / "new" / "folder")
    assert summary["texts"]["exact_match"]["n"] == 8
    assert (tmp_path / "new" / "folder" / "judge.json").is_file()
