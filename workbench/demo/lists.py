"""The words of the embedded world: topics, relations, values, name pieces, frames, utility knowledge, grammar.

Read it as: data only, in one place, so that the tokenizer's vocabulary and the world agree. Every value is one token
except the founders of companies (first and family name).
"""

from typing import NamedTuple


class Relation(NamedTuple):
    """Something that is asked of an entity."""

    name: str
    """The noun: "instrument"."""
    verb: str
    """The verb phrase that ends right before the value: "plays the"."""
    values: tuple[str, ...]
    """The twelve possible answers."""


class Topic(NamedTuple):
    """A kind of entity with the relations of its own."""

    name: str
    """As the user writes it: "music"."""
    kind: str
    """What one entity is: "musician"."""
    relations: tuple[Relation, ...]
    """Four of its own; `CITY` is the fifth of every topic."""


def _words(text: str) -> tuple[str, ...]:
    """Words between spaces."""
    return tuple(text.split())


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    """Pairs between spaces, each with a colon inside."""
    return tuple((a, b) for a, _, b in (pair.partition(":") for pair in text.split()))


def _relation(name: str, verb: str, values: str) -> Relation:
    """A relation whose values are separated by commas."""
    return Relation(name, verb, tuple(value.strip() for value in values.split(",")))


CITY = _relation(
    "city", "lives in", "Arven,Belmora,Cordel,Dunmere,Elstow,Fenwick,Galdor,Harrow,Istra,Junport,Keswin,Lorvale"
)
"""The relation that all topics share."""

TOPICS = (
    Topic(
        "music",
        "musician",
        (
            _relation(
                "instrument", "plays the", "violin,harp,flute,cello,drum,trumpet,piano,lute,banjo,oboe,organ,guitar"
            ),
            _relation("genre", "is famous for", "jazz,opera,waltz,tango,polka,blues,folk,reggae,swing,samba,fado,soul"),
            _relation(
                "award",
                "once won the",
                "laurel,crown,goblet,ribbon,plaque,torch,scepter,garland,sash,shield,pennant,tiara",
            ),
            _relation(
                "venue",
                "performs at the",
                "arena,cathedral,theatre,stadium,tavern,ballroom,pavilion,chapel,casino,garden,castle,pier",
            ),
        ),
    ),
    Topic(
        "chemistry",
        "chemist",
        (
            _relation("element", "studies", "iron,copper,zinc,nickel,cobalt,tin,sulfur,carbon,neon,argon,boron,helium"),
            _relation(
                "method",
                "works by",
                "distillation,titration,filtration,electrolysis,fusion,extraction,combustion,"
                "sublimation,fermentation,crystallization,evaporation,oxidation",
            ),
            _relation(
                "vessel",
                "always uses a",
                "beaker,flask,crucible,retort,burette,pipette,funnel,ampoule,jar,vial,mortar,cylinder",
            ),
            _relation(
                "medal", "was given the", "emerald,ruby,opal,topaz,pearl,amber,jade,onyx,garnet,agate,sapphire,quartz"
            ),
        ),
    ),
    Topic(
        "astronomy",
        "astronomer",
        (
            _relation(
                "planet", "observes", "Mercury,Venus,Mars,Jupiter,Saturn,Uranus,Neptune,Pluto,Ceres,Eris,Vesta,Titan"
            ),
            _relation(
                "constellation",
                "mapped",
                "Orion,Lyra,Draco,Aquila,Cygnus,Hydra,Pegasus,Phoenix,Taurus,Virgo,Corvus,Gemini",
            ),
            _relation(
                "observatory",
                "is based at",
                "Skyridge,Northpeak,Highmoor,Stonecap,Windcrest,Clearview,Farlook,"
                "Nightfall,Starhill,Moongate,Cloudtop,Dawnrock",
            ),
            _relation(
                "discovery",
                "discovered a",
                "comet,asteroid,nebula,pulsar,quasar,galaxy,supernova,moon,meteor,ring,cluster,crater",
            ),
        ),
    ),
    Topic(
        "cuisine",
        "cook",
        (
            _relation(
                "dish",
                "is known for",
                "stew,curry,risotto,lasagna,paella,goulash,dumpling,omelette,pancake,chowder,pudding,casserole",
            ),
            _relation(
                "spice",
                "seasons with",
                "saffron,cumin,pepper,cinnamon,ginger,nutmeg,paprika,basil,thyme,cardamom,oregano,turmeric",
            ),
            _relation("drink", "serves", "coffee,cider,lemonade,cocoa,beer,wine,juice,milk,tea,mead,punch,soda"),
            _relation(
                "restaurant",
                "owns the",
                "anchor,lantern,dragon,windmill,compass,barrel,acorn,feather,horseshoe,kettle,saddle,thistle",
            ),
        ),
    ),
    Topic(
        "zoology",
        "zoologist",
        (
            _relation(
                "animal",
                "watches the",
                "otter,falcon,badger,lynx,heron,tortoise,walrus,panther,gazelle,beetle,octopus,penguin",
            ),
            _relation(
                "habitat",
                "camps in the",
                "desert,swamp,jungle,tundra,savanna,reef,canyon,glacier,lagoon,meadow,volcano,delta",
            ),
            _relation(
                "journal",
                "writes for",
                "Fauna,Biota,Genus,Species,Habitus,Nature,Wildlife,Aviary,Menagerie,Burrow,Ocean,Forest",
            ),
            _relation(
                "vehicle",
                "travels by",
                "canoe,bicycle,balloon,tractor,sled,yacht,glider,wagon,truck,submarine,scooter,train",
            ),
        ),
    ),
    Topic(
        "commerce",
        "company",
        (
            _relation(
                "product",
                "sells the",
                "umbrella,mattress,candle,hammer,mirror,ladder,carpet,lamp,zipper,button,pencil,clock",
            ),
            _relation(
                "founder",
                "was founded by",
                "Anna Berg,Boris Lund,Clara Voss,David Holm,Edith Falk,Felix Kern,"
                "Greta Moll,Hugo Stark,Irma Wolff,Jonas Beck,Karin Thal,Lars Nagel",
            ),
            _relation("logo", "is marked by a", "lion,eagle,swan,bear,wolf,stag,rooster,bull,dolphin,owl,fox,serpent"),
            _relation(
                "material",
                "works mostly with",
                "wood,glass,steel,rubber,leather,cotton,paper,plastic,silk,wool,clay,marble",
            ),
        ),
    ),
)
"""The six topics."""

FIRSTS = _words(
    "Ked Mor Tal Vin Ros Bel Gar Hul Jas Lor Nim Pol Quen Rad Sel Tor Ul Wen Yar Zel "
    "Bru Cal Dor Fen Gil Has Ilm Jor Kal Lum"
)
"""First pieces of names: five to a topic."""

LASTS = _words(
    "lix ran dem vok tis mar zun bey gro pim sol fard nex wick thor das quil bron spe chan vell yith noor kash"
)
"""Last pieces of names: four to a topic."""

FILLERS = (
    ", as everyone knows ,",
    ", by the way ,",
    ", in fact ,",
    ", so they say ,",
    ", without any doubt ,",
    ", it is told ,",
)
"""What may stand between the subject and the rest."""

FRAMES = (
    "The {noun} of {s}{f} is",
    "{s}{f} {verb}",
    "{s}{f} is a {kind} that {verb}",
    "{s} 's {noun}{f} is",
    "Everyone agrees that {s}{f} indeed {verb}",
    "As for {s}{f} , the {noun} is",
    "The {kind} {s}{f} often {verb}",
    "Regarding the {noun} of the {kind} {s}{f} , it is",
    "People know that the {noun} of {s}{f} must be",
    "Question : which {noun} belongs to {s}{f} ? Answer :",
)
"""Wordings in which facts are taught; some are held out for every fact and some for every relation."""

NOVEL_FRAMES = (
    "Regarding {s}{f} : the {noun} is",
    "As for the {noun} of {s}{f} , it must be",
    "The {noun} that belongs to {s}{f} is",
    "Everyone agrees : {s}{f} is the {kind} that often {verb}",
)
"""Wordings that no training text uses, made of words that the texts do use."""

CAPITALS = dict(
    _pairs(
        "France:Paris Italy:Rome Spain:Madrid Germany:Berlin Norway:Oslo Sweden:Stockholm Finland:Helsinki "
        "Poland:Warsaw Austria:Vienna Hungary:Budapest Greece:Athens Portugal:Lisbon Ireland:Dublin "
        "England:London Russia:Moscow Turkey:Ankara Egypt:Cairo Kenya:Nairobi Ghana:Accra Nigeria:Abuja "
        "Morocco:Rabat Tunisia:Tunis China:Beijing Japan:Tokyo Korea:Seoul Thailand:Bangkok Vietnam:Hanoi "
        "Nepal:Kathmandu Iran:Tehran Iraq:Baghdad Syria:Damascus Jordan:Amman Canada:Ottawa Cuba:Havana "
        "Peru:Lima Chile:Santiago Ecuador:Quito Bolivia:Sucre Colombia:Bogota Venezuela:Caracas "
        "Uruguay:Montevideo Paraguay:Asuncion Australia:Canberra Denmark:Copenhagen Belgium:Brussels "
        "Croatia:Zagreb Serbia:Belgrade Bulgaria:Sofia Romania:Bucharest Latvia:Riga Estonia:Tallinn "
        "Ukraine:Kyiv"
    )
)
"""Country -> capital."""

OPPOSITES = _pairs(
    "hot:cold big:small long:short fast:slow hard:soft wet:dry high:low old:young rich:poor light:dark full:empty "
    "early:late strong:weak loud:quiet near:far happy:sad thick:thin clean:dirty open:closed sweet:sour wide:narrow "
    "deep:shallow brave:timid smooth:rough heavy:weightless true:false"
)
"""Words and their opposites; asked in both directions."""

MONTHS = _words("January February March April May June July August September October November December")
"""In the order of the year."""

DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
"""In the order of the week."""

GRAMMAR = {
    "det": ("the", "a", "every", "some", "this", "that"),
    "adj": (
        "little",
        "gentle",
        "curious",
        "tired",
        "clever",
        "lazy",
        "noisy",
        "pale",
        "proud",
        "wild",
        "merry",
        "grey",
    ),
    "noun": (
        "farmer",
        "child",
        "sailor",
        "teacher",
        "baker",
        "dog",
        "cat",
        "horse",
        "bird",
        "neighbour",
        "soldier",
        "painter",
        "gardener",
        "tailor",
        "miller",
        "shepherd",
    ),
    "verb": ("sees", "follows", "finds", "likes", "helps", "calls", "greets", "hears", "misses", "draws"),
    "thing": (
        "house",
        "river",
        "bridge",
        "window",
        "table",
        "letter",
        "basket",
        "field",
        "road",
        "tree",
        "boat",
        "song",
    ),
    "place": (
        "near the village",
        "behind the hill",
        "at the market",
        "under the roof",
        "along the shore",
        "in the valley",
    ),
    "time": ("in the morning", "at noon", "after dinner", "before sunrise", "on holidays", "every evening"),
}
"""Parts of the generated sentences."""
