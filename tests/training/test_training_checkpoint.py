"""Checkpoints: whole, checked, and unable to run code."""

import os
import pickle
import zipfile

import pytest
import torch

from se_med.errors import RunError
from se_med.training.checkpoint import CHECKPOINT_VERSION, TrainingState, load_checkpoint, save_checkpoint


def state() -> TrainingState:
    return TrainingState(
        step=7,
        steps=90,
        former_steps=((3, 80), (6, 100)),
        deadline=60.5,
        validation_seconds=2.5,
        network={"conv.weight": torch.randn(8, 1, 3, 3, 3)},
        optimizer={
            "state": {0: {"step": torch.tensor(7.0), "exp_avg": torch.randn(8)}},
            "param_groups": [{"lr": 0.1, "params": [0]}],
        },
        average={"n_averaged": torch.tensor(7)},
        stream_digest="ab" * 32,
        loss_sum=1.5,
        loss_steps=2,
        seconds=12.5,
        validated_step=5,
        environment={"threads": 2, "precision": "fp32"},
    )


def test_state_comes_back_bit_for_bit(tmp_path):
    saved = state()
    save_checkpoint(tmp_path / "checkpoints" / "last.ckpt", saved)
    loaded = load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert torch.equal(loaded.network["conv.weight"], saved.network["conv.weight"])
    assert torch.equal(loaded.optimizer["state"][0]["exp_avg"], saved.optimizer["state"][0]["exp_avg"])
    for name in (
        "step",
        "stream_digest",
        "loss_sum",
        "loss_steps",
        "seconds",
        "validated_step",
        "environment",
        "former_steps",
        "steps",
        "deadline",
    ):
        assert getattr(loaded, name) == getattr(saved, name)


def test_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(RunError, match=r"last\.ckpt: there is no checkpoint"):
        load_checkpoint(tmp_path / "last.ckpt")


def test_flipped_bit_inside_a_tensor_is_found(tmp_path):
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, state())
    with zipfile.ZipFile(path) as archive:
        entry = max(archive.infolist(), key=lambda info: info.file_size)
        offset = entry.header_offset + 300
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"damaged|not a readable"):
        load_checkpoint(path)


@pytest.mark.parametrize("length", [0, 10, 1000])
def test_truncated_checkpoint_is_refused(tmp_path, length):
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, state())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(RunError, match=r"last\.ckpt: not a readable checkpoint"):
        load_checkpoint(path)


def test_payload_does_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"version": 1, "network": Payload()}, tmp_path / "zip.ckpt")
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(Payload()))
    for name in ("zip.ckpt", "plain.ckpt"):
        with pytest.raises(RunError):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_foreign_content_is_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "a.ckpt")
    with pytest.raises(RunError, match="not a checkpoint of this version"):
        load_checkpoint(tmp_path / "a.ckpt")
    torch.save({"version": CHECKPOINT_VERSION, "step": 3}, tmp_path / "b.ckpt")
    with pytest.raises(RunError, match="not those of a checkpoint"):
        load_checkpoint(tmp_path / "b.ckpt")
