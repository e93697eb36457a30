from __future__ import annotations

import pytest
import torch

from se_med.errors import UsageError
from se_med.inference.precision import autocast, has_fast_bf16, resolve_device, resolve_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(("bf16", "amx", "expected"), [(True, False, "bf16"), (False, True, "bf16"), (False, False, "fp32")])
def test_auto_is_bf16_only_where_the_processor_computes_it(monkeypatch, bf16, amx, expected):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert resolve_precision("auto", CPU) == expected
    assert resolve_precision("fp32", CPU) == "fp32"
    assert resolve_precision("bf16", CPU) == "bf16"


def test_auto_is_fp32_on_processors_that_nobody_measured(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert not has_fast_bf16(CPU)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_convolutions_run_in_the_given_arithmetic(precision, dtype):
    with autocast(precision, CPU):
        assert torch.nn.Conv3d(1, 1, 1)(torch.zeros(1, 1, 2, 2, 2)).dtype == dtype


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == resolve_device(CPU) == CPU
    with pytest.raises(UsageError, match="torch sees no GPU"):
        resolve_device("gpu")
    with pytest.raises(UsageError, match="'tpu' is not known"):
        resolve_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == resolve_device("gpu") == torch.device("cuda")
