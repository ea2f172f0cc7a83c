"""DCA, dense concept alignment: prompts in DADG (Wang et al., CVPR 2025). The loss formulas are *reconstructed*.

A parser reads the prompt as a scene graph; a detector finds its objects in the decoded x0_hat; CLIP compares crops with
concepts. With unit embeddings v of crops and w of texts, A the objects that have attributes, R the relations:

    L_attribute = 1/|A| sum_i [1 - <w_i, v_i>]    v_i: window around the box of object i
    L_relation  = 1/|R| sum_j [1 - <w_j, v_j>]    v_j: window around the union of the boxes of subject and object
    L_DCA       = L_attribute + L_relation,       weight 60, first 70 % of the steps

Boxes carry no gradient, the pixels in the windows do. An object that the detector does not find has no window: its
concepts are then compared with the whole picture, which asks for the object to appear somewhere.

The paper writes an attribute's embedding as w_a (+) w_c, "concatenation of property and category"; two vectors beside
each other do not fit an image's. Here it is either the embedding of the whole phrase, "striped red car", or (`parts`)
the mean of the embeddings of its words: <mean w, v> is the mean of the cosines, what <w_a (+) w_c, v (+) v> amounts to.

Most of what "red car left of blue fish" says is said by "blue fish left of red car", too. So a relation's w_j is either
the embedding of its text (`stated`), or (`turned`) the direction from the text with its nouns exchanged to the text, as
StyleGAN-NADA (Gal et al. 2022) takes directions between texts: what is left is who stands where.

Both losses look at where a detector says an object is, and it says so of a blot that two objects share. With s_i(p) the
probability that pixel p shows object i (a text-prompted segmenter), N objects and P_i the pixels that are best at it, a
third loss, *ours*, asks for a place where each is seen alone, as Attend-and-Excite (Chefer et al. 2023) asks that no
token be neglected:

    L_presence  = 1/N sum_i mean_{p in P_i} -log [s_i(p) prod_{j != i} (1 - s_j(p))]
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from helpers.cost import Cost
from helpers.guidance.base import Ctx, Guidance, Info, Job, Recurrence, Window
from helpers.guidance.strength import Raw, Strength
from helpers.perception.crops import crop, square, union
from helpers.perception.scene_graph import SceneGraph, parse

CERTAIN = 0.1  # a detection with a lower score counts as absent
EXTENT = 0.015  # share of the picture that P_i covers (60 px of 64 x 64, the smallest objects have three times that)


@dataclass(frozen=True)
class Concept:
    """texts: what is compared, by the mean of their embeddings. objects: one of an image's (attribute) or two. unlike:
    the text from which the direction is taken to the texts, if any."""

    image: int
    texts: tuple[str, ...]
    objects: tuple[int, ...]
    unlike: tuple[str, ...] = ()


def phrase(graph: SceneGraph, i: int) -> tuple[str, ...]:
    """The whole phrase of an object: ("striped red car",)."""
    return (graph.phrase(i),)


def parts(graph: SceneGraph, i: int) -> tuple[str, ...]:
    """Its attributes and its noun, each by itself: ("striped", "red", "car")."""
    return (*graph.objects[i].attributes, graph.objects[i].noun)


CONCEPTS = {"phrase": phrase, "parts": parts}


def attributes(image: int, graph: SceneGraph, texts: Callable) -> list[Concept]:
    """One concept per object that has attributes."""
    return [Concept(image, texts(graph, i), (i,)) for i, thing in enumerate(graph.objects) if thing.attributes]


def stated(one: str, words: str, other: str) -> tuple[str, ...]:
    """No other text."""
    return ()


def turned(one: str, words: str, other: str) -> tuple[str, ...]:
    """The relation the other way round: ("striped blue fish left of red car",)."""
    return (f"{other} {words} {one}",)


RELATIONS = {"stated": stated, "turned": turned}


def relations(image: int, graph: SceneGraph, unlike: Callable) -> list[Concept]:
    """One concept per relation, in words: "red car left of striped blue fish"."""
    return [
        Concept(image, (f"{one} {words} {other}",), (i, j), unlike(one, words, other))
        for i, words, j in graph.relations
        for one, other in [(graph.phrase(i), graph.phrase(j))]
    ]


def presence(logits: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    """L_presence, (B,): logits (B, N, H, W) of the objects' masks, asked (B, N) bool: which of them an image has."""
    shown, hidden = F.logsigmoid(logits), F.logsigmoid(-logits) * asked[..., None, None]
    alone = shown + hidden.sum(1, keepdim=True) - hidden
    best = alone.flatten(2).topk(max(1, round(EXTENT * alone[0, 0].numel())), dim=2).values.mean(2)
    return -(best * asked).sum(1) / asked.sum(1).clamp(min=1)


class DCA(Guidance):
    """eps' = eps + strength(grad of weight * (w_attribute L_attribute + w_relation L_relation + w_presence L_presence))

    similarity: `helpers.perception.similarity.Similarity` or anything with its `embed`, `side` and call. detector: see
    `helpers.perception.detector`. segmenter: `helpers.perception.segmenter.Segmenter` or anything with its `embed` and
    call, for L_presence; without one, that loss is left out. concept, relation: how the texts are embedded, names in
    CONCEPTS and RELATIONS. relation_window: where L_relation counts, inside the window.
    """

    def __init__(
        self,
        similarity,
        detector,
        segmenter=None,
        weight: float = 60.0,
        attribute_weight: float = 1.0,
        relation_weight: float = 1.0,
        presence_weight: float = 0.0,
        concept: str = "phrase",
        relation: str = "stated",
        relation_window: Window = Window(),  # noqa: B008 (frozen)
        window: Window = Window(0.0, 0.7),  # noqa: B008 (frozen)
        strength: Strength = Raw(),  # noqa: B008 (frozen)
        recurrence: Recurrence = Recurrence(),  # noqa: B008 (frozen)
    ):
        for kind, name, known in (("concept", concept, CONCEPTS), ("relation", relation, RELATIONS)):
            if name not in known:
                raise ValueError(f"unknown {kind} {name!r}: use one of {', '.join(known)}")
        if presence_weight and segmenter is None:
            raise ValueError(f"presence_weight={presence_weight:g} needs masks: give DCA a segmenter, or weight 0")
        self.similarity, self.detector, self.segmenter, self.weight = similarity, detector, segmenter, weight
        self.concept, self.relation = concept, relation
        self.weights = {"attribute": attribute_weight, "relation": relation_weight, "presence": presence_weight}
        self.relation_window, self.window = relation_window, window
        self.strength, self.recurrence = strength, recurrence

    def settings(self) -> dict:
        texts = {"concept": self.concept, "relation_text": self.relation}
        return super().settings() | self.weights | texts | {"relation_window": asdict(self.relation_window)}

    def setup(self, job: Job) -> None:
        self.read([prompt.text for prompt in job.prompts])

    def read(self, prompts: Sequence[str]) -> None:
        """Parse the prompts and embed what they say: whose pictures `losses` takes."""
        graphs = [parse(prompt) for prompt in prompts]
        self._phrases = [[graph.phrase(i) for i in range(len(graph.objects))] for graph in graphs]
        self._most = max(map(len, self._phrases))
        texts, unlike = CONCEPTS[self.concept], RELATIONS[self.relation]
        self._concepts = {
            "attribute": [attributes(k, graph, texts) for k, graph in enumerate(graphs)],
            "relation": [relations(k, graph, unlike) for k, graph in enumerate(graphs)],
        }
        empty = [k for k, *kinds in zip(range(len(graphs)), *self._concepts.values()) if not any(kinds)]
        if empty:
            raise ValueError(
                f"the prompt {prompts[empty[0]]!r} states no attribute and no relation: DCA has nothing to "
                "align; say one, such as 'a red car'"
            )
        every = list(chain.from_iterable(chain.from_iterable(self._concepts.values())))
        words = list(dict.fromkeys(text for concept in every for text in concept.texts + concept.unlike))
        self._words = dict(zip(words, self.similarity.embed(words), strict=True))
        if self.segmenter:
            rows = [list(dict.fromkeys(row)) for row in self._phrases]  # of two alike, one place is asked for
            names = list(dict.fromkeys(chain.from_iterable(rows)))
            known = dict(zip(names, self.segmenter.embed(names), strict=True))
            self._names = pad_sequence([torch.stack([known[name] for name in row]) for row in rows], batch_first=True)
            self._asked = pad_sequence([torch.ones(len(row), dtype=torch.bool) for row in rows], batch_first=True)

    def energy(self, ctx: Ctx) -> tuple[torch.Tensor, Info]:
        """L_DCA (B,). info: attribute, relation and, with a segmenter, presence (B,), the losses; boxes (B, N, 4) as
        fractions of the image's sides and scores (B, N) of the objects, 0 where absent; N is the largest number of
        objects in the run."""
        losses, boxes, scores = self.losses(ctx.image, ctx.index, ctx.cost)
        off = () if ctx in self.relation_window else ("relation",)
        loss = sum(self.weights[kind] * value for kind, value in losses.items() if kind not in off)
        height, width = ctx.image.shape[-2:]
        shown = boxes / boxes.new_tensor([width, height, width, height]) * (scores >= CERTAIN)[..., None]
        return loss, {kind: value.detach() for kind, value in losses.items()} | {"boxes": shown, "scores": scores}

    def losses(self, image: torch.Tensor, index: list[int], cost: Cost) -> tuple[Info, torch.Tensor, torch.Tensor]:
        """Of pictures (B, 3, H, W) in [0, 1], made or in the making, of the prompts at `index`: each loss (B,) by its
        name, boxes (B, N, 4) in pixels, the whole picture where an object is absent, and scores (B, N). What they cost
        is added to `cost`."""
        height, width = image.shape[-2:]
        phrases = [self._phrases[k] for k in index]
        boxes, scores = self.detector(image.detach(), phrases)
        cost.auxiliary += len(index)
        fewer = self._most - scores.size(1)  # the images of another batch may have more objects
        boxes, scores = F.pad(boxes, [0, 0, 0, fewer]), F.pad(scores, [0, fewer])
        boxes = torch.where((scores >= CERTAIN)[..., None], boxes, boxes.new_tensor([0, 0, width, height]))
        chosen = {kind: list(chain(*(concepts[k] for k in index))) for kind, concepts in self._concepts.items()}
        every = list(chain(*chosen.values()))
        cosines = self._cosines(image, every, [index.index(concept.image) for concept in every], boxes)
        cost.auxiliary += len(every)
        losses = {}
        for kind, part in zip(chosen, cosines.split([len(c) for c in chosen.values()])):
            losses[kind] = _mean(1 - part, [index.index(concept.image) for concept in chosen[kind]], len(index))
        if self.segmenter:
            cost.auxiliary += len(index)
            logits = self.segmenter(image, self._names[index])
            losses["presence"] = presence(logits, self._asked[index].to(logits.device))
        return losses, boxes, scores

    def _cosines(self, image, concepts: Sequence[Concept], rows: list[int], boxes: torch.Tensor) -> torch.Tensor:
        """(K,): how well each concept fits its window."""
        height, width = image.shape[-2:]
        of = torch.tensor(rows, device=image.device)
        ends = torch.tensor([(c.objects[0], c.objects[-1]) for c in concepts], device=image.device)
        windows = square(union(boxes[of, ends[:, 0]], boxes[of, ends[:, 1]]), height, width)
        seen = self.similarity(crop(image, windows, of, self.similarity.side))
        texts = torch.stack([self._embedding(concept) for concept in concepts])
        return (seen * texts.to(seen)).sum(1)

    def _embedding(self, concept: Concept) -> torch.Tensor:
        """(d,): w_i or w_j."""
        wanted, unlike = (
            torch.stack([self._words[t] for t in texts]).mean(0) if texts else 0.0
            for texts in (concept.texts, concept.unlike)
        )
        return F.normalize(wanted - unlike, dim=0) if concept.unlike else wanted


def _mean(values: torch.Tensor, rows: list[int], n: int) -> torch.Tensor:
    """(n,): mean of the values that belong to each row, 0 where none does."""
    of = torch.tensor(rows, dtype=torch.long, device=values.device)
    count = torch.bincount(of, minlength=n).clamp(min=1)
    return values.new_zeros(n).index_add(0, of, values) / count
