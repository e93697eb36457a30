"""Every placement of a gate in every unit, and explicit formulas of the units, built from their own layers."""

import torch
from network_cases import configure

from se_med.networks.layers import make_norm
from se_med.networks.seat import Seat
from se_med.networks.units import UNITS

SEATS = [
    (unit, Seat(placement, source))
    for unit, kind in UNITS.items()
    for placement, maps in kind.placements.items()
    for source in (None, *maps)
]
"""All kinds of unit with all seats that they have."""

ENDS = {"first": False, "last": False}


def label(value):
    if isinstance(value, Seat):
        return f"{value.placement}-{value.squeeze_from or 'itself'}"
    return str(value)


def make_unit(unit, rank=3, channels_in=8, channels_out=8, stride=1, seat=None, norm="instance", seed=0, **more):
    """A unit in float64 with random parameters, those of its norms included."""
    network = configure(rank, unit=unit, norm=norm, **more.pop("network", {}))
    made = UNITS[unit](
        network,
        lambda channels: make_norm(network, channels),
        channels_in,
        channels_out,
        (3,) * rank,
        (stride,) * rank,
        seat,
        **more,
    ).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(drawn if parameter.ndim == 1 else drawn / parameter[0].numel() ** 0.5)
    return made


def gate_channels(unit, placement, channels_in, channels_out, network):
    return {"pre": channels_in, "conv3": UNITS[unit].inner_width(network, channels_out)}.get(placement, channels_out)


def act(x):
    return torch.where(x > 0, x, 0.01 * x)


class Formula:
    """The output of a unit by its definition. ``weigh(y, source)`` is the gate; ``seat`` says where it stands."""

    def __init__(self, unit, weigh, seat):
        self.unit, self.weigh, self.seat = unit, weigh, seat

    def at(self, placement, y, maps=None):
        if self.seat is None or self.seat.placement != placement:
            return y
        return self.weigh(y, (maps or {}).get(self.seat.squeeze_from, y))

    def plain(self, x):
        u = self.unit
        return self.after_norm("standard", u.conv(x), u.norm)

    def after_norm(self, placement, convolved, norm):
        normalised = norm(convolved)
        activated = act(normalised)
        return self.at(placement, activated, {"pre_norm": convolved, "post_norm": normalised, "post_act": activated})

    def linear(self, placement, convolved, norm):
        normalised = norm(convolved)
        return self.at(placement, normalised, {"pre_norm": convolved, "post_norm": normalised})

    def shortcut(self, x):
        path = dict(self.unit.shortcut.named_children())
        if not path:
            return self.at("identity", x)
        pooled = path["pool"](x) if "pool" in path else x
        if "norm" not in path:
            return self.at("identity", path["conv"](pooled))
        return self.linear("identity", path["conv"](pooled), path["norm"])

    def residual(self, x):
        u = self.unit
        branch = u.conv2(act(u.norm1(u.conv1(self.at("pre", x)))))
        return self.at("post", act(self.linear("standard", branch, u.norm2) + self.shortcut(x)))

    def residual_preact(self, x):
        u = self.unit
        entering = self.at("pre", x)
        if not isinstance(u.norm1, torch.nn.Identity):
            entering = act(u.norm1(entering))
        y = self.at("standard", u.conv2(act(u.norm2(u.conv1(entering))))) + self.shortcut(x)
        return self.at("post", y if isinstance(u.norm3, torch.nn.Identity) else act(u.norm3(y)))

    def bottleneck(self, x):
        u = self.unit
        narrow = act(u.norm1(u.conv1(self.at("pre", x))))
        narrow = self.after_norm("conv3", u.conv2(narrow), u.norm2)
        return self.at("post", act(self.linear("standard", u.conv3(narrow), u.norm3) + self.shortcut(x)))

    resnext = bottleneck

    def inception(self, x):
        u = self.unit

        def inner(part, y):
            return act(part.norm(part.conv(y)))

        single = u.branch1[1](u.branch1[0](x))
        double = u.branch2[1](inner(u.branch2[0], x))
        triple = u.branch3[2](inner(u.branch3[1], inner(u.branch3[0], x)))
        pooled = u.branch4[1](u.branch4[0](x))
        return self.after_norm("standard", torch.cat([single, double, triple, pooled], 1), u.norm)
