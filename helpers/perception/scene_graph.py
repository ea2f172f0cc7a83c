"""Prompts as scene graphs: objects with their attributes, and relations between objects, found by a grammar.

What dense concept alignment compares with the picture: "red car", "car in front of mountain". Made for the captions of
the miniature world and good for plain English noun phrases, prepositions and verbs; it needs no model. Every word gets
a tag by lists, endings and its neighbours; the grammar reads the string of tags. Words of style ("oil painting, 4k")
between commas describe the picture, not a thing in it, and are left out.
"""

import re
from dataclasses import dataclass, replace
from functools import cache

from lark import Lark, Tree
from lark.exceptions import UnexpectedInput

from helpers.miniature.vocabulary import PLACES, RELATIONS


@dataclass(frozen=True)
class Object:
    """noun: "stop sign". attributes: ("red", "old"). [start, stop): characters of the phrase without article.

    count: how many the text says in a number above one; several things of one phrase stay one object, and the number
    stands in its phrase ("two cats").
    """

    noun: str
    attributes: tuple[str, ...]
    start: int
    stop: int
    count: int | None = None


@dataclass(frozen=True)
class SceneGraph:
    """objects, in the order of their first mention; relations: (subject's index, words, object's index).

    place: where the whole scene is ("on grass"), when the text says one of the miniature world's places.
    """

    text: str
    objects: tuple[Object, ...]
    relations: tuple[tuple[int, str, int], ...]
    place: str | None = None

    def phrase(self, index: int) -> str:
        """The words of an object as they stand in the text, without the article."""
        return self.text[self.objects[index].start : self.objects[index].stop]


PREPOSITIONS = (
    "to the left of", "to the right of", "on the left of", "on the right of", "on top of", "at the top of",
    "on the side of", "at the edge of", "in the middle of", "next to", "close to", "full of", "near", "beside", "under",
    "underneath", "beneath", "over", "inside", "outside", "into", "onto", "in", "on", "at", "by", "with", "without",
    "against", "along", "around", "across", "through", "from", "of", "off", "toward", "towards", "past", "down", "up",
    "among", "between", "for", "to", "like",
)  # fmt: skip
NUMBERS = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11,
    "twelve": 12, "a dozen": 12,
}  # fmt: skip
DETERMINERS = (
    "a pair of", "a couple of", "a group of", "a lot of", "a", "an", "the", "one", *NUMBERS, "several", "some", "many",
    "few", "his", "her", "its", "their", "my", "your", "our", "this", "that", "these", "those", "another", "each",
    "both",
)  # fmt: skip
VERBS = (
    "sits", "sit", "stands", "stand", "lies", "lie", "holds", "hold", "wears", "wear", "rides", "ride", "eats", "eat",
    "runs", "run", "walks", "walk", "jumps", "jump", "plays", "play", "hangs", "hang", "flies", "fly", "drinks",
    "looks", "look", "has", "have", "sleeps", "sleep", "carries", "carry", "pulls", "pull", "leans", "lean", "grows",
    "grow", "floats", "float", "swims", "swim", "crosses", "cross", "reads", "read", "drives", "drive", "watches",
    "parked", "covered", "filled", "surrounded", "topped", "made", "tied", "placed", "mounted", "attached", "seated",
    "dressed", "stacked", "painted", "decorated", "lined", "perched", "hung", "built",
)  # fmt: skip
ADVERBS = ("alone", "together", "very", "not", "there", "here", "away", "outdoors", "indoors")
ADJECTIVES = (
    "red", "green", "blue", "yellow", "orange", "purple", "pink", "black", "white", "brown", "gray", "grey", "beige",
    "gold", "silver", "dark", "light", "bright", "pale", "small", "little", "tiny", "medium", "large", "big", "huge",
    "giant", "tall", "short", "long", "wide", "narrow", "thin", "thick", "round", "square", "flat", "old", "young",
    "new", "ancient", "modern", "clean", "hot", "cold", "warm", "wet", "full", "open", "soft", "hard", "fresh", "ripe",
    "plain", "cute", "sad", "brick", "stone", "glass", "metal", "plastic", "leather", "steel", "concrete", "blond",
    "bare", "high", "low", "deep", "male", "female", "cozy",
)  # fmt: skip
LOOKS_LIKE_ADJECTIVE = re.compile(r"\w{2,}(ed|en|ful|ish|ous|less|ive|ic|al)|\w{2,}y")
NOUNS_ALL_THE_SAME = (
    "city", "baby", "lady", "boy", "key", "tray", "body", "story", "berry", "cherry", "strawberry", "puppy", "kitty",
    "pony", "donkey", "monkey", "turkey", "highway", "railway", "valley", "alley", "jersey", "toy", "bakery", "library",
    "kitchen", "garden", "chicken", "oven", "children", "men", "women", "hospital", "animal", "music", "bed", "shed",
    "seed", "sky", "butterfly", "candy", "honey", "penny", "subway", "family", "party", "fairy", "kitten", "olive",
    "fish", "dish", "canal", "medal", "cereal", "fabric", "traffic", "day", "bay", "hay", "pen", "country",
    "building", "ceiling", "wing", "ring", "king", "string", "painting", "clothing", "railing", "swing", "evening",
    "morning", "thing",
)  # fmt: skip
LISTS = ("with", "without", "has", "have", "of")  # what these words have before them has all that follows
STYLES = (
    "3d", "4k", "8k", "16k", "aesthetic", "anime", "art", "artstation", "artwork", "background", "black and white",
    "bokeh", "cartoon", "cgi", "cinematic", "close-up", "closeup", "colors", "colours", "depth of field", "detail",
    "detailed", "details", "drawing", "dslr", "film", "focus", "hd", "hdr", "hyperrealistic", "illustration",
    "lighting", "macro", "masterpiece", "minimalist", "monochrome", "painting", "photo", "photograph", "photography",
    "photorealistic", "portrait", "poster", "quality", "realistic", "render", "rendering", "resolution", "sharp",
    "shot", "sketch", "style", "surreal", "uhd", "unreal engine", "view", "vintage", "wallpaper", "watercolor",
    "watercolour",
)  # fmt: skip
_SMALL = "|".join(map(re.escape, (*DETERMINERS, *PREPOSITIONS)))
# a part between commas is of style when it ends in such a word, without article or preposition; or names its maker
STYLE = re.compile(
    rf"\s*(?:(?:(?!(?:{_SMALL})\s)[\w'-]+\s+)*(?:{'|'.join(STYLES)})|trending on\s.*|by\s(?!(?:{_SMALL})\s).*)\s*"
)
MANNER = re.compile(r"(?:^|(?<=[\s,]))in (?:the )?style of\s[^,.;!]*", re.IGNORECASE)

# One letter per word. Determiner, Adjective, Noun, Side, Preposition, Be, Who, Verb, inG, adveRb, and (C), comma (K),
# pLace, full sTop; neighbours turn an adjective after "is" into a Quality.
LEXICON = {
    "L": tuple(PLACES.values()), "D": DETERMINERS, "S": RELATIONS, "P": PREPOSITIONS,
    "B": ("is", "are", "was", "were", "be"),
    "W": ("who", "which"), "C": ("and", "while"), "R": ADVERBS, "V": VERBS, "A": ADJECTIVES, "N": NOUNS_ALL_THE_SAME,
    "K": (",",), "T": (".", "!", ";"),
}  # fmt: skip
BY_NEIGHBOURS = (
    (r"(?<=A)C(?=A+N)", "R"),  # a black and white photograph
    (r"(?<=[DPVG])R(?=N)", "A"),  # with curly hair
    (r"(?<=D)N(?=A+N)", "A"),  # a single bright lamp
    (r"(?<=[DA])[GV](?=[AGV]*N)", "A"),  # a sleeping dog, a parked car
    (r"(?<=[DA])G(?![ADGNPRV])", "N"),  # a crowded crossing
    (r"G", "V"),  # a dog sleeping
    (r"(?<=N)N(?=D)", "V"),  # a bear catches a fish
    (r"(?<=[NK])A(?=P)", "V"),  # a duck, followed by ducklings
    (r"(?<=N)D(?=[BV])", "W"),  # a dog that is
    (r"(?<=B)A(?!R*[AN])", "Q"),  # the dog is black
    (r"(?<=BR)A(?!R*[AN])", "Q"),  # the dog is very black
    (r"(?<=Q[CK])A(?!R*[AN])", "Q"),  # the dog is black and small
    (r"(?<=Q[CK]R)A(?!R*[AN])", "Q"),  # the dog is black and very small
    (r"A(?!R*[AN])", "N"),  # an orange on a plate
    (r"D(?!D*R*[AN])", "N"),  # this is a dog, one of them
)
GRAMMAR = r"""
    start: sentence ((STOP+ | LIST) sentence)* STOP*
    sentence: group clause* PLACE?
    group: PHRASE (LIST PHRASE)*
    clause: MORE? (LINK group? | QUALITY)

    PHRASE: /D*(R*A)*N+/
    LINK: /[WBRVSP]+/
    QUALITY.1: /W?BR*Q([KC]+R*Q)*/
    LIST: /[KC]+(?=[DAN])/
    MORE: /[KC]+(?=[WBRVSP])/
    PLACE: /K?L/
    STOP: /T/
"""


@dataclass(frozen=True)
class _Word:
    text: str
    start: int
    stop: int


@cache
def _reader() -> tuple[re.Pattern, dict[str, str], Lark]:
    """What finds the words of the lists (the longest first) and all others, their tags, and the parser of the tags."""
    tags = {word: tag for tag, words in LEXICON.items() for word in words}
    known = "|".join(re.escape(word) for word in sorted(tags, key=len, reverse=True))
    return re.compile(rf"(?:{known})(?!\w)|[\w'-]+"), tags, Lark(GRAMMAR, parser="lalr")


def _tag(text: str) -> tuple[list[_Word], str]:
    """The words of a text and a letter for each."""
    finder, tags, _ = _reader()
    words = [_Word(match[0], *match.span()) for match in finder.finditer(text.lower())]

    def guess(word: str) -> str:
        if word.isdecimal():
            return "D"
        if word.endswith("ing"):
            return "G"
        if word.endswith("ly"):
            return "R"
        return "A" if LOOKS_LIKE_ADJECTIVE.fullmatch(word) else "N"

    letters = "".join(tags.get(word.text) or guess(word.text) for word in words)
    for pattern, letter in BY_NEIGHBOURS:
        letters = re.sub(pattern, letter, letters)
    return words, letters


def _without_style(text: str) -> str:
    """The text with spaces where it speaks of the picture's style; all of it when nothing else would be left."""
    plain = MANNER.sub(lambda match: " " * len(match[0]), text)
    plain = re.sub(
        r"[^,.;!]+", lambda match: " " * len(match[0]) if STYLE.fullmatch(match[0].lower()) else match[0], plain
    )
    plain = re.sub(r"^[\s,]+|,(?=\s*(?:[,.;!]|$))", lambda match: " " * len(match[0]), plain)
    return plain if re.search(r"\w", plain) else text


def parse(text: str) -> SceneGraph:
    """The scene graph of a prompt. ValueError when it is not made of noun phrases, prepositions and simple verbs."""
    words, letters = _tag(_without_style(text))
    try:
        tree = _reader()[2].parse(letters)
    except UnexpectedInput as error:
        at = words[error.pos_in_stream].start if 0 <= (error.pos_in_stream or 0) < len(words) else len(text)
        raise ValueError(
            f"the prompt {text!r} cannot be read from {text[at : at + 20]!r} on: write noun phrases joined by "
            "prepositions, simple verbs, commas and 'and'"
        ) from None
    return _Interpreter(text, words, letters).graph(tree)


def _parts(clause: Tree) -> dict:
    return {getattr(part, "type", "group"): part for part in clause.children}


class _Interpreter:
    """Collects objects and relations from the tree of one text."""

    def __init__(self, text: str, words: list[_Word], letters: str):
        self.text, self.words, self.letters = text, words, letters
        self.objects: list[Object] = []
        self.relations: list[tuple[int, str, int]] = []
        self.place: str | None = None

    def graph(self, tree: Tree) -> SceneGraph:
        for part in tree.children:
            if isinstance(part, Tree):
                self._sentence(part)
        return SceneGraph(self.text, tuple(self.objects), tuple(self.relations), self.place)

    def _sentence(self, sentence: Tree) -> None:
        group, *rest = sentence.children
        if rest and getattr(rest[-1], "type", None) == "PLACE":
            self.place = self._words(rest.pop())[-1].text
            if self._words(group.children[0])[-1].text == "scene":  # "the scene is in the snow"
                return
        subjects = last = self._group(group)
        for clause, following in zip(rest, [*rest[1:], None]):
            parts = _parts(clause)
            link = parts.get("LINK", parts.get("QUALITY"))
            about = subjects if "MORE" in parts or (self._finite(link) and not link.value.startswith("W")) else last
            if "QUALITY" in parts:
                self._describe(about, [w.text for w, tag in zip(self._words(link), link.value) if tag == "Q"])
            elif "group" in parts:
                last = self._group(parts["group"])
                name = self._name(link)
                # "left of a ball, a box and a car" lists what else there is; "with a ball and a box" means both
                objects = last[:1] if name in (*RELATIONS, "of") else last
                about = about[-1:] if name == "of" else about
                if len(last) > 1 and self._begins(link, following):
                    objects = objects[: len(last) - 1]
                    subjects = last[-1:] if self._finite(link) else [*subjects, last[-1]]
                last = last[-1:]  # what follows a list is said of its last thing
                self.relations += [(a, name, b) for a in about for b in objects if a != b]

    def _begins(self, link, following: Tree | None) -> bool:
        """Does the last thing that `link` lists begin something of its own? In "a cat wearing a hat and a dog wearing a
        coat" and "a girl holds a bag and a boy holds a ball" it does; "with a lamp and a vase on a table" is a list."""
        parts = _parts(following) if following else {}
        after = parts.get("LINK", parts.get("QUALITY"))
        if after is None or "MORE" in parts or after.value.startswith("W"):
            return False
        if self._finite(after):
            return self._finite(link)
        name = self._name(link)
        return "V" in after.value or name == self._name(after) or name.split()[-1] not in LISTS

    def _finite(self, link) -> bool:
        verb = next((w.text for w, tag in zip(self._words(link), link.value) if tag in "BV"), "")
        return verb.endswith("s") or verb in ("are", "were")

    def _name(self, link) -> str:
        return " ".join(w.text for w, tag in zip(self._words(link), link.value) if tag in "VSP") or "is"

    def _group(self, group: Tree) -> list[int]:
        return [self._object(part) for part in group.children if part.type == "PHRASE"]

    def _object(self, phrase) -> int:
        """The object that a noun phrase names: a new one, or after "the" an earlier one that fits."""
        words, tags = self._words(phrase), phrase.value
        definite, count, start = words[0].text == "the", None, words[0].start
        while tags[0] == "D":
            number, words, tags = words[0], words[1:], tags[1:]
            many = int(number.text) if number.text.isdecimal() else NUMBERS.get(number.text, 1)
            count, start = (many, number.start) if many > 1 else (None, words[0].start)
        noun = " ".join(w.text for w, tag in zip(words, tags) if tag == "N")
        attributes = tuple(w.text for w, tag in zip(words, tags) if tag == "A")
        for k, known in enumerate(self.objects):
            if definite and known.noun == noun and set(attributes) <= set(known.attributes):
                return k
        self.objects.append(Object(noun, attributes, start, words[-1].stop, count))
        return len(self.objects) - 1

    def _describe(self, about: list[int], qualities: list[str]) -> None:
        for k in about:
            self.objects[k] = replace(self.objects[k], attributes=(*self.objects[k].attributes, *qualities))

    def _words(self, token) -> list[_Word]:
        return self.words[token.start_pos : token.end_pos]
