"""The words of the miniature world and what they stand for: plain data, known to all that read, draw or judge it."""

SIDE = 64  # pixels of a scene's side
KINDS = ("ball", "box", "triangle", "star", "heart", "moon", "house", "car", "fish", "tree")
COLORS = {
    "red": (214, 40, 44),
    "orange": (243, 134, 24),
    "yellow": (250, 214, 50),
    "green": (30, 140, 62),
    "blue": (40, 84, 212),
    "purple": (136, 52, 172),
    "pink": (248, 138, 190),
}
PATTERNS = ("plain", "striped")
SIZES = {"small": 20, "medium": 25, "large": 30}  # the longer side in pixels, give or take one
BACKGROUNDS = {  # (colour of the top row, colour of the bottom row)
    "grass": ((178, 208, 128), (128, 176, 92)),
    "sand": ((238, 218, 172), (214, 186, 130)),
    "sky": ((140, 198, 240), (206, 232, 250)),
    "night": ((22, 26, 58), (58, 60, 98)),
    "snow": ((226, 232, 240), (250, 252, 254)),
}
PLACES = {"grass": "on grass", "sand": "on sand", "sky": "in the sky", "night": "at night", "snow": "in the snow"}
RELATIONS = ("left of", "right of", "above", "below", "in front of", "behind")

# What an object is; the arrays of data/scenes.npz hold positions in these.
FIELDS = {"kind": KINDS, "color": tuple(COLORS), "pattern": PATTERNS, "size": tuple(SIZES)}

# Compositions that no training scene of mini-sd shows; judges and guides train on every composition.
HELD_OUT = frozenset(
    [
        ("ball", "purple"),
        ("box", "orange"),
        ("triangle", "pink"),
        ("star", "blue"),
        ("heart", "green"),
        ("moon", "red"),
        ("house", "yellow"),
        ("car", "purple"),
        ("fish", "red"),
        ("tree", "orange"),
    ]
)
