"""Captioned pictures: an emoji on a coloured background, and the words that describe it.

The glyphs are those of Noto Color Emoji (SIL OFL 1.1; Debian: fonts-noto-color-emoji). `glyphs.tsv` names
every drawable subject, `trained.txt` the subjects that the shipped weights know.
"""

import functools
import multiprocessing
import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
FONT_SIZE = 109  # the font has bitmaps of this size only
SIDE = 128  # side of a picture in pixels

GROUNDS = {
    "white": (255, 255, 255),
    "black": (24, 24, 28),
    "grey": (150, 150, 155),
    "blue": (66, 120, 220),
    "sky blue": (150, 205, 245),
    "green": (70, 160, 90),
    "yellow": (250, 215, 80),
    "orange": (245, 150, 60),
    "red": (215, 60, 60),
    "pink": (250, 180, 205),
    "purple": (130, 85, 185),
    "brown": (140, 100, 70),
}
# Side of the glyph, as a share of the picture's.
SIZES = {
    "small": 0.42,
    "": 0.66,
    "large": 0.9,
}
# Centre of the glyph, as shares of the picture's sides.
PLACES = {
    "": (0.5, 0.5),
    "on the left": (0.27, 0.5),
    "on the right": (0.73, 0.5),
    "at the top": (0.5, 0.27),
    "at the bottom": (0.5, 0.73),
}
WITHOUT_ARTICLE = ("grapes", "cherries", "french fries", "sushi", "bread", "cheese", "corn", "fire", "books")


@functools.cache
def glyphs():
    """Maps every subject's name to its character."""
    lines = (HERE / "glyphs.tsv").read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t") for line in lines)


def subjects(given=None):
    """The subjects in a file (one per line) or in a text separated by `|`. The default is `trained.txt`."""
    path = Path(given) if given else HERE / "trained.txt"
    names = path.read_text(encoding="utf-8").splitlines() if given is None or path.is_file() else given.split("|")
    unknown = [name for name in names if name not in glyphs()]
    if unknown:
        raise SystemExit(f"no glyph for {unknown}: glyphs.tsv lists what can be drawn")
    return names


def caption(subject, size="", place="", ground=None):
    """The words of a picture, e.g. "a small dog on the left on an orange background"."""
    words = f"{size} {subject}".strip()
    if subject not in WITHOUT_ARTICLE:
        words = with_article(words)
    if place:
        words += f" {place}"
    if ground:
        words += f" on {with_article(ground)} background"
    return words


def draw(rng, names):
    """One picture of a subject in `names` and its caption; `rng` is a `random.Random`."""
    subject = rng.choice(names)
    ground = rng.choice(list(GROUNDS))
    size = rng.choices(list(SIZES), [1, 3, 1])[0]
    place = "" if size == "large" else rng.choices(list(PLACES), [4, 1, 1, 1, 1])[0]
    # A caption without a background stands for white.
    named_ground = ground if ground != "white" or rng.random() < 0.5 else None
    return picture(rng, subject, size, place, ground), caption(subject, size, place, named_ground)


def picture(rng, subject, size, place, ground):
    """Draws the glyph on its background, its size jittered by 5 % and its place by 2 %."""
    side = round(SIDE * SIZES[size] * rng.uniform(0.95, 1.05))
    left, top = (round(SIDE * (at + rng.uniform(-0.02, 0.02)) - side / 2) for at in PLACES[place])
    glyph = square_glyph(glyphs()[subject]).resize((side, side), Image.LANCZOS)
    image = Image.new("RGB", (SIDE, SIDE), GROUNDS[ground])
    image.paste(glyph, (left, top), glyph)
    return image


def draw_many(count, names, seed, workers=1):
    """`count` pictures and their captions, the same for any number of `workers`."""
    jobs = [(f"{seed}-{index}", names) for index in range(count)]
    if workers == 1:
        return [draw_seeded(job) for job in jobs]
    # Spawned rather than forked, because torch's threads run in this process.
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        return pool.map(draw_seeded, jobs, chunksize=200)


def draw_seeded(job):
    seed, names = job
    return draw(random.Random(seed), names)


@functools.cache
def square_glyph(character):
    image = Image.new("RGBA", (170, 170), (0, 0, 0, 0))
    ImageDraw.Draw(image).text((10, 10), character, font=font(), embedded_color=True)
    image = image.crop(image.getbbox())
    side = max(image.size)
    square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


@functools.cache
def font():
    return ImageFont.truetype(FONT, FONT_SIZE)


def with_article(words):
    # "a unicorn": the sound decides. (The first weights were trained with "an unicorn" and draw both.)
    return ("an " if words[0] in "aeiou" and not words.startswith("uni") else "a ") + words
