"""Small perceptrons that look at one voxel at a time, trained together on painted voxels.

Every other one does not see the *prior* (:mod:`volseg.pixelwise.place`): where texture shows the
class, place and shape mislead, and the other way round. Their mean is better than either kind.
"""

import copy
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_linear_bn_eval

from volseg.learning import Curve
from volseg.machine import has_bf16

__all__ = ["Folded", "LabelledVoxels", "Members", "optimizer_of", "take_step", "train"]

_HIDDEN = (128, 128)
_BATCH = 4096
_RATE = 3e-3
_DECAY = 0.01
_NOISE = 0.2  # standard deviations, added to what is seen
_CLAMP = 6.0  # standard deviations
_EVERY = 50  # steps between two points of the curve
_PASSES, _ENOUGH = 25, 500  # over the painted voxels, and steps, after which more make it worse
_VALIDATED = 4096  # held-out voxels that are looked at for each point


@dataclass(frozen=True, eq=False)
class LabelledVoxels:
    """What is seen of some voxels ``(n, features)``, and their classes ``(n,)``."""

    seen: Tensor
    classes: Tensor


class Members:
    """Perceptrons whose log probabilities are averaged.

    Args:
        mean, std: of what they see.
        masks: per perceptron, 0 where it does not look.
    """

    def __init__(self, perceptrons: list[nn.Sequential], mean: Tensor, std: Tensor, masks: Tensor) -> None:
        self.perceptrons = perceptrons
        self.mean, self.std, self.masks = mean, std, masks

    @classmethod
    def new(
        cls,
        seen: Tensor,
        prior: slice,
        classes: int,
        *,
        blind: Sequence[bool],
        seed: int,
        telling: slice = slice(None),
        hidden: Sequence[int] = _HIDDEN,
        kept: float = 1.0,
    ) -> "Members":
        """Untrained ones for such voxels, one per entry of ``blind``: whether it does not see the prior.

        Args:
            telling: which columns of the prior the others look at.
            kept: the share of what is seen that each of them looks at, chosen at random.
        """
        count = len(blind)
        features = seen.shape[1]
        masks = _masks(features, prior, telling, blind).to(seen.device)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            if kept < 1:
                masks *= (torch.rand(count, features) < kept).to(seen.device)
            perceptrons = [_perceptron([features, *hidden, classes]).to(seen.device) for _ in range(count)]
        return cls(perceptrons, seen.mean(0), seen.std(0).clamp(min=1e-3), masks)

    def scaled(self, seen: Tensor) -> Tensor:
        """In standard deviations; ``seen`` is overwritten."""
        return seen.sub_(self.mean).div_(self.std).clamp_(-_CLAMP, _CLAMP)

    def __call__(self, seen: Tensor) -> Tensor:
        """Log probabilities ``(n, classes)``, unnormalised, of what is seen ``(n, features)``."""
        return Folded(self)(seen.T).T

    def without_prior(self, prior: slice) -> "Members":
        """Those that look at no column of the prior: for an image without paint there is none."""
        blind = [not bool(mask[prior].any()) for mask in self.masks]
        perceptrons = [
            perceptron for perceptron, is_blind in zip(self.perceptrons, blind, strict=True) if is_blind
        ]
        return Members(perceptrons, self.mean, self.std, self.masks[torch.tensor(blind)])

    def rescaled(self, mean: Tensor, std: Tensor) -> "Members":
        """The same, seeing in other standard deviations: what they answer stays, but for what was clamped."""
        with torch.no_grad():
            for perceptron, mask in zip(self.perceptrons, self.masks, strict=True):
                first = perceptron[0]
                assert isinstance(first, nn.Linear)
                first.bias.add_((first.weight * mask) @ ((mean - self.mean) / self.std))
                first.weight.mul_(std / self.std)
        return Members(self.perceptrons, mean, std, self.masks)

    def in_units(self, columns: slice, factor: float) -> "Members":
        """The same, for columns whose unit has become so many times smaller: answers stay."""
        mean, std = self.mean.clone(), self.std.clone()
        mean[columns] *= factor
        std[columns] *= factor
        return Members(self.perceptrons, mean, std, self.masks)

    def with_blind(self, columns: int, at: int | None = None) -> "Members":
        """A copy for voxels of which more is seen, at which they do not look.

        Args:
            at: the column before which these come; the last ones if None.
        """

        def widened(rows: Tensor, value: float = 0.0) -> Tensor:
            place = rows.shape[-1] if at is None else at
            new = rows.new_full((*rows.shape[:-1], columns), value)
            return torch.cat([rows[..., :place], new, rows[..., place:]], -1)

        perceptrons = copy.deepcopy(self.perceptrons)
        for perceptron in perceptrons:
            first = perceptron[0]
            assert isinstance(first, nn.Linear)
            first.weight = nn.Parameter(widened(first.weight.detach()))
            first.in_features += columns
        return Members(perceptrons, widened(self.mean), widened(self.std, 1.0), widened(self.masks))

    def looking_at(self, seen: Tensor, prior: slice, telling: slice, blind: Sequence[bool]) -> "Members":
        """A copy that looks at other columns of the prior than before: what is new says nothing at first.

        One at least stays blind: for an image without paint no other is asked.

        Args:
            seen: of painted voxels ``(n, features)``, which says how new columns are scaled.
            blind: in turn, whether a perceptron does not look at the prior.
        """
        perceptrons = copy.deepcopy(self.perceptrons)
        each = list(itertools.islice(itertools.cycle(blind), len(perceptrons)))
        each[-1] = each[-1] or not any(each)
        masks = self.masks.clone()
        masks[:, prior] = _masks(seen.shape[1], prior, telling, each).to(seen.device)[:, prior]
        new = ((masks > 0) & (self.masks == 0)).any(0)
        for perceptron, mask, before in zip(perceptrons, masks, self.masks, strict=True):
            first = perceptron[0]
            assert isinstance(first, nn.Linear)
            first.weight = nn.Parameter(first.weight.detach() * ((before > 0) | (mask == 0)))
        mean = torch.where(new, seen.mean(0), self.mean)
        return Members(perceptrons, mean, torch.where(new, seen.std(0).clamp(min=1e-3), self.std), masks)

    def shifted(self, by: Tensor) -> "Members":
        """A copy whose log probabilities are moved, class by class."""
        perceptrons = copy.deepcopy(self.perceptrons)
        for perceptron in perceptrons:
            last = perceptron[-1]
            assert isinstance(last, nn.Linear)
            last.bias = nn.Parameter(last.bias.detach() + by)
        return Members(perceptrons, self.mean, self.std, self.masks)

    def with_classes(self, indices: Sequence[int]) -> "Members":
        """A copy that knows these classes only, in this order."""
        perceptrons = copy.deepcopy(self.perceptrons)
        for perceptron in perceptrons:
            last = perceptron[-1]
            assert isinstance(last, nn.Linear)
            last.weight = nn.Parameter(last.weight.detach()[list(indices)])
            last.bias = nn.Parameter(last.bias.detach()[list(indices)])
            last.out_features = len(indices)
        return Members(perceptrons, self.mean, self.std, self.masks)

    def to(self, device: torch.device | str) -> "Members":
        """The same on a device."""
        perceptrons = [perceptron.to(device) for perceptron in self.perceptrons]
        return Members(perceptrons, self.mean.to(device), self.std.to(device), self.masks.to(device))

    def state(self) -> dict[str, Tensor]:
        """Tensors by name, on the CPU."""
        found = {"mean": self.mean, "std": self.std, "masks": self.masks}
        for number, perceptron in enumerate(self.perceptrons):
            found |= {f"{number}.{name}": tensor for name, tensor in perceptron.state_dict().items()}
        return {name: tensor.detach().cpu().clone() for name, tensor in found.items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "Members":
        """What :meth:`state` gave."""
        perceptrons = []
        for number in range(len(state["masks"])):
            start = f"{number}."
            weights = {name.removeprefix(start): t for name, t in state.items() if name.startswith(start)}
            layers = [t for name, t in weights.items() if name.endswith("weight") and t.ndim == 2]
            perceptron = _perceptron([layers[0].shape[1], *(len(layer) for layer in layers)])
            perceptron.load_state_dict(weights)
            perceptrons.append(perceptron.eval())
        return cls(perceptrons, state["mean"], state["std"], state["masks"])


class Folded:
    """Perceptrons that no longer change, ready to look at many voxels.

    Means, standard deviations, masks and normalisation are part of the linear layers, and all perceptrons
    look in one go.
    """

    def __init__(self, members: Members) -> None:
        device = members.mean.device
        kind = torch.bfloat16 if has_bf16(device) else torch.float32
        layers = [[x for x in _folded(p) if isinstance(x, nn.Linear)] for p in members.perceptrons]
        with torch.no_grad():
            self._low = (members.mean - _CLAMP * members.std)[:, None]
            self._high = (members.mean + _CLAMP * members.std)[:, None]
            self._mean, self._std = members.mean[:, None], members.std[:, None]
            first = [each[0].weight * mask for each, mask in zip(layers, members.masks, strict=True)]
            self._weights = [torch.cat(first).to(kind)]
            self._biases = [torch.cat([each[0].bias for each in layers])[:, None].to(kind)]
            for depth in range(1, len(layers[0])):
                self._weights.append(torch.stack([each[depth].weight for each in layers]).to(kind))
                self._biases.append(torch.stack([each[depth].bias for each in layers])[..., None].to(kind))
        self._kind = kind

    @torch.no_grad()
    def __call__(self, seen: Tensor) -> Tensor:
        """Of voxels ``(features, n)``: ``(classes, n)``, float32."""
        scaled = seen.clamp(self._low, self._high).sub_(self._mean).div_(self._std).to(self._kind)
        hidden = torch.addmm(self._biases[0], self._weights[0], scaled).relu_()
        hidden = hidden.view(self._weights[1].shape[0], -1, seen.shape[1])
        for weight, bias in zip(self._weights[1:-1], self._biases[1:-1], strict=True):
            hidden = torch.baddbmm(bias, weight, hidden).relu_()
        return torch.baddbmm(self._biases[-1], self._weights[-1], hidden).float().log_softmax(1).mean(0)


def train(
    members: Members,
    sample: LabelledVoxels,
    *,
    seconds: float,
    random: torch.Generator,
    curve: Curve,
    fewest: int = 100,
    held_out: LabelledVoxels | None = None,
    blurred: slice = slice(0),
    progress: Callable[[float], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> None:
    """Train all of them for so long; the learning rate comes to its end when the time does.

    The end comes sooner where every painted voxel has been seen often enough. On a machine too busy to take
    a few steps in that time, they are taken all the same.

    Args:
        fewest: steps that are taken, however short the time.
        sample, held_out: what is seen of them is overwritten.
        blurred: columns that are disturbed by a standard deviation of 1 as they are, before they are scaled.
    """
    began = time.monotonic()
    seen = members.scaled(sample.seen)
    if held_out is not None:
        own = torch.Generator(seen.device).manual_seed(0)  # so that it has no part in what is learnt
        chosen = torch.randperm(len(held_out.classes), generator=own, device=seen.device)[:_VALIDATED]
        held_out = LabelledVoxels(held_out.seen[chosen], held_out.classes[chosen])
    perceptrons = members.perceptrons
    optimizer = optimizer_of(members)
    # Drawing as many numbers for every step would take longer than the rest of it.
    noise = _NOISE * torch.randn((2 * _BATCH, seen.shape[1]), generator=random, device=seen.device)
    noise[:, blurred] /= _NOISE * members.std[blurred]
    first, total, counted = (curve.iterations[-1] if curve.iterations else 0), 0.0, 0
    most = max(_ENOUGH, _PASSES * len(seen) / _BATCH)
    for perceptron in perceptrons:
        perceptron.train()
    for step in itertools.count(1):
        share = max(min((time.monotonic() - began) / seconds, (step - 1) / fewest), (step - 1) / most)
        if share >= 1 or (should_stop is not None and should_stop()):
            break
        for group in optimizer.param_groups:
            group["lr"] = _RATE * max(0.5 * (1 + math.cos(math.pi * min(share, 1.0))), 0.01)
            group["lr"] *= min(1.0, 0.05 + 20 * share)
        chosen = torch.randint(len(seen), (_BATCH,), generator=random, device=seen.device)
        batch = LabelledVoxels(seen[chosen], sample.classes[chosen])
        total += take_step(members, optimizer, batch, noise, random)
        counted += 1
        if counted == _EVERY or step == 1:
            curve.iterations.append(first + step)
            curve.loss.append(total / counted / len(perceptrons))
            total, counted = 0.0, 0
            if held_out is not None:
                curve.validation.append(_loss(members, held_out))
            if progress is not None:
                progress(share)
    for perceptron in perceptrons:
        perceptron.eval()


def optimizer_of(members: Members) -> torch.optim.Optimizer:
    """What changes their weights."""
    parameters = [p for perceptron in members.perceptrons for p in perceptron.parameters()]
    return torch.optim.AdamW(parameters, _RATE, weight_decay=_DECAY)


def take_step(
    members: Members,
    optimizer: torch.optim.Optimizer,
    batch: LabelledVoxels,
    noise: Tensor,
    random: torch.Generator,
    weight: Tensor | None = None,
) -> float:
    """One step of all of them; the sum of their losses.

    Args:
        batch: what is seen, in standard deviations.
        noise: more rows than the batch has, a run of which is added to what each of them sees.
        weight: of each class ``(classes,)``.
    """
    total, rows = 0.0, len(batch.seen)
    optimizer.zero_grad()
    for perceptron, mask in zip(members.perceptrons, members.masks, strict=True):
        first = int(torch.randint(len(noise) - rows, (), generator=random, device=noise.device))
        disturbed = (batch.seen + noise[first : first + rows]) * mask
        with _autocast(disturbed.device):
            found = perceptron(disturbed)
        loss = F.cross_entropy(found.float(), batch.classes, weight)
        loss.backward()
        total += float(loss.detach())
    optimizer.step()
    return total


def _masks(features: int, prior: slice, telling: slice, blind: Sequence[bool]) -> Tensor:
    """1 where a perceptron looks: at all but the prior, and at what of it is telling unless it is blind."""
    seen = torch.ones(features)
    seen[prior] = 0
    sighted = seen.clone()
    sighted[prior][telling] = 1
    return torch.stack([seen if is_blind else sighted for is_blind in blind])


def _autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where the processor multiplies it natively."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_bf16(device))


def _folded(perceptron: nn.Sequential) -> nn.Sequential:
    """A copy for segmenting, normalisation folded into the linear layers."""
    layers: list[nn.Module] = []
    for layer in copy.deepcopy(perceptron).eval():
        before = layers[-1] if layers else None
        if isinstance(layer, nn.BatchNorm1d) and isinstance(before, nn.Linear):
            layers[-1] = fuse_linear_bn_eval(before, layer)
        else:
            layers.append(layer)
    return nn.Sequential(*layers)


def _loss(members: Members, sample: LabelledVoxels) -> float:
    return float(F.cross_entropy(members(sample.seen), sample.classes))


def _perceptron(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))
