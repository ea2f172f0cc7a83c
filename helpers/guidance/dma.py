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

from collections.abc import Callable, Sequence
from dataclasses import asdict

import torch
import torch.nn.functional as F

from helpers.conditions import Drag, decode_mask
from helpers.guidance.base import Ctx, Guidance, Info, Job, Recurrence, Window
from helpers.guidance.strength import Raw, Strength
from helpers.inversion import Trajectory, check, invert

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


class DMA(Guidance):
    """eps' = eps + strength(grad of weight * (w_disp L_disp + w_app L_app + w_sem L_sem)).

    flow: flow(source, target) -> (B, 2, H, W) in pixels; clicks: clicks(images, points (B, k, 2) in pixels) -> logits
    (B, H, W); features: features(images) -> unit-norm (B, d, h, w); see `helpers.perception`. drags: one per image, in
    the order of the prompts; a drag's own mask is preferred to the segmenter's. trajectory: the sources', when they
    were inverted or recorded before; otherwise `setup` inverts them. displacement_weight, appearance_weight,
    semantic_weight: w of the terms (displacement alone is the paper's ablation). field: `rigid` or `decaying`. spread:
    s of the Gaussians, in diagonals. margin: latent pixels by which the moved region is widened beyond those that it
    touches; what else lies there is drawn anew, and suffers. blend: when the background is kept.
    """

    signed = ("flow", "reference")

    def __init__(
        self,
        flow,
        clicks,
        features,
        drags: Sequence[Drag],
        trajectory: Trajectory | None = None,
        weight: float = 90.0,
        displacement_weight: float = 1.0,
        appearance_weight: float = 1.0,
        semantic_weight: float = 0.1,
        field: Callable = rigid,
        spread: float = 0.1,
        margin: int = 0,
        blend: Window = Window(),  # noqa: B008 (frozen)
        window: Window = Window(0.0, 0.7),  # noqa: B008 (frozen)
        strength: Strength = Raw(),  # noqa: B008 (frozen)
        recurrence: Recurrence = Recurrence(),  # noqa: B008 (frozen)
    ):
        self.flow, self.clicks, self.features, self.drags = flow, clicks, features, list(drags)
        self.trajectory, self.weight = trajectory, weight
        self.weights = {
            "displacement": displacement_weight,
            "appearance": appearance_weight,
            "semantic": semantic_weight,
        }
        self.field, self.spread, self.margin, self.blend = field, spread, margin, blend
        self.window, self.strength, self.recurrence = window, strength, recurrence

    def settings(self) -> dict:
        field = {"field": self.field.__name__, "spread": self.spread}
        return super().settings() | self.weights | field | {"margin": self.margin, "blend": asdict(self.blend)}

    def setup(self, job: Job) -> None:
        backbone = job.backbone
        self._check(job)
        self._source = torch.stack([drag.image() for drag in self.drags]).to(backbone.device)
        if self.trajectory is None:
            prompts = [drag.prompt for drag in self.drags]
            self.trajectory = invert(backbone, self._source, prompts, job.steps, cost=job.cost)
        check(self.trajectory, job)
        masks, flows = zip(*(self._reference(n, job) for n in range(len(self.drags))), strict=True)
        self._mask, self._reference_flow = torch.stack(masks), torch.stack(flows)
        self._features = torch.cat([self.features(part) for part in self._source.split(8)])
        job.cost.auxiliary += len(self.drags)
        self._seen = (self._mask & inside(self._reference_flow)).float()
        region = (self._mask | splat(self._mask, self._reference_flow))[:, None].float()
        region = F.adaptive_max_pool2d(region, backbone.latent_shape[1:])
        self._region = F.max_pool2d(region, 2 * self.margin + 1, 1, self.margin) > 0

    def start(self, x_t: torch.Tensor, index: list[int]) -> torch.Tensor:
        return self.trajectory.latents[0, index].to(x_t)

    def energy(self, ctx: Ctx) -> tuple[torch.Tensor, Info]:
        """L_DMA (B,). info: the terms (B,); flow and reference (B, 2, h, w) in pixels; mask (B, h, w); error
        (B, h, w) in [0, 1], |I - W| on the object."""
        ctx.cost.auxiliary += 2 * len(ctx.index)
        source, wanted, seen = self._source[ctx.index], self._reference_flow[ctx.index], self._seen[ctx.index]
        image = ctx.image.float()
        found = self.flow(source, image)
        warped = warp(image, wanted)
        terms = {
            "displacement": displacement(found, wanted, seen),
            "appearance": appearance(warped, source, seen),
            "semantic": semantic(self.features(warped), self._features[ctx.index], seen),
        }
        loss = sum(weight * terms[name] for name, weight in self.weights.items())
        info = {name: value.detach() for name, value in terms.items()}
        info["flow"], info["reference"] = _shown(found.detach()), _shown(wanted)
        info["mask"] = _shown(self._mask[ctx.index].float())
        info["error"] = _shown((warped.detach() - source).abs().mean(1) * seen)
        return loss, info

    def after(self, x_prev: torch.Tensor, ctx: Ctx) -> torch.Tensor:
        """x_{t-1}, outside the moved region the source's."""
        if ctx not in self.blend:
            return x_prev
        return torch.where(self._region[ctx.index], x_prev, self.trajectory.latents[ctx.i + 1, ctx.index].to(x_prev))

    def _reference(self, n: int, job: Job) -> tuple[torch.Tensor, torch.Tensor]:
        """Mask (H, W) bool and reference flow (2, H, W) of drag n: its objects together."""
        drag, source = self.drags[n], self._source[n : n + 1]
        handles, targets = drag.points()
        if drag.mask is not None:
            objects = {torch.from_numpy(decode_mask(drag.mask)): list(range(len(handles)))}
        else:
            objects = self._objects(drag, source, handles, job)
        union, flow = torch.zeros(drag.size, dtype=torch.bool), torch.zeros(2, *drag.size)
        for mask, on_it in objects.items():
            mask = mask & ~union
            flow += self.field(mask, handles[on_it], (targets - handles)[on_it], self.spread)
            union |= mask
        return union.to(source.device), flow.to(source.device)

    def _objects(self, drag, source, handles, job) -> dict[torch.Tensor, list[int]]:
        """Mask of every object that is dragged -> its handles: one mask each, handles of one object share theirs."""
        height, width = drag.size
        points = handles.clamp(min=0).minimum(torch.tensor([width - 1.0, height - 1.0])).to(source.device)
        alone = self.clicks(source.expand(len(points), -1, -1, -1), points[:, None]).cpu() > 0
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
        return {(alone[g[0]] if len(g) == 1 else self.clicks(source, points[g][None]).cpu()[0] > 0): g for g in groups}

    def _check(self, job: Job) -> None:
        if len(self.drags) != len(job.prompts):
            raise ValueError(f"DMA has {len(self.drags)} drags for {len(job.prompts)} prompts: give one per image")
        height, width = job.backbone.image_size
        for k, (drag, prompt) in enumerate(zip(self.drags, job.prompts, strict=True)):
            if drag.prompt != prompt.text:
                raise ValueError(
                    f"image {k} is drawn from {prompt.text!r} but its drag is for {drag.prompt!r}: "
                    "pass the drags in the order of the prompts"
                )
            if drag.size != (height, width):
                raise ValueError(
                    f"the source image of {drag.prompt!r} is {drag.size[0]}x{drag.size[1]}, the backbone draws "
                    f"{height}x{width}: resize the source"
                )


def _shown(maps: torch.Tensor) -> torch.Tensor:
    """(B, [C,] H, W) -> the same, no larger than a Trace needs."""
    factor = -(-max(maps.shape[-2:]) // SHOWN)
    if factor == 1:
        return maps
    small = F.avg_pool2d(maps.reshape(1, -1, *maps.shape[-2:]), factor)
    return small.view(*maps.shape[:-2], *small.shape[-2:])
