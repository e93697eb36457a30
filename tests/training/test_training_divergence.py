"""Training whose numbers are not finite any more: it stops, says where, and keeps the last good checkpoint."""

import pytest
import torch

from se_med.errors import RunError
from se_med.training import module as module_file
from se_med.training.checkpoint import load_checkpoint
from se_med.training.divergence import DivergedError

WILD = ("training.learning_rate=1e30", "training.gradient_clip=null", "training.schedule=constant")


def checkpoint_of(tmp_path, name="wild"):
    return load_checkpoint(tmp_path / "runs" / name / "checkpoints" / "last.ckpt")


@pytest.fixture
def bad_gradient(monkeypatch):
    """``bad_gradient(n)``: the loss of step n is finite, and its gradient is not."""
    build = module_file.build_loss

    def spoil(step: int) -> None:
        def build_spoilt(*arguments):
            loss, calls = build(*arguments), []

            def spoilt(logits, label):
                calls.append(1)
                value = loss(logits, label)
                first = logits[0] if isinstance(logits, list) else logits
                return value + (0.0 * first.sum()).abs().sqrt() if len(calls) == step else value

            return spoilt

        monkeypatch.setattr(module_file, "build_loss", build_spoilt)

    return spoil


def test_the_command_says_step_cases_and_what_is_left_in_one_line(se_med, small_config, tmp_path):
    outcome = se_med("train", small_config, "--runs", tmp_path / "runs", "name=wild", *WILD)
    assert outcome.code == 1
    said = [line for line in outcome.err.splitlines() if line.startswith("step ") and "loss is" in line]
    assert len(said) == 1
    assert "(cases case_0" in said[0]
    assert "there is no good checkpoint yet" in said[0]
    assert "training.learning_rate" in said[0]
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "runs" / "wild" / "provenance.json").exists()


def test_a_bad_gradient_stops_before_it_reaches_the_weights(train, bad_gradient, tmp_path):
    bad_gradient(6)
    with pytest.raises(DivergedError, match=r"step 6: the norm of the gradient is nan \(cases case_0\d, case_0\d\)") as found:
        train("wild")
    assert "the last good checkpoint is that of step 4" in str(found.value)
    state = checkpoint_of(tmp_path)
    assert state.step == 4
    assert all(torch.isfinite(tensor).all() for tensor in state.network.values() if tensor.is_floating_point())


def test_a_network_that_is_spoilt_never_becomes_the_last_checkpoint(train, bad_gradient, tmp_path):
    bad_gradient(8)  # without clipping nobody looks at the gradient; step 8 would write a checkpoint
    with pytest.raises(RunError, match=r"step 8: \S+ is not finite any more .*checkpoint is that of step 4"):
        train("wild", "training.gradient_clip=null")
    assert checkpoint_of(tmp_path).step == 4
