"""No gate inside a unit is accepted that would be the same for every image, and none is refused that would not."""

import pytest
import torch
from network_cases import build, configure
from torch import nn
from unit_cases import SEATS, gate_channels, label, make_unit

from se_med.attention import attention_class, create_attention, list_attention
from se_med.attention.averaged import AveragedGate
from se_med.attention.scse import ConcurrentGate
from se_med.attention.squeezing import SqueezingGate
from se_med.config.attention import AttentionConfig, Squeezed
from se_med.errors import ConfigError
from se_med.networks.dependence import is_constant, is_undone
from se_med.networks.placement import place_gates
from se_med.networks.seat import Seat
from se_med.networks.units import UNITS

NORMS = {"instance": {}, "batch": {}, "group": {"norm_groups": 2}, "group of one": {"norm": "group", "norm_groups": 8}}
BLOCKS = [
    ("cse", {}),
    ("cse", {"squeeze": "std"}),
    ("cse", {"squeeze": "max"}),
    ("cse", {"squeeze": "avg+max"}),
    ("scse", {}),
    ("eca", {}),
    ("mean", {}),
    ("shuffled", {}),
    ("pe", {}),
    ("cbam", {}),
    ("sse", {}),
    ("no_squeeze", {}),
    ("gather_excite", {}),
    ("gather_excite", {"extent": 2}),
    ("gather_excite", {"variant": "theta", "extent": 2}),
    ("global_context", {}),
    ("global_context", {"fusion": "scale"}),
]


def images(count=4):
    """Single images of unlike texture and scale."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for index in range(count):
        x = torch.randn(2, 8, 6, 6, generator=generator, dtype=torch.float64)
        smooth = nn.functional.avg_pool2d(x, 3, 1, 1) if index % 2 else x
        made.append((1 + 2 * index) * smooth.sign() * smooth.abs() ** (0.5 + 0.4 * index) + 0.2 * index)
    return made


class Probe(SqueezingGate):
    """Sits where a gate would, notes what a gate would get, and changes nothing."""

    kind = "channel"

    def forward(self, x, source=None, mask=None):
        self.seen = (x.clone(), source if source is None else source.clone())
        return x


def seen_by_a_gate(unit, seat, norm, projected):
    """What a gate gets for each image, without the epsilon of norms, by which alone a constant could vary."""
    network = {"norm": norm, **NORMS[norm]}
    made = make_unit(unit, 2, 8, 8, 2 if projected else 1, seat, network.pop("norm"), network=network).eval()
    for module in made.modules():
        if hasattr(module, "eps"):
            module.eps = 0.0
    probe = Probe(gate_channels(unit, seat.placement, 8, 8, configure(2, unit=unit)), 2)
    seen = []
    with torch.no_grad():
        for x in images():
            made(x, probe)
            seen.append(probe.seen)
    return probe.channels, seen


def spread_over_images(gate, seen):
    """The largest deviation over images of any weight of the gate, or of its channel part where it has a spatial one too."""
    generator = torch.Generator().manual_seed(1)
    weigher = gate.channel if isinstance(gate, ConcurrentGate | AveragedGate) else gate
    with torch.no_grad():
        for parameter in gate.parameters():
            # Small, so that sigmoids do not saturate, and biased, so that no ReLU is dead.
            drawn = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(drawn + 0.5 if parameter.ndim == 1 else drawn)
        weights = [weigher.gate(x) if source is None else weigher.gate(x, source) for x, source in seen]
    return torch.stack([weight[0] for weight in weights]).std(0).max().item()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("unit", "seat"), SEATS, ids=label)
def test_accepted_gates_follow_the_image_and_refused_ones_do_not(unit, seat, norm):
    network = configure(2, unit=unit, **{"norm": norm, **NORMS[norm]})
    checked = set()
    for projected in (False, True):
        channels, seen = seen_by_a_gate(unit, seat, norm, projected)
        for block, options in BLOCKS:
            gate = create_attention(block, channels, 2, **options).double().eval()
            if seat.squeeze_from is not None and not isinstance(gate, SqueezingGate):
                continue
            spread, refused = spread_over_images(gate, seen), is_constant(gate, seat, network, projected)
            assert spread < 1e-10 if refused else spread > 1e-6, (block, options, projected, spread)
            checked.add(refused)
    assert False in checked


def refusals(attention, **options):
    with pytest.raises(ConfigError) as caught:
        build(attention=attention, **options)
    return caught.value.problems


@pytest.mark.parametrize("unit", ["residual", "bottleneck", "resnext"])
@pytest.mark.parametrize("placement", ["standard", "identity"])
@pytest.mark.parametrize("block", ["cse", "eca", "scse", "mean", "shuffled", "gather_excite"])
def test_mean_behind_an_instance_norm_is_refused_with_what_to_choose(block, placement, unit):
    (line,) = refusals({"decoder": {"block": block, "placement": placement}}, unit=unit, features=(8, 8, 16))
    assert line.startswith(f"attention.decoder: {block} squeezes the mean or deviation")
    assert "behind an instance norm, which is the same for every image (stage 0); choose " in line
    assert "placement: stage or network.norm: batch" in line
    remedies = [
        {"placement": "stage"},
        *([{"placement": placement, "squeeze_from": "pre_norm"}] if "squeeze_from" in line else []),
    ]
    assert ("squeeze_from: pre_norm" in line) == (block != "gather_excite")
    for remedy in remedies:
        build(attention={"decoder": {"block": block, **remedy}}, unit=unit, features=(8, 8, 16))
    build(attention={"decoder": {"block": block, "placement": placement}}, unit=unit, features=(8, 8, 16), norm="batch")


def test_a_squeeze_of_the_norm_before_the_activation_is_refused_in_plain_units():
    (line,) = refusals({"encoder": {"block": "cse", "placement": "standard", "squeeze_from": "post_norm"}})
    assert "choose squeeze_from: pre_norm, squeeze: max" in line
    build(attention={"encoder": {"block": "cse", "placement": "standard"}})
    build(attention={"encoder": {"block": "cse", "placement": "standard", "squeeze_from": "post_norm", "squeeze": "max"}})


def test_group_norm_with_one_channel_per_group_is_refused_at_the_stage_that_has_it():
    gate = {"encoder": {"block": "cse", "placement": "standard"}}
    (line,) = refusals(gate, unit="residual", norm="group", norm_groups=8, features=(16, 8, 32))
    assert "behind a group norm with one channel per group, which is the same for every image (stage 1)" in line
    assert "fewer groups (network.norm_groups)" in line
    build(attention=gate, unit="residual", norm="group", norm_groups=4, features=(16, 8, 32))


def test_identity_is_refused_only_where_a_shortcut_is_projected():
    network = configure(unit="residual", features=(8, 8), strides=((1, 1, 1),), encoder_units=2)
    gate = {"block": "cse", "placement": "identity"}
    place_gates(AttentionConfig.model_validate({"bottleneck": gate}), network, 8)
    with pytest.raises(ConfigError, match=r"attention\.encoder: cse .* a projected shortcut behind an instance norm"):
        place_gates(AttentionConfig.model_validate({"encoder": gate}), network, 3)


def test_a_gate_that_the_next_norm_takes_out_again_is_refused():
    gate = {"encoder": {"block": "cse", "placement": "pre"}}
    (line,) = refusals(gate, unit="residual_preact", encoder_units=2)
    assert "right before an instance norm, which takes the weights out again (stage 0)" in line
    build(attention=gate, unit="residual_preact", encoder_units=1)
    build(attention=gate, unit="residual_preact", encoder_units=2, norm="batch")
    build(attention={"encoder": {"block": "sse", "placement": "pre"}}, unit="residual_preact", encoder_units=2)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "block", [name for name in list_attention() if name not in ("se_norm", "attention_gate", "fine_attention_gate")]
)
def test_exactly_the_gates_without_effect_are_refused(block, norm):
    network = configure(2, unit="residual_preact", **{"norm": norm, **NORMS[norm]})
    seat = Seat("pre")
    made = make_unit(
        "residual_preact", 2, 8, 8, 1, seat, network.norm, network={"norm_groups": network.norm_groups}, first=False
    ).eval()
    for module in made.modules():
        if hasattr(module, "eps"):
            module.eps = 0.0
    gate = create_attention(block, 8, 2).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator, dtype=torch.float64) - 0.5)
        for buffer in gate.buffers():
            if buffer.is_floating_point():
                buffer.copy_(0.1 + torch.rand(buffer.shape, generator=generator, dtype=torch.float64))
        effect = max((made(x, gate) - made(x)).abs().max().item() for x in images(2))
    assert effect < 1e-9 if is_undone(gate, seat, network, first=False) else effect > 1e-4


@pytest.mark.parametrize("placement", ["pre", "post", "identity", "conv3"])
def test_placements_that_a_unit_does_not_have_are_refused(placement):
    (line,) = refusals({"encoder": {"block": "sse", "placement": placement}}, unit="plain")
    units = {"conv3": "bottleneck or resnext"}.get(placement, "residual or residual_preact or bottleneck or resnext")
    assert line == (
        f"attention.encoder.placement: {placement} does not exist in units of kind plain; choose stage, standard, or "
        f"network.unit: {units}"
    )


@pytest.mark.parametrize("site", ["skip", "upsample", "concat", "head"])
def test_sites_without_units_have_no_placement(site):
    (line,) = refusals({site: {"block": "cse", "placement": "standard"}})
    assert line == f"attention.{site}.placement: standard is inside a unit, of which this site has none; choose stage"


@pytest.mark.parametrize(
    ("unit", "placement", "source", "choice"),
    [
        ("residual", "standard", "post_act", "choose pre_norm or post_norm, or leave it out"),
        ("residual_preact", "standard", "pre_norm", "leave it out"),
        ("residual_preact", "identity", "post_norm", "leave it out"),
    ],
)
def test_maps_that_do_not_exist_cannot_be_squeezed(unit, placement, source, choice):
    (line,) = refusals({"encoder": {"block": "cse", "placement": placement, "squeeze_from": source}}, unit=unit)
    assert line == (
        f"attention.encoder.squeeze_from: with placement {placement} in units of kind {unit} there is no {source}; {choice}"
    )


@pytest.mark.parametrize("placement", ["stage", "pre", "post"])
def test_squeeze_from_needs_a_map_with_a_norm(placement):
    with pytest.raises(ValueError, match=f"squeeze_from: with placement {placement} the weighed map itself is squeezed"):
        AttentionConfig.model_validate({"encoder": {"block": "cse", "placement": placement, "squeeze_from": "pre_norm"}})


def test_the_blocks_that_can_squeeze_another_map_are_those_that_may_be_told_to():
    for name in list_attention():
        config = AttentionConfig.model_validate({"encoder": name} if name[-4:] != "gate" else {"skip": name})
        gate = config.encoder or config.skip
        assert isinstance(gate, Squeezed) == issubclass(attention_class(name), SqueezingGate), name


def test_all_units_and_seats_are_covered():
    assert {unit for unit, _ in SEATS} == set(UNITS)
    assert {seat.placement for _, seat in SEATS} == {"standard", "pre", "post", "identity", "conv3"}
