"""What the doctor says about GPUs that torch does or does not see."""

import pytest

from osler.doctor import gpu_problems, visible_gpus

GPU = ["GPU 0: Some Card (UUID: GPU-1)"]


@pytest.mark.parametrize(
    ("gpus", "seen", "version", "cuda"),
    [([], False, "2.11.0+cpu", None), ([], False, "2.11.0+cu128", "12.8"), (GPU, True, "2.11.0+cu128", "12.8")],
)
def test_nothing_is_wrong_without_a_gpu_or_with_one_that_torch_sees(gpus, seen, version, cuda):
    assert gpu_problems(gpus, seen, version, cuda) == []


@pytest.mark.parametrize("version", ["2.11.0+cpu", "2.11.0"])
def test_a_torch_without_cuda_is_replaced_by_the_same_release(version):
    (problem,) = gpu_problems(GPU, False, version, None)
    assert problem.startswith(f"torch {version} has no CUDA.")
    assert problem.endswith(" torch==2.11.0")
    assert "--force-reinstall" in problem


def test_a_cuda_that_the_driver_does_not_run():
    (problem,) = gpu_problems(GPU, False, "2.11.0+cu128", "12.8")
    assert "CUDA 12.8" in problem
    assert "driver" in problem
    assert "pip install" not in problem


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Puts a command `nvidia-smi` on the path that runs the given shell line."""

    def command(line):
        file = tmp_path / "nvidia-smi"
        file.write_text(f"#!/bin/sh\n{line}\n")
        file.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return command


def test_the_driver_lists_the_gpus(nvidia_smi):
    nvidia_smi("echo 'GPU 0: A'; echo 'GPU 1: B'")
    assert visible_gpus() == ["GPU 0: A", "GPU 1: B"]


def test_a_driver_that_does_not_answer_lists_none(nvidia_smi):
    nvidia_smi("echo 'could not talk to the driver'; exit 9")
    assert visible_gpus() == []


def test_no_driver_lists_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []
