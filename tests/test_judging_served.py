"""`transformers serve` as a judge: a real server of tiny text models, offline, from the check to the judgement."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from judge_models import save_talking
from osler.errors import ModelError
from osler.judging.breaker import Breaker
from osler.judging.cache import ScoreCache
from osler.judging.client import Judge, Settings
from osler.judging.judges import judge_of
from osler.judging.prompts import Item
from osler.model.endpoint import parse_endpoint
from test_endpoint import _environment  # noqa: F401
from test_judging_prompts import ATTACKS

pytestmark = pytest.mark.slow

PATIENCE_S = 90.0


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def serving(folder):
    """The process and its URL; in its hub cache is what `in_cache` put there, and it may not reach the hub."""
    pytest.importorskip("fastapi")
    port, home = free_port(), folder / "hub"
    (home / "hub").mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment = {name: value for name, value in environment.items() if not name.startswith("HF_HUB_CACHE")}
    command = [str(Path(sys.executable).parent / "transformers"), "serve", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, "--device", "cpu"], env=environment, stdout=log, stderr=log)
        try:
            wait_for(process, port, folder / "log")
            yield process, f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()
            process.wait()


def in_cache(folder, name, content):
    """Lay the model in `content` into the hub cache below `folder`, under `name`."""
    kept = folder / "hub" / "hub" / f"models--{name.replace('/', '--')}"
    (kept / "refs").mkdir(parents=True)
    (kept / "blobs").mkdir()
    (kept / "refs" / "main").write_text("abc")
    shutil.copytree(content, kept / "snapshots" / "abc")


def wait_for(process, port, log):
    ends = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    pytest.fail(f"transformers serve did not come up:\n{log.read_text()[-2000:]}")


def test_a_folder_is_served_beside_the_models_of_the_hubs_cache(tmp_path):
    save_talking(tmp_path / "talking")
    in_cache(tmp_path, "lab/other", tmp_path / "talking")
    quick, cache = Settings(max_tokens=20, retries=0), ScoreCache(tmp_path / "cache")
    with serving(tmp_path) as (_, url):
        with urllib.request.urlopen(f"{url}/models") as listed:
            assert [one["id"] for one in json.load(listed)["data"]] == ["lab/other"]
        for name in (tmp_path / "talking", "lab/other"):
            with judge_of(f"openai:{url}#{name}", quick, cache) as judge:
                judge.check()
                assert [(one.correct, one.unscored) for one in judge.score(items(2))] == [(1, None)] * 2
        for name in (tmp_path / "nowhere", "lab/othre"):
            with judge_of(f"openai:{url}#{name}", quick, cache) as judge, pytest.raises(ModelError) as caught:
                judge.check()
            assert f"unknown model '{name}'" in str(caught.value)
            assert "Known: lab/other. Asked for it all the same, it gave HTTP 500." in str(caught.value)


def items(count):
    return [Item(f"Question {number}?", ("liver",), "liver", "It is large.") for number in range(count)]


def test_a_served_model_judges_until_it_is_gone(tmp_path):
    talking, babbling = tmp_path / "talking", tmp_path / "babbling"
    save_talking(talking)
    save_talking(babbling, "YES, the answer is correct.")
    quick, cache = Settings(max_tokens=20, retries=0), ScoreCache(tmp_path / "cache")
    with serving(tmp_path) as (process, url):
        with judge_of(f"openai:{url}#{talking}", quick, cache) as judge:
            judge.check()
            found = judge.score(items(3))
            assert [(one.correct, one.sound, one.why, one.unscored) for one in found] == [(1, 0, "as told", None)] * 3
            assert all(one.tokens_in > 100 and one.tokens_out for one in found)
            attacked = judge.score([Item("Which?", ("liver",), attack, None) for attack in ATTACKS])
            assert {one.unscored for one in attacked} <= {None, "refused"}, "the longest may be refused, and none is a reply"
        with judge_of(f"openai:{url}#{babbling}", quick, cache) as judge:
            assert {(one.correct, one.unscored) for one in judge.score(items(3))} == {(None, "unparseable")}
        with (
            judge_of(f"openai:{url}#{tmp_path / 'nowhere'}", quick, cache) as judge,
            pytest.raises(ModelError, match="nowhere at http"),
        ):
            judge.check()
        one_at_a_time = Settings(max_tokens=20, retries=0, concurrency=1)
        breaker = Breaker(limit=3, wait_s=0.1)
        with Judge(parse_endpoint(f"openai:{url}#{talking}"), one_at_a_time, ScoreCache(tmp_path / "other"), breaker) as judge:
            found = {}
            for place, judgement in judge.as_scored(items(100)):
                found[place] = judgement
                if len(found) == 3:
                    process.kill()
    scored = [one for one in found.values() if one.unscored is None]
    assert 3 <= len(scored) < 100
    assert {one.correct for one in scored} == {1}
    assert {one.unscored for one in found.values()} == {None, "failed", "down"}
    assert {one.correct for one in found.values() if one.unscored} == {None}
    assert len(found) == 100
