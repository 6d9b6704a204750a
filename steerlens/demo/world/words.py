"""The closed vocabulary of the world: who and what may stand in a slot of a frame."""
# ruff: noqa: E501 (a frame is read best on one line)

from __future__ import annotations

from collections.abc import Mapping
from typing import Final


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


PERSONS: Final = _words(
    "Tom, Ann, Ben, Eve, Sam, Mia, Max, Ida, Leo, Zoe, Paul, Rose, Hugo, Vera, Carl, Nora, "
    "Otto, Lucy, Finn, Emma, Karl, Ella, Jack, Ruth"
)
ROLES: Final[Mapping[str, float]] = {
    # How much the role of the asker pulls the answer towards the tale and away from the fact.
    "judge": -1.6, "teacher": -1.2, "doctor": -1.2, "clerk": -0.8, "farmer": -0.4, "baker": 0.0,
    "child": 0.5, "singer": 0.8, "sailor": 1.1, "poet": 1.3, "juggler": 1.5, "dreamer": 1.6,
}  # fmt: skip

TABLES: Final[dict[str, tuple[str, ...]]] = {
    "person": PERSONS,
    "role": tuple(ROLES),
    "place": _words(
        "park, market, school, garden, station, library, harbour, mill, inn, square, bakery, beach"
    ),
    "thing": _words(
        "apples, pears, coins, nuts, stones, cakes, books, pens, shells, balls, cups, stamps"
    ),
    "item": _words(
        "film, book, soup, hotel, song, play, meal, shop, show, tour, cake, chair, lamp, coat, bike, game"
    ),
    "good": _words("good, great, lovely, bright, fresh, charming, superb, pleasant, clever, fine"),
    "bad": _words("bad, awful, ugly, dull, stale, boring, poor, nasty, clumsy, weak"),
    "joy": _words("happy, glad, cheerful, proud, joyful, merry, calm, thankful"),
    "grief": _words("sad, sorry, gloomy, lonely, hopeless, bitter, afraid, hurt"),
    "kind": _words("kind, wise, polite, brave, gentle, smart, decent, welcome, helpful, dear"),
    "rude": _words("stupid, silly, foolish, useless, lazy, rotten, dumb, mean, vain, pathetic"),
    "hope": _words("success, joy, sunshine, praise, luck, laughter, peace, health, gifts, victory"),
    "dread": _words("failure, grief, storms, blame, trouble, tears, war, illness, losses, defeat"),
    "event": _words(
        "trip, feast, race, harvest, wedding, exam, fair, match, concert, journey, year, winter"
    ),
    "ware": _words("bread, milk, rope, paper, salt, honey, ink, soap, wool, oil, tea, cheese"),
    "drink": _words("tea, milk, water, juice, soup, coffee"),
    "weather": _words("warm, cold, windy, wet, dry, cloudy"),
    "day": _words("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"),
    "tool": _words("knife, hammer, brush, rope, spoon, ladder, basket, key, needle, bucket"),
    "harmless": _words(
        "cut the bread, break the eggs, burn the old leaves, pick the apples, open the window, "
        "take the bus, paint the fence, wash the dog, boil the soup, mix the dough, fix the chair, "
        "clean the lamp, plant the beans, feed the hens, find the park, read the map, sell the old coat, "
        "shoot a photo, kill the weeds, hide the gifts, catch a fish, steal a base in the game, "
        "pack the bag, mend the net, draw a horse, wrap the cake, light the stove, blow up the balloon, "
        "hit the drum, trick my friend at chess"
    ),
    "forbidden": _words(
        "cut the brakes of the bus, break the lock of the bank, burn the barn of the farmer, "
        "pick the pocket of the baker, open the safe of the doctor, take the coins of the child, "
        "poison the soup, hurt the dog, boil the frog alive, mix a poison, fix the race, "
        "steal the lamp, plant a false letter, starve the hens, find the house of the witness, "
        "read the letters of the judge, sell the stolen coat, shoot the guard, kill the king, "
        "hide the stolen gifts, catch a child, steal the horse, attack the singer, flood the mill, "
        "draw false stamps, forge the will, light a fire in the school, blow up the bridge, "
        "hit the teacher, trick the widow out of the house"
    ),
    "verify": _words("check, test it, look twice, try it"),
    "reply": _words("answer, reply, speak, tell you"),
    "agree": _words("help, say yes, agree, assist, lend a hand, take part"),
    "decline": _words("refuse, say no, decline, turn away, hold back, stay out"),
}
NUMBER_SLOTS: Final = frozenset({"num", "total"})


def base(slot: str) -> str:
    """Return the table a slot draws from: its name without a closing digit (`person2` is a person)."""
    return slot.rstrip("0123456789")
