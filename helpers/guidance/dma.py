"""DMA, dense motion alignment: drags in DADG (Wang et al., CVPR 2025). The loss formulas are *reconstructed*.

A click segmenter finds the object S of the handles h_k in the source I; with the targets q_k and d_k = q_k - h_k, and
G_k(p) = exp(-|p - h_k|^2 / 2 s^2), each pixel of an object shall move by the dense reference flow

    u(p) = S(p) sum_k G_k(p) d_k / sum_k G_k(p)        rigid: one handle moves its whole object
    u(p) = S(p) sum_k G_k(p) d_k                       decaying: what is far from the handles stays

An optical flow network (RAFT) estimates u_hat from I to the decoded x0_hat, W(p) = x0_hat(p + u(p)) is warped back, V
are the pixels of S whose way u ends inside the image, F dense features (DINOv2), and the means are over V:

    L_disp = mean_V |u_hat - u|_1 / diagonal
    L_app  = mean_V |I - W|_1
    L_sem  = mean_V 1 - cos(F(I), F(W))
    L_DMA  = L_disp + w_app L_app + w_sem L_sem,   weight 90, first 70 % of the steps

The estimate u_hat could warp as well, but then an object that has not moved fits itself, and L_app and L_sem hold it
where it is: on the dev drags it ended 8 px from the target on average, not 1.

Sampling starts from the source's inverted latents, best without CFG, as they were inverted. Outside the moved region, S
and where u takes it, x_{t-1} is replaced by the source's own: the background stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from helpers.conditions import Drag, decode_mask
from helpers.perception.clicks import ClickSegmenter
from helpers.perception.features import Features
from helpers.perception.flow import Flow
from helpers.sampling.hooks import Ctx, EnergyGuidance, Info, Job, Recurrence, Window, per_image
from helpers.sampling.inversion import Trajectory, check, invert
from helpers.sampling.settings import setting
from helpers.sampling.strength import Polyak, Raw, Strength

SAME = 0.5  # handles whose masks overlap by this IoU are on one object
SHOWN = 64  # a Trace keeps maps of at most this side


def pixels(height: int, width: int) -> torch.Tensor:
    """(2, H, W): x and y of every pixel."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y]).float()


def _log_gaussians(handles: torch.Tensor, size: tuple[int, int], spread: float) -> torch.Tensor:
    """(k, H, W): -|p - h|^2 / 2 s^2 with s = spread * diagonal; handles (k, 2) in pixels."""
    height, width = size
    s = spread * (height**2 + width**2) ** 0.5
    return -(pixels(height, width) - handles[:, :, None, None]).square().sum(1) / (2 * s**2)


def rigid(mask: torch.Tensor, handles: torch.Tensor, ways: torch.Tensor, spread: float) -> torch.Tensor:
    """The reference flow (2, H, W) in pixels of one object: mask (H, W) bool, handles and ways d (k, 2) in pixels.

    Every pixel follows the handles near it; all of the object moves.
    """
    share = _log_gaussians(handles, mask.shape, spread).softmax(0)  # finite far from all handles, where 0 / 0 is not
    return mask * torch.einsum("khw,kc->chw", share, ways)


def decaying(mask: torch.Tensor, handles: torch.Tensor, ways: torch.Tensor, spread: float) -> torch.Tensor:
    """As `rigid`, but the motion fades with the distance from the handles."""
    return mask * torch.einsum("khw,kc->chw", _log_gaussians(handles, mask.shape, spread).exp(), ways)


FIELDS = {"rigid": rigid, "decaying": decaying}


def inside(flow: torch.Tensor) -> torch.Tensor:
    """(B, 2, H, W) in pixels -> (B, H, W) bool: where p + u(p) is in the image."""
    height, width = flow.shape[-2:]
    x, y = (pixels(height, width).to(flow) + flow).unbind(1)
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def warp(images: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) and a flow (B, 2, H, W) in pixels -> p -> image(p + u(p)), bilinear; the border is repeated."""
    height, width = flow.shape[-2:]
    size = torch.tensor([width - 1, height - 1]).to(flow)[:, None, None]
    grid = (pixels(height, width).to(flow) + flow) / size * 2 - 1
    return F.grid_sample(images, grid.permute(0, 2, 3, 1), padding_mode="border", align_corners=True)


def splat(mask: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Where the flow takes a mask: (B, H, W) bool and (B, 2, H, W) -> (B, H, W) bool, to the nearest pixels."""
    batch, height, width = mask.shape
    x, y = (pixels(height, width).to(flow) + flow).round().long().unbind(1)
    seen = mask & inside(flow)
    place = torch.arange(batch, device=flow.device)[:, None, None] * height * width + y * width + x
    moved = torch.zeros(batch * height * width, dtype=torch.bool, device=flow.device)
    moved[place[seen]] = True
    return moved.view(batch, height, width)


def _mean(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Two (B, H, W) -> (B,): weighted mean, 0 where nothing has weight."""
    return (values * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1e-6)


def displacement(found: torch.Tensor, wanted: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """L_disp, (B,) in diagonals: two flows (B, 2, H, W) in pixels, seen (B, H, W) in [0, 1]."""
    height, width = found.shape[-2:]
    return _mean((found - wanted).abs().sum(1), seen) / (height**2 + width**2) ** 0.5


def appearance(warped: torch.Tensor, source: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """L_app, (B,) in [0, 1]: two images (B, 3, H, W) in [0, 1], seen (B, H, W) in [0, 1]."""
    return _mean((warped - source).abs().mean(1), seen)


def semantic(warped: torch.Tensor, source: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """L_sem, (B,) in [0, 2]: two unit-norm features (B, d, h, w), seen (B, H, W) in [0, 1]."""
    return _mean(1 - (warped * source).sum(1), F.interpolate(seen[:, None], warped.shape[-2:], mode="area")[:, 0])


@dataclass
class State:
    """What DMA knows of a run's n drags. source (n, 3, H, W) float32 in [0, 1]; described: its features (n, d, h, w).
    mask (n, H, W) bool: S; wanted (n, 2, H, W): u in pixels; seen (n, H, W) float: V. region (n, 1, h, w) bool: the
    latent pixels that S and where u takes it touch."""

    flow: Flow
    features: Features
    trajectory: Trajectory
    source: torch.Tensor
    described: torch.Tensor
    mask: torch.Tensor
    wanted: torch.Tensor
    seen: torch.Tensor
    region: torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class DMA(EnergyGuidance):
    """eps' = eps + strength(grad of weight * (w_disp L_disp + w_app L_app + w_sem L_sem)).

    drags: one for all images, or one per image in the order of the prompts; a drag's own mask is preferred to the
    segmenter's. flow: flow(source, target) -> (B, 2, H, W) in pixels; clicks: clicks(images, points (B, k, 2) in
    pixels) -> logits (B, H, W); features: features(images) -> unit-norm (B, d, h, w); see `helpers.perception`; None
    loads what the backbone names. trajectory: the sources', when they were inverted or recorded before; otherwise
    `setup` inverts them. Defaults are those found on the miniature's dev split; `paper` has the paper's.
    """

    drags: Drag | Sequence[Drag]
    flow: Flow | None = None
    clicks: ClickSegmenter | None = None
    features: Features | None = None
    trajectory: Trajectory | None = None
    weight: float = setting(90.0, low=0, high=1e6)  # lambda_DMA; paper 90
    displacement_weight: float = setting(1.0, low=0, high=1e4)  # w_disp; paper 1 (alone: the paper's ablation)
    appearance_weight: float = setting(1.0, low=0, high=1e4)  # w_app; paper 1
    semantic_weight: float = setting(0.1, low=0, high=1e4)  # w_sem; paper 1
    field: str = setting("rigid", choices=tuple(FIELDS))  # the reference flow
    spread: float = setting(0.1, low=1e-4, high=10)  # s of its Gaussians, in diagonals
    # Latent pixels by which the moved region is widened; what else lies there is drawn anew, and suffers.
    margin: int = setting(0, low=0, high=64)
    blend: Window = Window()  # noqa: RUF009 (when the background is kept)
    window: Window = Window(0.0, 0.7)  # noqa: RUF009 (frozen)
    strength: Strength = Polyak(1.0)  # noqa: RUF009
    recurrence: Recurrence = Recurrence(5, Window(0.0, 0.3))  # noqa: RUF009

    signed = ("flow", "reference")

    @classmethod
    def paper(cls, **given) -> "DMA":
        """All terms of weight 1, the weighted gradient as it is, every step once; DADG says no more."""
        return cls(**{"semantic_weight": 1.0, "strength": Raw(), "recurrence": Recurrence()} | given)

    @property
    def weights(self) -> dict[str, float]:
        return {
            "displacement": self.displacement_weight,
            "appearance": self.appearance_weight,
            "semantic": self.semantic_weight,
        }

    def setup(self, job: Job) -> State:
        drags = per_image(self.drags, Drag, job, "DMA")
        height, width = job.backbone.image_size
        for drag in drags:
            if drag.size != (height, width):
                raise ValueError(
                    f"the source image of {drag.prompt!r} is {drag.size[0]}x{drag.size[1]}, the backbone draws "
                    f"{height}x{width}: resize the source"
                )
        if self.trajectory is not None:
            check(self.trajectory, job)
        flow, clicks, features = self._models(job, any(drag.mask is None for drag in drags))
        source = torch.stack([drag.image() for drag in drags]).to(job.backbone.device)
        references = [self._reference(drag, image[None], clicks, job) for drag, image in zip(drags, source)]
        mask, wanted = (torch.stack(parts).to(source.device) for parts in zip(*references))
        trajectory = self.trajectory
        if trajectory is None:
            prompts, solver = [drag.prompt for drag in drags], job.solver.name
            trajectory = invert(job.backbone, source, prompts, job.steps, solver=solver, cost=job.cost)
        described = torch.cat([features(part) for part in source.split(8)])
        job.cost.auxiliary += len(drags)
        region = (mask | splat(mask, wanted))[:, None].float()
        region = F.adaptive_max_pool2d(region, job.backbone.latent_shape[1:])
        region = F.max_pool2d(region, 2 * self.margin + 1, 1, self.margin) > 0
        seen = (mask & inside(wanted)).float()
        return State(flow, features, trajectory, source, described, mask, wanted, seen, region)

    def start(self, x_t: torch.Tensor, index: list[int], state: State) -> torch.Tensor:
        return state.trajectory.latents[0, index].to(x_t)

    def energy(self, ctx: Ctx, state: State) -> tuple[torch.Tensor, Info]:
        """L_DMA (B,). info: the terms (B,); flow and reference (B, 2, h, w) in pixels; mask (B, h, w); error
        (B, h, w) in [0, 1], |I - W| on the object."""
        ctx.cost.auxiliary += 2 * len(ctx.index)
        source, wanted, seen = state.source[ctx.index], state.wanted[ctx.index], state.seen[ctx.index]
        image = ctx.image.float()
        found, warped = state.flow(source, image), warp(image, wanted)
        terms = {
            "displacement": displacement(found, wanted, seen),
            "appearance": appearance(warped, source, seen),
            "semantic": semantic(state.features(warped), state.described[ctx.index], seen),
        }
        loss = sum(weight * terms[name] for name, weight in self.weights.items())
        info = {name: value.detach() for name, value in terms.items()}
        info["flow"], info["reference"] = _shown(found.detach()), _shown(wanted)
        info["mask"] = _shown(state.mask[ctx.index].float())
        info["error"] = _shown((warped.detach() - source).abs().mean(1) * seen)
        return loss, info

    def after(self, x_prev: torch.Tensor, ctx: Ctx, state: State) -> torch.Tensor:
        """x_{t-1}, outside the moved region the source's."""
        if ctx not in self.blend:
            return x_prev
        source = state.trajectory.latents[ctx.i + 1, ctx.index].to(x_prev)
        return torch.where(state.region[ctx.index], x_prev, source)

    def _models(self, job: Job, clicked: bool) -> tuple:
        """Flow, click segmenter (when there is anything to click on) and features."""
        flow, clicks, features = self.flow, self.clicks, self.features
        if flow is None:
            flow = Flow.load(job.backbone.guide("flow"), job.backbone.device)
        if clicks is None and clicked:
            clicks = ClickSegmenter.load(job.backbone.guide("clicks"), job.backbone.device)
        if features is None:
            features = Features.load(job.backbone.guide("features"), job.backbone.device)
        return flow, clicks, features

    def _reference(self, drag: Drag, source: torch.Tensor, clicks, job: Job) -> tuple[torch.Tensor, torch.Tensor]:
        """Mask (H, W) bool and reference flow (2, H, W) of a drag: its objects together. ValueError for an object that
        no pixel would guide."""
        handles, targets = drag.points()
        if drag.mask is not None:
            objects = [(torch.from_numpy(decode_mask(drag.mask)), list(range(len(handles))))]
        else:
            objects = _objects(drag, source, handles, clicks, job)
        union, flow = torch.zeros(drag.size, dtype=torch.bool), torch.zeros(2, *drag.size)
        for mask, on_it in objects:
            mask = mask & ~union
            way = FIELDS[self.field](mask, handles[on_it], (targets - handles)[on_it], self.spread)
            if not (mask & inside(way[None])[0]).any():
                move = drag.moves[on_it[0]]
                raise ValueError(
                    f"no pixel of the object at {move.handle} of {drag.prompt!r} stays in the picture on its way to "
                    f"{move.target}, so nothing would guide it: put the target less far, or the handle onto the middle "
                    "of the object"
                )
            flow += way
            union |= mask
        return union, flow


def _objects(drag: Drag, source: torch.Tensor, handles: torch.Tensor, clicks, job: Job):
    """[(mask (H, W) bool, its handles)] of every object that is dragged: handles of one object share a mask."""
    height, width = drag.size
    points = handles.clamp(min=0).minimum(torch.tensor([width - 1.0, height - 1.0])).to(source.device)
    alone = clicks(source.expand(len(points), -1, -1, -1), points[:, None]).cpu() > 0
    job.cost.auxiliary += len(points)
    groups: list[list[int]] = []
    for k, mask in enumerate(alone):
        if not mask.any():
            raise ValueError(
                f"the click segmenter finds no object at the handle {drag.moves[k].handle} of {drag.prompt!r}: "
                "put the handle onto the object, or give the drag a mask"
            )
        same = next((g for g in groups if (mask & alone[g[0]]).sum() > SAME * (mask | alone[g[0]]).sum()), None)
        if same is None:
            groups.append([k])
        else:
            same.append(k)
    return [(alone[g[0]] if len(g) == 1 else clicks(source, points[g][None]).cpu()[0] > 0, g) for g in groups]


def _shown(maps: torch.Tensor) -> torch.Tensor:
    """(B, [C,] H, W) -> the same, no larger than a Trace needs."""
    factor = -(-max(maps.shape[-2:]) // SHOWN)
    if factor == 1:
        return maps
    small = F.avg_pool2d(maps.reshape(1, -1, *maps.shape[-2:]), factor)
    return small.view(*maps.shape[:-2], *small.shape[-2:])
