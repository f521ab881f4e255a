"""Normal forms of English questions.

Rules rewrite phrases that ask the same: "could you tell me what X is" and "what's X", "how can I" and "how to", "X's Y"
and "the Y of X". A rule belongs here only if it holds for every X. A word is replaced only by one that means the same in
any sentence. Tense, number, person and every other small word stay, because each of them can turn a question round.
"""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["NAMES", "english_form"]

# Names that mean nothing else in lower case, so that a text without capitals may mean them: countries, cities,
# languages, and what people who write about software seldom capitalise. A missing name costs a hit and nothing more.
NAMES = frozenset(
    """
    afghanistan albania algeria argentina armenia australia austria azerbaijan bangladesh belarus belgium
    bolivia bosnia botswana brazil bulgaria cambodia cameroon canada colombia croatia cuba cyprus denmark
    ecuador egypt england estonia ethiopia fiji finland france germany ghana greece guatemala haiti honduras
    hungary iceland india indonesia iran iraq ireland israel italy jamaica japan kazakhstan kenya korea kuwait
    laos latvia lebanon liberia libya lithuania luxembourg madagascar malaysia malta mexico moldova mongolia
    morocco mozambique myanmar namibia nepal netherlands nicaragua nigeria norway pakistan panama paraguay
    peru philippines portugal qatar romania russia rwanda scotland senegal serbia singapore slovakia slovenia
    somalia spain sudan sweden switzerland syria taiwan tanzania thailand tunisia uganda ukraine uruguay
    uzbekistan venezuela vietnam wales yemen zambia zimbabwe usa uk nyc europe africa asia amsterdam athens
    baghdad bangkok barcelona beijing berlin boston brussels bucharest budapest cairo chicago copenhagen delhi
    dubai dublin edinburgh frankfurt geneva hamburg havana helsinki istanbul jakarta jerusalem kabul karachi
    kyiv lagos lisbon london madrid manila melbourne milan montreal moscow mumbai munich nairobi naples oslo
    paris prague rome santiago seattle seoul shanghai singapore stockholm sydney tehran tokyo toronto
    vancouver venice vienna warsaw zurich english french german spanish italian portuguese russian chinese
    japanese korean arabic hindi dutch swedish danish norwegian finnish greek hebrew latin american british
    european monday tuesday wednesday thursday friday saturday sunday january february april june july
    september october november december javascript typescript html css sql http https tcp udp json xml api url
    usb cpu gpu pdf linux ubuntu debian iphone ipad android macos youtube google facebook microsoft wifi
    kubernetes postgresql mysql sqlite numpy github ai
    """.split()
)

_CONTRACTIONS = (
    (r"\b(what|who|where|when|why|how|that|there|here|it)'s\b", r"\1 is"),
    (r"\b(what|who|where|when|why|how)'re\b", r"\1 are"),
    (r"\bwhats\b", "what is"),
    (r"\bcan't\b|\bcannot\b|\bcant\b", "can not"),
    (r"\bwon't\b", "will not"),
    (r"\bshan't\b", "shall not"),
    (r"\b(do|does|did)nt\b", r"\1 not"),
    (r"n't\b", " not"),
    (r"\bi'm\b", "i am"),
    (r"\bi'd like\b", "i would like"),
    (r"\b(i|you|we|they)'ve\b", r"\1 have"),
    (r"\b(i|you|we|they|he|she|it)'ll\b", r"\1 will"),
)

_SPELLINGS = {
    "colour": "color", "colours": "colors", "favourite": "favorite", "centre": "center", "theatre": "theater",
    "organise": "organize", "summarise": "summarize", "analyse": "analyze", "grey": "gray", "neighbour": "neighbor",
    "e-mail": "email", "wi-fi": "wifi", "programme": "program", "licence": "license", "metre": "meter",
    "behaviour": "behavior", "labour": "labor", "catalogue": "catalog", "aeroplane": "airplane", "tyre": "tire",
    "optimise": "optimize", "initialise": "initialize", "cancelled": "canceled", "travelling": "traveling",
}  # fmt: skip

# Groups of words that mean the same wherever they stand. The first of each replaces the others.
_SYNONYMS = """
    buy purchase, fix repair, start begin commence, big large, bigger larger, biggest largest, fast quick,
    faster quicker, fastest quickest, quickly rapidly, picture photo photograph,
    pictures photos photographs, movie film, movies films, car automobile, cars automobiles, child kid,
    children kids, doctor physician, phone telephone, tv television, hard difficult,
    cheap inexpensive, approximately roughly, often frequently, rarely seldom, almost nearly,
    people persons, lawyer attorney, sofa couch, bike bicycle, bikes bicycles, fridge refrigerator,
    father dad, mother mom mum, info information, repo repository, config configuration, db database,
    javascript js, delete erase, infant baby, taxi cab
"""
_PHRASES = (
    (r"\b(?:log|sign) ?in to\b", "login to"),
    (r"\b(?:log|sign) in\b|\blog on\b|\bsignin\b", "login"),
    (r"\b(?:log|sign) out\b|\blog off\b|\bsignout\b", "logout"),
    (r"\bsign up\b|\bsignup\b", "register"),
    (r"\bset up\b", "setup"),
    (r"\b(?:turn|switch) on\b|\bactivate\b|\benable\b", "turn_on"),
    (r"\b(?:turn|switch) off\b|\bdeactivate\b|\bdisable\b", "turn_off"),
    (r"\b(?:cell|mobile) phone\b|\bcellphone\b", "cellphone"),
    (r"\bright away\b|\bat once\b", "immediately"),
    (r"\bunited states of america\b|\bunited states\b|\busa\b|\bu\.s\.a\.?|\bu\.s\.?(?= |$)", "usa"),
    (r"\bunited kingdom\b|\bu\.k\.?(?= |$)", "uk"),
    (r"\bnew york city\b", "nyc"),
    (r"\bartificial intelligence\b", "ai"),
    (r"\bas well as\b", "and"),
    (r"\bin order to\b", "to"),
    (r"\bwould like to\b", "want to"),
)

_SMALL: dict[str, int] = dict(
    zip("two three four five six seven eight nine ten eleven twelve".split(), range(2, 13), strict=True)
)
_MONTHS = "january february march april may june july august september october november december".split()
_UNITS = (
    (r"kilomet(?:er|re)s?|kms?", "km"),
    (r"centimet(?:er|re)s?|cms?", "cm"),
    (r"millimet(?:er|re)s?|mm", "mm"),
    (r"kilogram(?:me)?s?|kgs?|kilos?", "kg"),
    (r"miles?|mi", "mile"),
    (r"hours?|hrs?", "hour"),
    (r"minutes?|mins?", "minute"),
    (r"seconds?|secs?", "second"),
    (r"(?:°|degrees? )c(?:elsius)?|celsius", "celsius"),
    (r"(?:°|degrees? )f(?:ahrenheit)?|fahrenheit", "fahrenheit"),
    (r"%|per ?cent", "percent"),
    (r"lbs?", "lb"),
)  # fmt: skip

# Words that a letter behind them names, which makes "a" no article: vitamin A, hepatitis A.
_LETTERED = frozenset(
    "vitamin hepatitis plan option type grade class team group section part appendix series schedule exhibit line side "
    "influenza model bus gate route terminal flat room block building point node variable column cell blood letter set "
    "question answer level layer city person company product user server service player event signal matrix vector".split()
)
_WH = "what|who|where|when|why|how|which"
_BE = "is|are|was|were"
_IMPERATIVES = (
    "translate|summarize|write|list|explain|describe|give|show|name|define|compare|convert|calculate|compute|recommend|"
    "suggest|create|generate|spell|solve|rewrite|proofread"
)
_RELATIONS = (
    "capital|population|price|cost|height|size|area|author|meaning|definition|age|currency|president|ceo|formula|speed|"
    "length|weight|depth|date of birth|location|distance|boiling point|melting point|official language|square root"
)
_PAST = {
    "author": "wrote",
    "writer": "wrote",
    "inventor": "invented",
    "painter": "painted",
    "founder": "founded",
}


def english_form(text: str) -> str:
    """Returns the normal form, with capitals where they may tell words apart; empty if the text says nothing."""
    text, tail = _payload(text)
    text, quotes = _quoted(text)
    text = _words(text)
    text = _reworded(text)
    for number, quote in enumerate(quotes):
        text = text.replace(f"\x01{number}\x01", quote)
    return f"{text} : {tail}" if tail else text


def _payload(text: str) -> tuple[str, str]:
    """Returns the instruction, and the text behind a colon that it applies to, which stays as it is."""
    head, colon, tail = text.partition(": ")
    return (head, tail.strip()) if colon else (text, "")


def _quoted(text: str) -> tuple[str, list[str]]:
    """Replaces quotations by marks, because they stay as they are; returns the text and the quotations."""
    quotes: list[str] = []

    def keep(match: re.Match[str]) -> str:
        quotes.append(match[0])
        return f"\x01{len(quotes) - 1}\x01"

    return re.sub(r"\"[^\"]*\"|`[^`]*`|(?<![\w])'[^']+'(?!\w)", keep, text), quotes


def _words(text: str) -> str:
    """Separates words by single blanks, drops the punctuation at their ends, and lowers the first word's capital."""
    # A phrase in front, set off by a comma, moves to the end: "In Python, how do I ..."
    text = re.sub(
        r"^((?:In|On|For|With|Using|At|in|on|for|with|using|at) [^,?.!]{1,40}), +(.+?)[?.! ]*$", _behind, text
    )
    words: list[str] = []
    for word in text.split():
        # Marks inside a sentence may belong to a name (`empty?`), and "5!" is no emphasis.
        bare = word.rstrip(".,;:") or word
        # An abbreviation keeps its last full stop: "U.S." does not end a sentence.
        if re.fullmatch(r"(?:[A-Za-z]\.)+[A-Za-z]\.?[,!?;:]*", word):
            bare = word.rstrip(",!?;:")
        words.append(bare)
    if words:
        words[-1] = _unended(words[-1])
    if words and re.fullmatch(r"[A-Z][a-z']*", words[0]):
        words[0] = words[0].lower()
    if len(words) > 1 and words[1] == "I":
        words[1] = "i"
    return " ".join("i" if word == "I" else word.replace("I'", "i'") for word in words)


def _unended(word: str) -> str:
    """Drops the marks that end a sentence from its last word. A factorial keeps its own."""
    marks = "?.,;:" if re.search(r"(?:\d|\)|\b\w)!", word) else "?.,;:!"
    return word.rstrip(marks) or word


def _behind(match: re.Match[str]) -> str:
    return f"{match[2]} {match[1][0].lower()}{match[1][1:]}"


def _sub(pattern: str, new: str | Callable[[re.Match[str]], str], text: str) -> str:
    return re.sub(pattern, new, text, flags=re.IGNORECASE)


def _reworded(text: str) -> str:
    for pattern, new in _CONTRACTIONS:
        text = _sub(pattern, new, text)
    text = _numbers(text)
    text = _without_courtesy(text)
    text = " ".join(_SPELLINGS.get(word, word) for word in text.split())
    for pattern, new in _PHRASES:
        text = _sub(pattern, new, text)
    text = " ".join(_CANONICAL.get(word, word) for word in text.split())
    text = _without_articles(text)
    for pattern, new in _TURNS:
        text = _sub(pattern, new, text)
    text = _possessive(text)
    for pattern, new in _QUESTIONS:
        text = _sub(pattern, new, text)
    return _difference(text)


_CANONICAL = {word: group.split()[0] for group in _SYNONYMS.split(",") for word in group.split()}


def _numbers(text: str) -> str:
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    text = _sub(rf"\b({'|'.join(_SMALL)})\b(?!-)", lambda match: str(_SMALL[match[1].lower()]), text)
    for pattern, unit in _UNITS:
        text = _sub(rf"(?<=\d) ?(?:{pattern})(?![\w%])", f" {unit}", text)
    text = re.sub(r"\$(\d[\d.]*)", r"\1 dollars", text)
    for month in _MONTHS:
        if month != "may":
            text = _sub(rf"\b{month[:3]}\.? (?=\d)|\b{month} (?=\d)", f"{month} ", text)
        text = _sub(rf"(?<={month} )(\d+)(?:st|nd|rd|th)\b", r"\1", text)
    return text


def _without_courtesy(text: str) -> str:
    before = None
    while before != text:
        before = text
        text = _sub(r"^(?:hi|hello|hey)(?: there)?!? (\w)(?=[a-z' ])", lambda match: match[1].lower(), text)
        text = _sub(r"^(?:please|pls|kindly) |,? (?:please|pls|thanks|thank you)$", "", text)
        text = _sub(
            r"^(?:(?:can|could|would|will) you (?:please |kindly )?)?(?:tell me|let me know) (?!about\b|a\b|an\b|how to\b)",
            "\x02",
            text,
        )
        text = _sub(r"^i (?:want|would like|need) to know (?!about\b|if\b|whether\b)", "\x02", text)
        text = _sub(
            r"^(?:do you (?:happen to )?know|i (?:wonder|am wondering|was wondering)|any idea) "
            r"(?!about\b|if\b|whether\b|any|a\b|an\b)",
            "\x02",
            text,
        )
        text = _sub(rf"^(?:can|could) you (?:please |kindly )?(?=(?:{_IMPERATIVES}) )", "", text)
        text = text.removeprefix("\x02\x02") if text.startswith("\x02\x02") else text
    if text.startswith("\x02"):
        text = _direct(text[1:])
    return _sub(rf"^((?:{_IMPERATIVES}) .+) for me$", r"\1", text)


def _direct(text: str) -> str:
    """Turns an indirect question ("what the capital of France is") into a direct one."""
    if not re.match(rf"(?:{_WH})\b", text, re.IGNORECASE):
        return _sub(r"^the ", "what is the ", text)
    rules = (
        (rf"^(what|who|where) (.+) ({_BE})$", r"\1 \3 \2"),
        (rf"^(what|who|where) (.+) ({_BE}) (located|situated|called)$", r"\1 \3 \2 \4"),
        (
            rf"^(why|how (?:far|tall|old|big|large|long|high|deep|heavy)) (?!{_BE}|do|does|did)(.+?) ({_BE})\b",
            r"\1 \3 \2",
        ),
        (r"^(how|where|when|why|what) i (can|could|should|would|must)\b", r"\1 \2 i"),
        (r"^how much (?!does|do|is|are|did)(.+) costs$", r"how much does \1 cost"),
        (r"^how much (?!does|do|is|are|did)(.+) weighs$", r"how much does \1 weigh"),
        (r"^what (?!does|do|did)(.+) means$", r"what does \1 mean"),
    )
    for pattern, new in rules:
        direct = _sub(pattern, new, text)
        if direct != text:
            return direct
    return text


def _without_articles(text: str) -> str:
    """Drops "the", "an", and "a" where it is an article: "a few" is not "few", and vitamin A is not vitamin."""
    words = text.split()
    kept: list[str] = []
    for number, word in enumerate(words):
        after = words[number + 1].lower() if number + 1 < len(words) else ""
        before = words[number - 1].lower() if number else ""
        lower = word.lower()
        if lower == "the" and after not in ("most", "few", "only", "same", "first", "last", ""):
            continue
        if word == "an" and after:
            continue
        if (
            word == "a"
            and after
            and after not in ("few", "little", "lot", "bit", "couple")
            and before not in _LETTERED
        ):
            continue
        kept.append(word)
    return " ".join(kept)


_TURNS = (
    (rf"^(what|who) (?:{'is|are'}) ", r"\1 be "),
    (r"^how (?:do|can|could|would) i (?:go about )?(?!know\b|tell\b)", "how to "),
    (r"^how (?:does|can|would) one ", "how to "),
    (r"^what be (?:way|ways|steps|process|procedure) to ", "how to "),
    (r"^what (?:should|must|do|can) i (?:need to |have to )?do to ", "how to "),
    (r"^what steps (?:should|do|must) i (?:need to )?(?:take|follow) to ", "how to "),
    (r"^(?:show|teach|tell) me how to ", "how to "),
    (r"^(?:explain|describe)(?: to me)? how to ", "how to "),
    (r"^(?:way|ways|steps) to ", "how to "),
    (r"^how to (?:go about|manage to) ", "how to "),
    (rf"^(?:give me |tell me |show me )?((?:{_RELATIONS}) of )", r"what be \1"),
    (r"^(?:is it|would it be) possible (?:for me )?to ", "can i "),
    (r"^am i able to ", "can i "),
    (r"^(?:give|show|provide|make)(?: me)? list of ", "list "),
    (r"^(?:name|give me|tell me)(?= \d+ )", "list"),
    (r"^how (?:much time|long) does it take (?:me )?to ", "how long to "),
    (r"^how much time (?:is|be) (?:needed|required) to ", "how long to "),
    (r"^how many (.+?) (?:are there|are) in ", r"how many \1 in "),
    (r"^how many (.+?) (?:does|do) (.+) have$", r"how many \1 in \2"),
    (r"^what be number of (.+) in (.+)$", r"how many \1 in \2"),
    (r"^number of (.+) in (.+)$", r"how many \1 in \2"),
    (
        r"^what time is it (?:right now |now |currently )?in (.+?)(?: right now| now| currently)?$",
        r"what be time in \1",
    ),
    (r"^(?:what be )?(?:current )?time in (.+?)(?: right now| now| currently)?$", r"what be time in \1"),
    (rf"^(?:how come|what be reason (?:that|why)) (.+?) ({_BE}) ", r"why \2 \1 "),
    (r"^how (?:do|would|can) (?:you|i|one) say (.+) in (\w+)$", r"translate \1 to \2"),
    (r"^how to say (.+) in (\w+)$", r"translate \1 to \2"),
    (r"^(translate .+) into (\w+)$", r"\1 to \2"),
)

_QUESTIONS = (
    (r"^(?:how much|what) (?:does|do) (.+) cost$", r"what be price of \1"),
    (r"^what be cost of ", "what be price of "),
    (r"^how much (?:does|do) (.+) weigh$", r"what be weight of \1"),
    (r"^how tall (?:is|are) (.+)$", r"what be height of \1"),
    (r"^how old (?:is|are) (.+)$", r"what be age of \1"),
    (r"^how (?:big|large) (?:is|are) (.+)$", r"what be size of \1"),
    (r"^how deep (?:is|are) (.+)$", r"what be depth of \1"),
    (r"^how heavy (?:is|are) (.+)$", r"what be weight of \1"),
    (r"^what be location of (.+)$", r"where is \1"),
    (r"^(where (?:is|are) .+) (?:located|situated)$", r"\1"),
    (
        r"^who (?:be|was) (author|writer|inventor|painter|founder) of ",
        lambda match: f"who {_PAST[match[1].lower()]} ",
    ),
    (r"^what be (?:date of birth|birth date) of (.+)$", r"when was \1 born"),
    (r"^what (?:does|do) (.+) mean$", r"what be meaning of \1"),
    (r"^define ", "what be definition of "),
)  # fmt: skip


def _possessive(text: str) -> str:
    """Rewrites "X's Y" as "Y of X" if there is one owner. With two it stays as it is."""
    if text.count("'s") != 1:
        return text
    return _sub(rf"^what be (.+)'s ({_RELATIONS})$", r"what be \2 of \1", text)


def _difference(text: str) -> str:
    """Sorts the two things of a comparison, which have no order."""
    for pattern in (
        r"^what be differences? between (.+) and (.+)$",
        r"^how (?:do|does) (.+) and (.+) differ$",
        r"^how (?:does|do) (.+) differ from (.+)$",
        r"^how (?:is|are) (.+) different from (.+)$",
    ):
        match = re.match(pattern, text, re.IGNORECASE)
        if match and not any(
            re.search(r"\b(?:and|or|in|for|when|with)\b|,", side) for side in match.groups()
        ):
            return "difference between " + " and ".join(sorted(match.groups(), key=str.casefold))
    return text
