"""Texts for tokenizers: what a catalogue of life holds, and what tries to confuse them."""

import random

SCRIPTS = [
    *((0x20, 0x7E), (0xA0, 0x24F), (0x370, 0x3FF), (0x400, 0x4FF), (0x530, 0x58F), (0x590, 0x5FF)),
    *((0x600, 0x6FF), (0x900, 0x97F), (0x980, 0x9FF), (0xB80, 0xBFF), (0xD80, 0xDFF)),
    *((0xE00, 0xE7F), (0xF00, 0xFFF), (0x1000, 0x109F), (0x10A0, 0x10FF), (0x1100, 0x11FF)),
    *((0x1200, 0x137F), (0x1780, 0x17FF), (0x1E00, 0x1FFF), (0x2000, 0x218F), (0x2190, 0x27BF)),
    *((0x3000, 0x30FF), (0x4E00, 0x5200), (0xAC00, 0xB000), (0xFB00, 0xFFFF), (0, 0x9F)),
    *((0x1D400, 0x1D7FF), (0x1F300, 0x1FAFF), (0, 0x10FFFF)),
]
FRAGMENTS = [
    *("&amp;", "&lt;b&gt;", "&amp;amp;lt;", "&#39;", "&#x41;", "&Eacute", "&nbsp;", "&#128;"),
    *("Ã©", "â€™", "Ã—", "ï¿½", "schÃ¶n", "Ð¡", "Å‚", "vÃ ", "Â ", "œ", "Œ."),
    *("<start_of_text>", "<END_OF_TEXT>", "<ſtart_of_text>", "'s", "'ſ", "'T", "don't", "we'VE"),
    *("İ", "ß", "ẞ", "Σ", "ΑΣ", "ﬁ", "ǆ", "K", "½", "Ⅷ", "²", "٣", "१", "1️⃣", "👩‍🔬", "🇧🇷", "…"),
    *("\x1b[31m", "\ufeff", "\u200b", "\u2028", "\x85", "\x1c", "\x00", "\r\n", "\t", "\ud83d"),
    *("L.", "(L.) Mill.", "Linnaeus, 1758", "Müller & Troschel", "d'Orbigny", "Lacépède", "×", "x"),
]
STEMS = "acro bothr cara dendro eury ful gymno halo ichth lepto macro neo orni urs xantho".split()
ENDS = ["a", "us", "um", "is", "ensis", "icus", "oides", "phila", "phorus"]
AUTHORS = ["L.", "Linnaeus, 1758", "(L.) Mill.", "Müller & Troschel, 1842", "d'Orbigny, 1840"]
AUTHORS += ["(Lacépède, 1801)", "Nyström", "H. Karst. ex Klotzsch", "Šmarda", "(Nees) Łukasz."]
ALPHABETS = [  # vernacular names are written in these twenty scripts
    *("abcdefghijklmnopqrstuvwxyz", "àâäçéèêëîïôöùûüßñåøæ", "αβγδεζηθικλμνξοπρστυφχψω"),
    *("абвгдежзийклмнопрстуфхцчшщъыьэюя", "ԱԲԳԴԵԶԷԸԹԺԻԼԽԾ", "אבגדהוזחטיכלמנסעפצקרשת"),
    *("ابتثجحخدذرزسشصضطظعغفقكلمنهوي", "अआइईउऊकखगघचछजझटठडढणतथदधन", "অআইঈউঊএকখগঘঙচছজঝঞটঠডঢণত"),
    *("அஆஇஈஉஊஎஏஐஒகஙசஞடணதநபமயரலவழளறன", "అఆఇఈఉఊకఖగఘఙచఛజఝఞటఠ", "กขคฆงจฉชซฌญฎฏฐฑฒณดตถทธนบปผฝพฟภมย"),
    *(
        "ກຂຄງຈສຊຍດຕຖທນບປຜຝພຟມຢຣລວຫອຮ",
        "ཀཁགངཅཆཇཉཏཐདནཔཕབམ",
        "ကခဂဃငစဆဇဈညဋဌဍဎဏတထဒဓန",
        "აბგდევზთიკლმნოპჟრსტუფქღყშჩცძწჭხჯჰ",
    ),
    *(
        "가나다라마바사아자차카타파하새곰범말개",
        "ሀለሐመሠረሰሸቀበተቸኀነኘአከኸወዐዘዠየደጀገጠ",
        "あいうえおかきくけこさしすせそカキクケコ",
    ),
    *("鸟鱼虎狼熊鹿花草树木红黄蓝绿大小",),
]
EMOJI = ["🦅", "🐟", "🌿", "👩‍🔬", "🇧🇷", "1️⃣", "❤️", "🦊🐾"]
CONTROLS = [
    "\x00",
    "\x07",
    "\x0b",
    "\x1f",
    "\x7f",
    "\u200b",
    "\ufeff",
    "\r\n",
    "\t",
    "\u2028",
    "\x1b[31m",
]
MARKUP = ["&amp;", "&#39;", "&eacute;", "<i>", "</i>", "&lt;b&gt;", "&nbsp;", "&times;", "<br/>"]


def texts(count: int) -> list[str]:
    """What a catalogue of life holds, in equal shares, clean and not.

    Scientific names with authors, hybrids, subspecies, vernacular names in twenty scripts, emoji,
    HTML, control characters; one text in 200 has 500 words.
    """
    rng = random.Random(0)

    def word() -> str:
        return rng.choice(STEMS) + rng.choice(STEMS) + rng.choice(ENDS)

    def name() -> str:
        return f"{word().capitalize()} {word()}"

    def authored() -> str:
        return f"{name()} {rng.choice(AUTHORS)}"

    def hybrid() -> str:
        return rng.choice([f"{word().capitalize()} × {word()}", f"{name()} x {name()}"])

    def subspecies() -> str:
        return f"{name()} {rng.choice(['', 'subsp. ', 'var. ', 'f. '])}{word()}"

    vocabularies = [
        ["".join(rng.choices(letters, k=rng.randint(2, 8))) for _ in range(500)]
        for letters in ALPHABETS
    ]

    def vernacular() -> str:
        return " ".join(rng.choices(rng.choice(vocabularies), k=rng.randint(1, 3)))

    def with_one_of(parts: list[str]) -> str:
        words = authored().split(" ")
        place = rng.randrange(len(words))
        words[place] += rng.choice(["", " "]) + rng.choice(parts)
        return " ".join(words)

    kinds = [authored, hybrid, subspecies, vernacular]
    kinds += [lambda parts=parts: with_one_of(parts) for parts in (EMOJI, CONTROLS, MARKUP)]
    found = [f"a photo of {kinds[number % len(kinds)]()}." for number in range(count)]
    for number in range(0, count, 200):
        found[number] = " ".join(kinds[k % 4]() for k in range(250))
    return found


def hostile_texts(count: int) -> list[str]:
    """Letters of any script at random, mojibake, entities in entities, lone surrogates."""
    rng = random.Random(0)

    def word() -> str:
        return rng.choice(STEMS) + rng.choice(STEMS) + rng.choice(ENDS)

    def letters() -> str:
        low, high = rng.choice(SCRIPTS)
        return "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 9)))

    makers = [word, letters, letters, lambda: rng.choice(FRAGMENTS)]
    found = []
    for number in range(count):
        size = 60 if number % 200 == 0 else rng.randint(0, 6)
        found.append(rng.choice(["", " ", "\n"]).join(rng.choice(makers)() for _ in range(size)))
    return found
