"""Who a process is among several: believed only where number and count are both there."""

import json
import subprocess
import sys

import pytest

from mlxrlhf import backends, parallel
from mlxrlhf.backends.torch import device
from mlxrlhf.backends.torch import parallel as torch_parallel
from mlxrlhf.errors import UserError

NAMES = "RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MLX_RANK MLX_WORLD_SIZE MLX_HOSTFILE MLX_IBV_DEVICES PMI_RANK PMI_SIZE"
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}


@pytest.fixture
def environment(monkeypatch):
    """Sets what a launcher would, and nothing else."""
    for name in [*NAMES.split(), "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"]:
        monkeypatch.delenv(name, raising=False)

    def put(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put


@pytest.mark.parametrize(
    "variables,world",
    [
        ({}, (0, 1)),
        (TORCHRUN, (1, 2)),
        ({"RANK": "1"}, (0, 1)),
        ({"WORLD_SIZE": "4"}, (0, 1)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, (0, 1)),  # torchrun says where the first process is
        ({**TORCHRUN, "RANK": "2"}, (0, 1)),
        ({**TORCHRUN, "RANK": "first"}, (0, 1)),
        ({"MLX_RANK": "1"}, (0, 1)),
        ({"MLX_RANK": "1", "MLX_WORLD_SIZE": "3"}, (1, 3)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, (1, 2)),
        ({"OMPI_COMM_WORLD_RANK": "1"}, (0, 1)),
        ({"PMI_RANK": "3", "PMI_SIZE": "4"}, (3, 4)),
        ({"PMI_RANK": "0", "PMI_SIZE": "1"}, (0, 1)),
    ],
    ids=str,
)
def test_a_number_is_believed_only_beside_its_count(environment, variables, world):
    environment(variables)
    assert parallel.world() == world and parallel.first() == (world[0] == 0)


@pytest.mark.parametrize("name", ["MLX_HOSTFILE", "MLX_IBV_DEVICES"])
def test_the_ring_counts_its_hosts(environment, tmp_path, name):
    hosts = tmp_path / "hosts"
    hosts.write_text(json.dumps([["127.0.0.1:1"], ["127.0.0.1:2"], ["127.0.0.1:3"]]))
    environment({"MLX_RANK": "2", name: str(hosts)})
    assert parallel.world() == (2, 3)
    hosts.write_text("")  # one host
    assert parallel.world() == (0, 1)


@pytest.mark.parametrize("name", ["mlx", "torch"])
def test_who_computes_and_who_writes_have_one_answer(environment, name):
    """RANK=1 alone made a process train and write nothing, with exit code 0."""
    environment({"RANK": "1"})
    assert backends.load(name, "cpu").world() == parallel.world() == (0, 1)


def test_the_wrong_launcher_is_named(environment, monkeypatch):
    environment(TORCHRUN)
    with pytest.raises(UserError, match="the launcher says process 1 of 2, MLX sees 0 of 1; start it with mlx.launch"):
        backends.load("mlx").world()
    monkeypatch.delenv("RANK")
    environment({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"})
    with pytest.raises(UserError, match="start --backend torch with torchrun"):
        backends.load("torch", "cpu").world()


def test_each_process_takes_a_gpu_and_the_collective_follows_the_device(environment, monkeypatch):
    monkeypatch.setattr(device, "_device", device.device())
    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device.torch.cuda, "device_count", lambda: 2)
    chosen = []
    monkeypatch.setattr(device.torch.cuda, "set_device", lambda place: chosen.append(str(place)))
    device.use_device()
    environment({**TORCHRUN, "LOCAL_RANK": "1"})
    device.use_device()
    device.use_device("cuda")
    device.use_device("cuda:0")
    assert chosen == ["cuda", "cuda:1", "cuda:1", "cuda:0"]
    assert torch_parallel.collective(device.device()) == "nccl"
    device.use_device("cpu")
    assert torch_parallel.collective(device.device()) == "gloo"
    environment({"LOCAL_RANK": "2"})
    with pytest.raises(UserError, match="finds no GPU of its own: there are 2"):
        device.use_device("cuda")


@pytest.mark.skipif(sys.platform != "linux", reason="a Mac's MLX has its own BLAS")
def test_an_import_of_mlx_before_ours_is_said():
    code = "import mlx.core\nfrom mlxrlhf import backends\nbackends.load('mlx')\nbackends.load('mlx')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.count("imported before mlxrlhf") == 1 and len(done.stderr.splitlines()) == 1
    done = subprocess.run([sys.executable, "-c", code.partition("\n")[2]], capture_output=True, text=True)
    assert done.stderr == ""
