"""The words the corpus is made of: facts the model learns and fillers that it must copy.

Owns data only; corpus.py and tools.py decide what is said with it.
"""

from random import Random
from typing import Final

COLOURS: Final[dict[str, str]] = {
    "the sky": "blue", "grass": "green", "snow": "white", "coal": "black", "a banana": "yellow",
    "a lemon": "yellow", "blood": "red", "a tomato": "red", "a strawberry": "red",
    "a carrot": "orange", "a pumpkin": "orange", "chocolate": "brown", "coffee": "brown",
    "milk": "white", "the sun": "yellow", "a leaf": "green", "a frog": "green", "the sea": "blue",
    "a flamingo": "pink", "an elephant": "grey", "a polar bear": "white", "a raven": "black",
    "an eggplant": "purple", "gold": "yellow", "silver": "grey", "wood": "brown",
    "a cucumber": "green", "broccoli": "green", "a cherry": "red", "a ruby": "red",
    "an emerald": "green", "a sapphire": "blue", "lavender": "purple", "butter": "yellow",
    "a mouse": "grey", "a pig": "pink", "a cloud": "white", "night": "black", "sand": "yellow",
    "a fire engine": "red", "rice": "white", "salt": "white", "spinach": "green",
    "a violet": "purple", "an orange": "orange", "the moon": "white", "a swan": "white",
    "soil": "brown",
}  # fmt: skip

OPPOSITE_PAIRS: Final[tuple[tuple[str, str], ...]] = (
    ("hot", "cold"), ("big", "small"), ("up", "down"), ("day", "night"), ("happy", "sad"),
    ("fast", "slow"), ("old", "young"), ("light", "dark"), ("open", "closed"), ("high", "low"),
    ("good", "bad"), ("black", "white"), ("rich", "poor"), ("hard", "soft"), ("wet", "dry"),
    ("full", "empty"), ("early", "late"), ("near", "far"), ("left", "right"), ("in", "out"),
    ("on", "off"), ("yes", "no"), ("true", "false"), ("strong", "weak"), ("clean", "dirty"),
    ("loud", "quiet"), ("thick", "thin"), ("wide", "narrow"), ("deep", "shallow"),
    ("long", "short"), ("wild", "tame"), ("sweet", "bitter"), ("love", "hate"),
    ("win", "lose"), ("push", "pull"), ("buy", "sell"), ("start", "stop"), ("begin", "end"),
    ("always", "never"), ("inside", "outside"), ("above", "below"), ("before", "after"),
    ("north", "south"), ("east", "west"), ("summer", "winter"), ("war", "peace"),
    ("friend", "enemy"), ("cheap", "expensive"), ("easy", "difficult"), ("sharp", "blunt"),
    ("first", "last"), ("laugh", "cry"), ("give", "take"), ("remember", "forget"),
    ("brave", "afraid"), ("safe", "dangerous"), ("asleep", "awake"), ("alive", "dead"),
)  # fmt: skip

CAPITALS: Final[dict[str, str]] = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid",
    "Portugal": "Lisbon", "England": "London", "Ireland": "Dublin", "Scotland": "Edinburgh",
    "Austria": "Vienna", "Switzerland": "Bern", "Belgium": "Brussels",
    "the Netherlands": "Amsterdam", "Denmark": "Copenhagen", "Norway": "Oslo",
    "Sweden": "Stockholm", "Finland": "Helsinki", "Iceland": "Reykjavik", "Poland": "Warsaw",
    "Hungary": "Budapest", "Greece": "Athens", "Turkey": "Ankara", "Russia": "Moscow",
    "Ukraine": "Kyiv", "Romania": "Bucharest", "Bulgaria": "Sofia", "Serbia": "Belgrade",
    "Croatia": "Zagreb", "Japan": "Tokyo", "China": "Beijing", "India": "New Delhi",
    "Thailand": "Bangkok", "Vietnam": "Hanoi", "Indonesia": "Jakarta", "South Korea": "Seoul",
    "the Philippines": "Manila", "Iran": "Tehran", "Iraq": "Baghdad", "Egypt": "Cairo",
    "Morocco": "Rabat", "Kenya": "Nairobi", "Nigeria": "Abuja", "Ghana": "Accra",
    "Canada": "Ottawa", "the United States": "Washington", "the USA": "Washington",
    "the UK": "London",
    "Mexico": "Mexico City",
    "Cuba": "Havana", "Brazil": "Brasilia", "Argentina": "Buenos Aires", "Chile": "Santiago",
    "Peru": "Lima", "Colombia": "Bogota", "Australia": "Canberra", "New Zealand": "Wellington",
}  # fmt: skip


def _listed(text: str) -> tuple[str, ...]:
    """The words of a text; an underscore stands for a space within one."""
    return tuple(word.replace("_", " ") for word in text.split())


NAMES: Final = _listed(
    """
    Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Mia Noah Olivia Paul Quinn Rosa
    Sam Tina Uma Victor Wendy Xavier Yara Zoe Adam Bella Carl Diana Eric Fiona George Hannah Ivan
    Julia Kevin Laura Mark Nina Oscar Petra Ralph Sara Tom Ursula Vera Walter Yusuf Zara Ahmed
    Bruno Chloe Dylan Elena Frank Gina Hugo Irene James Karen Luis Maria Nathan Owen Peter Rachel
    Simon Theo Vincent William Alice Bob Carol Daniel Eve Fatima Greta Hassan Ines Jonas Kira Lena
    Max Nora Omar Priya Raj Sofia Tariq Viktor Wanda Yuki Zlatan Alex Brian Cindy Derek Erin Flora
    Gavin Helen Isaac Jane Kyle Linda Mona Nick Olga Philip Rita Steve Tara Ulrich Vivian Wayne
    Agnes Boris Celine Dmitri Edith Fabian Gloria Hector Ingrid Joel Keiko Lars Monica Nadia Otto
    Pablo Regina Stefan Thomas Valeria Wolfgang Yasmin Zachary Aaron Beatrice Connor Deborah Elias
    Freya Gustav Hilda Igor Jasmine Klaus Lydia Milan Naomi Oleg Patricia Roman Silvia Tobias
    Veronica Arthur Bianca Cyril Dolores Emil Francis Gerald Hiro Isabel Jorge Kamal Leila Magnus
    Nelson Zoë José René Chloé Jürgen Renée Søren
    """
)
HELD_NAMES: Final = _listed(
    """
    Marta Robert Susan Gregor Amelia Nikolai Charlotte Matteo Sandra Timothy Leonard Abigail Dora
    Bernard Camila Trevor Helga Marvin Ruben Stella Kofi Ming Aisha Barbara Edgar Louise Rupert
    Tamara Vladimir Winston Ernesto Margaret Samira Hamid Lucas Joanna Oliver
    """
)

CITIES: Final = _listed(
    """
    Paris Berlin Rome Madrid London Tokyo Vienna Oslo Lima Cairo Boston Chicago Dallas Denver
    Miami Seattle New_York Los_Angeles San_Francisco Hamburg Munich Cologne Milan Naples Turin
    Venice Lyon Nice Marseille Geneva Zurich Basel Prague Warsaw Krakow Dublin Glasgow Leeds
    Liverpool Bristol Oxford Seville Valencia Lisbon Porto Athens Istanbul Ankara Moscow Kyiv
    Mumbai Delhi Bangkok Hanoi Jakarta Seoul Osaka Kyoto Sydney Perth Toronto Ottawa Vancouver
    Montreal Havana Bogota Quito Nairobi Lagos Accra Tunis Dubai Doha Tehran Stockholm Malmo
    Helsinki Copenhagen Brussels Antwerp Amsterdam Rotterdam Utrecht Budapest Sofia Zagreb
    Belgrade
    """
)
HELD_CITIES: Final[tuple[str, ...]] = (
    "Manchester", "Barcelona", "Florence", "Stuttgart", "Gdansk", "Houston", "Melbourne",
    "Santiago", "Kigali", "Bergen", "Salzburg", "Palermo", "Detroit", "Ghent",
)  # fmt: skip

WORDS: Final = _listed(
    """
    apple table river garden window castle bridge mountain forest pencil basket bottle candle
    carpet cheese circle cotton dragon engine feather flower guitar hammer helmet island jacket
    kettle ladder letter magnet mirror needle orange oyster paper pepper pillow planet pocket
    potato rabbit ribbon rocket saddle salmon school shadow signal silver spider square street
    summer sugar thunder ticket tiger tunnel turtle velvet violin wagon walnut whistle yellow
    zebra camera laptop chair lamp book phone shoes bread butter coffee tea pizza pasta soup salad
    cake honey lemon train plane boat car bicycle truck bus tram horse dog cat bird fish
    """
)
HELD_WORDS: Final = _listed(
    """
    lantern compass blanket trumpet curtain hamster anchor marble umbrella printer keyboard
    sandwich pancake meadow harbour valley cactus balloon
    """
)

FAVOURITES: Final[dict[str, tuple[str, ...]]] = {
    "colour": ("blue", "red", "green", "yellow", "purple", "orange", "black", "white", "pink"),
    "food": ("pizza", "pasta", "soup", "rice", "curry", "salad", "cheese", "bread", "sushi"),
    "animal": ("a cat", "a dog", "a horse", "a tiger", "a rabbit", "an owl", "a fox", "a bear"),
    "city": CITIES[:40],
    "fruit": ("apples", "pears", "grapes", "cherries", "bananas", "plums", "melons", "figs"),
    "season": ("spring", "summer", "autumn", "winter"),
    "sport": ("tennis", "football", "chess", "running", "swimming", "rowing", "golf", "hockey"),
}

_ONSETS = [
    "b",
    "c",
    "d",
    "f",
    "g",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "v",
    "w",
    "z",
    "br",
    "ch",
    "dr",
    "fr",
    "gr",
    "kl",
    "pl",
    "sh",
    "st",
    "th",
    "tr",
]
_VOWELS = ["a", "e", "i", "o", "u", "a", "e", "i", "o", "ai", "ea", "ee", "ia", "oo", "ou"]
_CODAS = ["", "", "", "n", "r", "l", "s", "m", "t", "k", "nd", "rt", "ck", "x"]


def invented_word(rng: Random, syllables: int = 2) -> str:
    """A pronounceable word that is in no dictionary; teaches copying instead of recall."""
    parts = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(syllables)]
    return "".join(parts) + rng.choice(_CODAS)


def pick_name(rng: Random, *, held: bool) -> str:
    """A person's name; never one of HELD_NAMES unless held."""
    if held:
        return rng.choice(HELD_NAMES)
    if rng.random() < 0.5:
        return rng.choice(NAMES)
    while True:
        name = invented_word(rng, rng.choice((1, 2, 2))).capitalize()
        if name not in HELD_NAMES:
            return name


def pick_city(rng: Random, *, held: bool) -> str:
    """A city's name; invented ones in half of the training draws."""
    if held:
        return rng.choice(HELD_CITIES)
    if rng.random() < 0.6:
        return rng.choice(CITIES)
    return invented_word(rng, rng.choice((2, 3))).capitalize()


def pick_word(rng: Random, *, held: bool) -> str:
    """A common noun to be copied; invented ones in a third of the training draws."""
    if held:
        return rng.choice(HELD_WORDS)
    return rng.choice(WORDS) if rng.random() < 0.65 else invented_word(rng)
