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
from dataclasses import dataclass
from itertools import chain

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from helpers.backbones.backbone import Backbone
from helpers.perception.crops import crop, square, union
from helpers.perception.detector import MaskDetector
from helpers.perception.scene_graph import SceneGraph, parse
from helpers.perception.segmenter import Segmenter
from helpers.perception.similarity import Similarity
from helpers.sampling.cost import Cost
from helpers.sampling.hooks import Ctx, EnergyGuidance, Info, Job, Recurrence, Window
from helpers.sampling.settings import setting
from helpers.sampling.strength import Raw, Strength, Unit

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
    """One concept per object that has attributes or is counted ("two cats")."""
    things = enumerate(graph.objects)
    return [Concept(image, texts(graph, i), (i,)) for i, thing in things if thing.attributes or thing.count]


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


@dataclass
class State:
    """What DCA knows of a run's n images, whose prompts name at most N objects.

    phrases: of every image's objects. concepts: kind -> of every image. texts: concept -> (d,), w_i or w_j. names
    (n, N, d), asked (n, N) bool: the different phrases as the segmenter reads them, and which there are; None without a
    segmenter, at presence weight 0.
    """

    similarity: Similarity
    detector: Callable
    segmenter: Segmenter | None
    phrases: list[list[str]]
    concepts: dict[str, list[list[Concept]]]
    texts: dict[Concept, torch.Tensor]
    names: torch.Tensor | None = None
    asked: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class DCA(EnergyGuidance):
    """eps' = eps + strength(grad of weight * (w_attribute L_attribute + w_relation L_relation + w_presence L_presence))

    similarity: `helpers.perception.similarity.Similarity` or anything with its `embed`, `side` and call. detector: see
    `helpers.perception.detector`; None boxes the segmenter's masks. segmenter: `helpers.perception.segmenter.Segmenter`
    or anything with its `embed` and call, for L_presence, which at weight 0 is left out. None loads what the backbone
    names, if it is needed. Defaults are those found on the miniature's dev split; `paper` has the paper's.
    """

    similarity: Similarity | None = None
    detector: Callable | None = None
    segmenter: Segmenter | None = None
    weight: float = setting(60.0, low=0, high=1e6)  # lambda_DCA; paper 60
    attribute_weight: float = setting(1.0, low=0, high=1e4)  # w_attribute; paper 1
    relation_weight: float = setting(7.0, low=0, high=1e4)  # w_relation; paper 1
    presence_weight: float = setting(1.0, low=0, high=1e4)  # w_presence; not the paper's
    concept: str = setting("phrase", choices=tuple(CONCEPTS))  # how an object's text is embedded
    relation: str = setting("turned", choices=tuple(RELATIONS))  # how a relation's text is embedded; paper stated
    relation_window: Window = Window(0.0, 0.15)  # noqa: RUF009 (where L_relation counts, inside the window; paper all)
    window: Window = Window(0.0, 0.7)  # noqa: RUF009 (frozen)
    strength: Strength = Unit(0.15)  # noqa: RUF009
    recurrence: Recurrence = Recurrence(9, Window(0.0, 0.15), noise=False)  # noqa: RUF009

    @classmethod
    def paper(cls, **given) -> "DCA":
        """Two losses of weight 1, relations as they are stated, the weighted gradient as it is, every step once; DADG
        says no more."""
        theirs = {"relation_weight": 1.0, "presence_weight": 0.0, "relation": "stated", "relation_window": Window()}
        return cls(**theirs | {"strength": Raw(), "recurrence": Recurrence()} | given)

    @property
    def weights(self) -> dict[str, float]:
        return {"attribute": self.attribute_weight, "relation": self.relation_weight, "presence": self.presence_weight}

    def setup(self, job: Job) -> State:
        return self.read([prompt.text for prompt in job.prompts], job.backbone)

    def read(self, prompts: Sequence[str], backbone: Backbone | None = None) -> State:
        """Parse the prompts and embed what they say: of whose pictures `losses` tells. backbone: names the models that
        were not given. ValueError for a prompt that says nothing to align."""
        similarity, detector, segmenter = self._models(backbone)
        graphs = [parse(prompt) for prompt in prompts]
        phrases = [[graph.phrase(i) for i in range(len(graph.objects))] for graph in graphs]
        concepts = {
            "attribute": [attributes(k, graph, CONCEPTS[self.concept]) for k, graph in enumerate(graphs)],
            "relation": [relations(k, graph, RELATIONS[self.relation]) for k, graph in enumerate(graphs)],
        }
        for k, *kinds in zip(range(len(graphs)), *concepts.values()):
            if not any(kinds) and (segmenter is None or not phrases[k]):
                raise ValueError(
                    f"the prompt {prompts[k]!r} states no attribute and no relation: DCA has nothing to align; say "
                    "one, such as 'a red car'"
                )
        every = list(chain(*chain(*concepts.values())))
        words = list(dict.fromkeys(text for concept in every for text in concept.texts + concept.unlike))
        known = dict(zip(words, similarity.embed(words), strict=True)) if words else {}
        texts = {concept: _embedding(concept, known) for concept in every}
        state = State(similarity, detector, segmenter, phrases, concepts, texts)
        if segmenter is not None:
            rows = [list(dict.fromkeys(row)) for row in phrases]  # of two alike, one place is asked for
            names = list(dict.fromkeys(chain(*rows)))
            known = dict(zip(names, segmenter.embed(names), strict=True))
            state.names = pad_sequence([torch.stack([known[name] for name in row]) for row in rows], batch_first=True)
            state.asked = pad_sequence([torch.ones(len(row), dtype=torch.bool) for row in rows], batch_first=True)
        return state

    def _models(self, backbone: Backbone | None) -> tuple[Similarity, Callable, Segmenter | None]:
        """The models that are given, and the backbone's in place of those that are not."""
        similarity, segmenter = self.similarity, self.segmenter
        needed = self.presence_weight > 0 or self.detector is None
        if backbone is None and (similarity is None or (needed and segmenter is None)):
            raise ValueError("DCA lacks models and no backbone names them: give it similarity and segmenter")
        if similarity is None:
            similarity = Similarity.load(backbone.guide("similarity"), backbone.device)
        if segmenter is None and needed:
            segmenter = Segmenter.load(backbone.guide("segmenter"), backbone.device)
        detector = MaskDetector(segmenter) if self.detector is None else self.detector
        return similarity, detector, segmenter if self.presence_weight > 0 else None

    def energy(self, ctx: Ctx, state: State) -> tuple[torch.Tensor, Info]:
        """L_DCA (B,). info: attribute, relation and, with a segmenter, presence (B,), the losses; boxes (B, N, 4) as
        fractions of the image's sides and scores (B, N) of the objects, 0 where absent."""
        terms, boxes, scores = self.losses(state, ctx.image, ctx.index, ctx.cost)
        off = () if ctx in self.relation_window else ("relation",)
        loss = sum(self.weights[kind] * value for kind, value in terms.items() if kind not in off)
        height, width = ctx.image.shape[-2:]
        shown = boxes / boxes.new_tensor([width, height, width, height]) * (scores >= CERTAIN)[..., None]
        return loss, {kind: value.detach() for kind, value in terms.items()} | {"boxes": shown, "scores": scores}

    @staticmethod
    def losses(
        state: State, image: torch.Tensor, index: list[int], cost: Cost
    ) -> tuple[Info, torch.Tensor, torch.Tensor]:
        """Of pictures (B, 3, H, W) in [0, 1], made or in the making, of the prompts at `index`: each loss (B,) by its
        name, boxes (B, N, 4) in pixels, the whole picture where an object is absent, and scores (B, N). What they cost
        is added to `cost`."""
        height, width = image.shape[-2:]
        phrases = [state.phrases[k] for k in index]
        boxes, scores = state.detector(image.detach(), phrases)
        cost.auxiliary += len(index)
        fewer = max(map(len, state.phrases)) - scores.size(1)  # the images of another batch may have more objects
        boxes, scores = F.pad(boxes, [0, 0, 0, fewer]), F.pad(scores, [0, fewer])
        boxes = torch.where((scores >= CERTAIN)[..., None], boxes, boxes.new_tensor([0, 0, width, height]))
        chosen = {
            kind: [(row, concept) for row, k in enumerate(index) for concept in concepts[k]]
            for kind, concepts in state.concepts.items()
        }
        every, sizes = list(chain(*chosen.values())), [len(part) for part in chosen.values()]
        rows = torch.tensor([row for row, _ in every], dtype=torch.long, device=image.device)
        fits = cosines(state, image, [concept for _, concept in every], rows, boxes)
        cost.auxiliary += len(every)
        found = {
            kind: _mean(1 - part, of, len(index))
            for kind, part, of in zip(chosen, fits.split(sizes), rows.split(sizes))
        }
        if state.segmenter is not None:
            cost.auxiliary += len(index)
            logits = state.segmenter(image, state.names[index])
            found["presence"] = presence(logits, state.asked[index].to(logits.device))
        return found, boxes, scores


def cosines(
    state: State, image: torch.Tensor, concepts: Sequence[Concept], rows: torch.Tensor, boxes: torch.Tensor
) -> torch.Tensor:
    """(K,): how well each concept fits its window in image[rows[k]]."""
    if not concepts:
        return image.new_zeros(0)
    height, width = image.shape[-2:]
    ends = torch.tensor([(c.objects[0], c.objects[-1]) for c in concepts], device=image.device)
    windows = square(union(boxes[rows, ends[:, 0]], boxes[rows, ends[:, 1]]), height, width)
    seen = state.similarity(crop(image, windows, rows, state.similarity.side))
    texts = torch.stack([state.texts[concept] for concept in concepts])
    return (seen * texts.to(seen)).sum(1)


def _embedding(concept: Concept, words: dict[str, torch.Tensor]) -> torch.Tensor:
    """(d,): w_i or w_j of the texts' embeddings."""
    wanted, unlike = (
        torch.stack([words[text] for text in texts]).mean(0) if texts else 0.0
        for texts in (concept.texts, concept.unlike)
    )
    return F.normalize(wanted - unlike, dim=0) if concept.unlike else wanted


def _mean(values: torch.Tensor, rows: torch.Tensor, n: int) -> torch.Tensor:
    """(n,): mean of the values (K,) that belong to each row, 0 where none does."""
    count = torch.bincount(rows, minlength=n).clamp(min=1)
    return values.new_zeros(n).index_add(0, rows, values) / count
