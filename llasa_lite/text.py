"""Text before it is tokens (cut, its signs put into words) and after it was heard (compared); knows no audio."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from functools import cache, lru_cache
from itertools import accumulate

_CLOSING = "”’」』）》〉】"  # marks that stay with what stands before them
# Chinese characters and kana: no spaces part their words.
_HAN = "\u3005\u3007\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
# Each takes as long to say as three letters (F5-TTS, too, counts them by their bytes of UTF-8). Counted as two, 50 of
# them read slowly, in the voice of 50 more, fill the context of 2,048: 2 * 50 * (0.36 s * 50 + 1) ids and those of the
# template. The paper's 100 have no room there, nor after a clip of 15 s.
HAN_CHARS = 2
# Where a cut is heard least, best first: sentence, clause, word.
_BOUNDARIES = (
    rf"(?<=[.!?…])[\"'”’»)\]]*\s+|[。！？][。！？…{_CLOSING}]*|(?<=\D[.!?])(?=[{_HAN}“「『（《【])",
    rf"(?<=[,;:])\s+|[，；：、][，；：、…{_CLOSING}]*|(?:(?<=[^\d,;:][,;:])|…[{_CLOSING}]*)(?=[{_HAN}“「『（《【])"
    r"|\s+(?=[-–—(])",
    # not within a number in words
    r"(?<! and)(?<! point)(?<! minus)(?<!hundred)(?<!thousand)(?<!illion)\s+(?!(?:hundred|thousand|\w?illion|point)\b)",
    r"\s+",
    rf"(?<=[{_HAN}])(?=\w)|(?<=[^\W\d])(?=[{_HAN}])",  # beside one of them: not within a word or a number in figures
)


def says_something(text: str) -> bool:
    """Whether there is a letter or digit in it: punctuation and emoji alone are not spoken."""
    return any(c.isalnum() for c in text)


def split(text: str, max_chars: int = 100) -> list[str]:
    """Cut text into pieces of at most about `max_chars` characters, as even as the boundaries allow.

    The number of pieces follows the paper ("if len(char) > 100 -> 2 chunks, > 200 -> 3 chunks, ..."), but that Chinese
    characters and kana count as two (`HAN_CHARS`); where to cut is not said there: we cut at the sentence end nearest
    to the even cut, else at a clause, else at a word, else in the word. Spaces run together; nothing else of the text
    is lost.

    Returns:
        pieces without surrounding space; [] for blank text. `" ".join(pieces)` reads as the text did.
    Raises:
        ValueError: max_chars below 1.
    """
    if max_chars < 1:
        raise ValueError(f"max_chars must be at least 1, not {max_chars}.")
    text = " ".join(text.split())
    pieces, left = [], _length(text)
    while left > max_chars and len(text) > 1:
        target = left / -(-left // max_chars)  # even pieces
        cut = _nearest_cut(text, target, max_chars)
        piece, rest = text[:cut], text[cut:].strip()
        left -= _length(piece) + len(text) - cut - len(rest)
        pieces.append(piece.strip())
        text = rest
    return [piece for piece in (*pieces, text) if piece]


def _nearest_cut(text: str, target: float, max_chars: int) -> int:
    near = text[: max_chars + 8]  # a cut lies there, with what follows it
    upto = [0, *accumulate(map(_length, near))]
    for pattern in _BOUNDARIES:
        cuts = [m.end() for m in re.finditer(pattern, near) if 0 < m.end() < len(text)]
        cuts = [c for c in cuts if 0.4 * target <= upto[c] and _length(text[:c].strip()) <= max_chars]
        if cuts:
            return min(cuts, key=lambda c: abs(upto[c] - target))
    return max(1, bisect_left(upto, target))


def _length(text: str) -> int:
    return len(text) + (HAN_CHARS - 1) * len(re.findall(f"[{_HAN}]", text))


def closed(piece: str) -> str:
    """A piece of text that ends as a sentence does: commas, dashes and emoji at its end make room for a full stop.

    For checkpoints that have only read whole sentences, and babble on where one does not end.

    Example:
        >>> closed("and then,"), closed('"Oh!"'), closed("hello")
        ('and then.', '"Oh!"', 'hello.')
    """
    kept = re.sub(r"[^\w.!?…\"')\]]+$", "", piece)
    return kept if re.search(r"[.!?…][\"')\]]*$", kept) else f"{kept}."


def normalize_transcript(text: str) -> str:
    """Lower case, no punctuation, single spaces: what is compared for a word error rate. Punctuation stands for a
    space, so that "well-known" and "well known" are the same."""
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    text = "".join(" " if unicodedata.category(c)[0] in "PSZ" and c != "'" else c for c in text)
    return " ".join(word.strip("'") for word in text.split() if word.strip("'"))


def plain_marks(text: str) -> str:
    """English text with no marks but those of the read sentences that a small model learned from: . , ? ! and, within
    words, ' and -. Brackets, dashes, colons, semicolons and full stops after one or two words become commas, quotation
    marks and other signs spaces.

    Example:
        >>> plain_marks('He said: "Wait (a bit) - please..." And/or not?!')
        'He said, Wait, a bit, please. And or not?'
    """
    text = unicodedata.normalize("NFC", text)  # an accent by itself would pass for a sign
    text = re.sub(r"[\u00ad\u200c-\u200f\u2060]", "", text)  # as would a soft hyphen, which is not seen within a word
    text = re.sub(r"(?:\.{2,}|…)(?=[\"”’')\]]*(?:$|\s+[A-Z\"“]))", ".", text)
    text = re.sub(r"(?<=[^\W\d_])’(?=[^\W\d_])", "'", text)
    text = re.sub(r"\.{2,}|…|(?<!\w)-+|-+(?!\w)|-{2,}|[–—−:;()\[\]{}]", ", ", text)
    text = re.sub(r"(?<!\w)'+|'+(?!\w)|[^\w\s.,?!'-]|_", " ", text)
    text = re.sub(r"(?<=\w)\.(?=[a-z])", " dot ", " ".join(text.split()))
    # of several in a row the strongest stands: "No!", he said
    text = re.sub(r" ?[.,?!](?: ?[.,?!])*", lambda m: min(m[0].replace(" ", ""), key="?!.,".index), text)
    text = " ".join(re.sub(r"([.,?!])(?=\w)", r"\1 ", text).lstrip(" .,?!").split())
    # the shortest sentences read have three words
    return re.sub(r"(?:^|(?<=[.?!] ))([\w'-]{2,}(?: [\w'-]{2,})?)\. (?=\w)", r"\1, ", text)


# What a text means to be said where a model has only ever read words. Keys as they stand in lower case.
_ABBREVIATIONS = {
    "mr.": "mister", "mrs.": "missus", "ms.": "miz", "dr.": "doctor", "prof.": "professor", "st.": "saint",
    "jr.": "junior", "sr.": "senior", "vs.": "versus", "etc.": "et cetera", "e.g.": "for example", "i.e.": "that is",
    "approx.": "approximately", "capt.": "captain", "gen.": "general", "sgt.": "sergeant",
    "lt.": "lieutenant", "mt.": "mount", "inc.": "incorporated", "ave.": "avenue", "blvd.": "boulevard", "rd.": "road",
    "apt.": "apartment", "rev.": "reverend", "gov.": "governor", "sen.": "senator", "ltd.": "limited",
    "a.m.": "ay em", "p.m.": "pee em", "a.k.a.": "also known as", "ph.d.": "pee aitch dee", "phd": "pee aitch dee",
    "vs": "versus",
}  # fmt: skip
_MONTHS = {
    name[:3]: name
    for name in "January February March April May June July August September October November December".split()
}
_MONTH = "Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec"
_SIGNS = {
    "&": "and", "%": "percent", "+": "plus", "=": "equals", "@": "at", "°": "degrees", "¢": "cents",
    "×": "times", "÷": "divided by", "±": "plus or minus", "²": "squared", "³": "cubed", "√": "the root of", "π": "pi",
    "≈": "is about", "≠": "is not", "≤": "is at most", "≥": "is at least",
}  # fmt: skip
# After a number, or per one.
_UNITS = {
    "mm": "millimeters", "cm": "centimeters", "m": "meters", "km": "kilometers", "ft": "feet", "mph": "miles per hour",
    "mg": "milligrams", "g": "grams", "kg": "kilograms", "lb": "pounds", "lbs": "pounds", "oz": "ounces",
    "ml": "milliliters", "l": "liters", "tsp": "teaspoons", "tbsp": "tablespoons",
    "s": "seconds", "sec": "seconds", "min": "minutes", "mins": "minutes", "h": "hours", "hr": "hours", "hrs": "hours",
    "Hz": "hertz", "kHz": "kilohertz", "MHz": "megahertz", "GHz": "gigahertz", "dB": "decibels", "kW": "kilowatts",
    "kWh": "kilowatt hours", "KB": "kilobytes", "MB": "megabytes", "GB": "gigabytes", "TB": "terabytes",
    "fps": "frames per second",
}  # fmt: skip
# Before a number.
_NUMBERED = {
    "no": "number", "nos": "numbers", "fig": "figure", "figs": "figures", "p": "page", "pp": "pages", "vol": "volume",
    "ch": "chapter",
}  # fmt: skip
# Letters that no accent tells from a to z, which is all that a small model may know.
_PLAIN = dict(zip("æÆœŒßøØłŁđĐðþÞı", "ae Ae oe Oe ss o O l L d D d th Th i".split()))
_LETTER_NAMES = (
    "ay bee see dee ee eff jee aitch eye jay kay ell em en oh pee cue ar ess tee you vee double-you ex why zee"
)
_LETTERS = dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", _LETTER_NAMES.split()))
_CURRENCIES = {"$": "USD", "£": "GBP", "€": "EUR", "₹": "INR"}  # those with cents, as num2words knows them
_CURRENCY_NAMES = {"$": "dollars", "£": "pounds", "€": "euros", "₹": "rupees", "¥": "yen", "₩": "won"}
_MONEY = f"[{''.join(_CURRENCY_NAMES)}]"
_SHORT = {"k": "thousand", "m": "million", "b": "billion", "bn": "billion", "tn": "trillion"}
_LARGE = "|".join(dict.fromkeys(_SHORT.values()))
# Words that are written in capitals to stress them, and would pass for initials.
_STRESSED = set(
    "ALL AM AN AND ANY ARE AS AT BE BIG BUT BY CAN DID DO FOR GET GO HAS HE HER HIM HIS HOW IF IN IS ME MY NEW NO NOT "
    "NOW OF OFF OLD ON ONE OR OUR OUT OWN SEE SHE SO STOP THAT THE THEY THIS TO TOO TWO UP WAS WE WHO WHY WILL WITH "
    "YES YOU YOUR".split()
)
# Roman numerals below 40, and what is counted by them where kings are not: World War two, Henry the eighth.
_ROMAN = [x + i for x in ("", "X", "XX", "XXX") for i in ("", *"I II III IV V VI VII VIII IX".split())]
_COUNTED = set(
    "Act Article Book Chapter Class Episode Figure Grade Group Level Mark Part Phase Round Scene Season Section Stage "
    "Table Title Type Volume War".split()
)
_WHOLE = r"\d{1,3}(?:,\d{3})+|\d+"
_NUMBER = rf"(?:{_WHOLE})(?:\.\d+)?"
_ENDPOINT = rf"({_MONEY}?(?:\d{{1,3}}(?:,\d{{3}})+|\d{{1,5}})(?:\.\d+)?[km]?|\d\d?:\d\d)"
# spaces alone part other numbers, too, and 500-1000 is a range
_TELEPHONE = (
    r"(?<![\w.,/–-])(?:"
    r"(?<!\()(?:(?:(?:\+\d{1,3}|1)[ .-])?(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[.-]|\+\d{1,3} \d{3} \d{3} "
    r"|(?!\d\d0-\d{3}0)\d{3}-)\d{4}"
    r"|0\d{2,4}[ -]\d{3,4}[ -]?\d{3,4})(?![\w–-]|[.,/]\d)"
)
_MEASURE = (
    rf"(?<![\d.,/⁄])([\d.,/⁄]*\d)([\s-]?)({'|'.join(_UNITS)}|(?=/))"
    rf"(?:/({'|'.join(_UNITS)}|second|minute|hour|day|week|month|year|person|night))?(?![^\W²³]|/)(?:\.(?=\s[a-z]))?"
)


def spell_out(text: str) -> str:
    """English text as it is said: numbers, dates' years, money, times, signs, abbreviations, and letters one by one.

    For checkpoints that learned from words alone; a released Llasa reads "Dr. 3" by itself and is left alone. Numbers
    are put into words by `num2words`. What is not understood stays as it is.

    Example:
        >>> spell_out("Dr. Lee paid $3.50 at 9:30 in 1999.")
        'doctor Lee paid three dollars, fifty cents at nine thirty in nineteen ninety-nine.'
    """
    text = " ".join("".join(map(_plain, _lines(text))).split())
    shouted = not any(c.islower() for c in text)  # then capitals are no initials; what follows writes lower case
    for pattern, said in _NORMALIZATION if shouted else _NORMALIZATION + _CAPITALS:
        text = pattern.sub(said, text)
    return " ".join(re.sub(r"\s+([.,!?;:)])", r"\1", text).split())


@lru_cache(10_000)  # num2words takes a millisecond
def _in_words(number: str, to: str = "cardinal", **more) -> str:
    from num2words import num2words

    if "." in number and to == "cardinal":  # 3.10 is no 3.1: after the point digits, in 2.0.10 numbers
        whole, *parts = number.split(".")
        decimals = [_digits(parts[0])] if len(parts) == 1 else map(_in_words, parts)
        return " point ".join([_in_words(whole), *decimals])
    if len(number) > 15 or re.match(r"0\d", number):  # a serial number
        return _digits(number)
    return num2words(number, to=to, **more).replace("thousand,", "thousand").replace("million,", "million")


def _digits(number: str) -> str:
    """One by one; a point among them is not said."""
    return " ".join(_in_words(digit) for digit in number if digit.isdigit())


def _lines(text: str) -> str:
    """A line that ends without a mark gets a comma where the next one is an item of a list or begins with a capital,
    a full stop before an empty line; elsewhere, as where a paragraph is wrapped, a line break is a space."""
    said, parted, before = [], False, ""
    lines = [line.strip() for line in text.splitlines()]
    width = max([50, *map(len, lines)])
    for line in lines:
        item = re.sub(r"^(?:[-*•·–—]\s+)?(\d{1,3}[.)]\s)?", lambda m: f"{m[1][:-2]}, " if m[1] else "", line)
        if not says_something(item):
            parted = True
            continue
        wrapped = len(before) + 1 + len(line.split()[0]) > width  # the word would not have fitted there
        begins = parted or item != line or item[0].isupper() and not wrapped
        if said and begins and says_something(said[-1][-1]):
            said[-1] += "." if parted else ","
        said.append(item)
        parted, before = False, line
    return " ".join(said) if len(said) > 1 else text


def _expanded(match) -> str:
    known, rest = match[0].lower(), match.string[match.end() :]
    # its period is the sentence's, too
    ends = not rest.strip() or known in ("a.m.", "p.m.", "etc.") and re.match(r"\s+[A-Z]", rest)
    return _ABBREVIATIONS[known] + "." * bool(ends)


def _street(match) -> str:
    """Main St., where St. Mary's is a saint's."""
    return f"{match[1]} Street" + "." * (match[2] is not None)


def _telephone(match) -> str:
    """555-1234, (212) 555-1234, +1 212 555 1234: digit by digit, with a pause between the groups."""
    return "plus " * match[0].startswith("+") + ", ".join(map(_digits, re.findall(r"\d+", match[0])))


def _range(match) -> str:
    """10-20, $10-20, 1990-1995, 1990-95, 9:30-10:30; what does not go up (3-2, 747-400), or is a month's (9-1999),
    stays."""
    first, last = (float(re.sub(r"[^\d.]", "", one)) for one in match.groups())
    times = ":" in match[1] and ":" in match[2]
    goes_up = first < last and not (first <= 12 and 1900 <= last < 2100)
    of_years = re.fullmatch(r"1[1-9]\d\d|20\d\d", match[1]) and re.fullmatch(r"\d\d", match[2]) and first % 100 < last
    if not (times or goes_up or of_years):
        return match[0]
    low, high = match[0].replace("–", "-").split("-")
    if sign := re.match(_MONEY, low):  # said once, after both: 5 to $10 million, but $1.50 to $2, $5m to $10m
        high = sign[0] + high.removeprefix(sign[0])
        low = low if re.search(r"\.\d\d$|[km]$", low) else low.removeprefix(sign[0])
    return f"{low} to {high}"


def _date(match) -> str:
    """2024-01-31: January thirty-first, 2024, which is read as a year by the rule for those."""
    year, month, day = match.groups()
    return f"{[*_MONTHS.values()][int(month) - 1]} {_in_words(day.lstrip('0'), to='ordinal')}, {year}"


def _measure(match) -> str:
    """5 kg, 1 kg, a 5-kg bag, 50 km/h, $5/month; a letter alone (5 m) may mean something else."""
    number, gap, unit, per = match.groups()
    if len(unit) == 1 and not per:
        return match[0]
    name = _UNITS.get(unit, "")
    if gap == "-" or re.fullmatch(r"1|\d+[/⁄]\d+", number):
        name = _singular(name)
    said = number + (gap or " ") + name
    return said + f" per {_singular(_UNITS.get(per, per))}" if per else said


def _singular(unit: str) -> str:
    """The first word is what is counted: mile per hour, kilowatt hour."""
    first, space, rest = unit.partition(" ")
    return "foot" if unit == "feet" else first.removesuffix("s") + space + rest.removesuffix("s")


def _money(match) -> str:
    if match[1] not in _CURRENCIES:
        return f"{_in_words(match[2].replace(',', ''))} {_CURRENCY_NAMES[match[1]]}"
    words = _in_words(match[2].replace(",", ""), to="currency", currency=_CURRENCIES[match[1]])
    if not words.startswith("one euro"):  # num2words has twenty euro
        words = re.sub(r"\beuro\b", "euros", words)
    return re.sub(r", zero (?:cents|pence|paise)$", "", words.replace(" sterling", ""))


def _plain(character: str) -> str:
    """½ as 1⁄2, ① as 1, ﬁ as fi, ø as o."""
    kind = unicodedata.category(character)
    if character in _SIGNS or kind[0] != "L" and kind != "No":
        return character
    plain = _PLAIN.get(character) or unicodedata.normalize("NFKC", character)
    return f" {plain} " if kind == "No" else plain


def _fraction(match) -> str:
    """1/2, 2 3/4; what is rather a date or a year (9/11, 24/7) stays as it is."""
    top, bottom = int(match[2]), int(match[3])
    if not (0 < top < bottom and bottom in (*range(2, 11), 16)):
        return match[0]
    part = {2: "half", 4: "quarter"}.get(bottom) or _in_words(match[3], to="ordinal")
    return f"{match[1] + 'and ' if match[1] else ''}{_in_words(match[2])} {part}{'s' * (top > 1)}"


def _time(match) -> str:
    hour, minutes = _in_words(str(int(match[1]))), int(match[2])
    if minutes == 0:
        return f"{hour} o'clock"
    return f"{hour} {'oh ' if minutes < 10 else ''}{_in_words(str(minutes))}"


def _year(match) -> str:
    words = _in_words(match[1], to="year")
    return re.sub(r"y$", "ie", words) + "s" if match[2] else words


def _roman(match) -> str:
    """Louis XIV; what is none (IIX) or has no name before it (The IV drip) stays."""
    if match[2] not in _ROMAN or match[1] in ("A", "An", "And", "The"):
        return match[0]
    number = str(_ROMAN.index(match[2]))
    counted = match[1] in _COUNTED
    return f"{match[1]} {_in_words(number) if counted else 'the ' + _in_words(number, to='ordinal')}"


def _shouted(match) -> str:
    """A heading or a cry (THE ART OF WAR), where capitals are no initials; BBC ITV HBO are."""
    cried = re.search("['’]", match[0]) or _STRESSED & set(match[0].split())
    return match[0].capitalize() if cried else match[0]


def _letter_by_letter(match) -> str:
    """Initials; what has a vowel and four letters or more is taken for a word (NASA, ASAP), and so is one that is
    stressed (do NOT touch)."""
    letters = match[0].replace(".", "")
    if match[0] in _STRESSED:
        return match[0].lower()
    if "." not in match[0] and len(letters) > 3 and set(letters) & set("AEIOU"):
        return match[0]
    return _letters(letters)


def _letters(initials: str) -> str:
    return " ".join(_LETTERS[letter] for letter in initials)


def _rules(*rules) -> tuple:
    return tuple((re.compile(pattern), said) for pattern, said in rules)


# What is written, and what is said for it: one after the other, so that a rule reads what those above it left.
_NORMALIZATION = _rules(
    (r"\bhttps?://", ""),
    # 2024-01-31; AT&T; w/ and w/o
    (r"\b(\d{4})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])\b(?!-)", _date),
    (r"\b([A-Z]{1,3})&([A-Z]{1,3})(?=s?\b)", lambda m: f"{_letters(m[1])} and {_letters(m[2])}"),
    (r"\bw/(o\b)?(?=\s)", lambda m: "without" if m[1] else "with"),
    (_TELEPHONE, _telephone),
    # 3 * 4 and 3 x 4, but 2x4; 1.5x and 10x faster, but 2x + 1; 10-3=7; x < 5, but not <3
    (r"(?<=[\d)])(?: ?\* ?| x )(?=[\d(])", " times "),
    (r"(?<=\d)(?<!\b0)x(?=\d)", " by "),
    (r"(?<=\.\d)x\b|(?<=\d)x(?= (?:\w+er|more|less|as|the)\b)", " times"),
    (r"(?<=[\w)])( ?)<\1(?=\d)", " is less than "),
    (r"(?<=[\w)])( ?)>\1(?=\d)", " is more than "),
    (r"(?<=[\w)]) ?[-−–] ?(?=[\d ()+.−–-]{0,40}=)", " minus "),
    # 10-20; numbers that no range joins are read one by one
    (rf"(?<![\w.,:/–-]){_ENDPOINT}%?[–-]{_ENDPOINT}(?![\d–-]|[.,:/]\d)", _range),
    (rf"(?<=[\d%])-(?={_MONEY}?\d)", " - "),
    # 9 AM, 9p.m.; 9.30 am
    (r"(?i)(?<=\d)\s?([ap])(?:m\b|\.m\b\.?)", r" \1.m."),
    (r"(?i)\b(1?\d)\.([0-5]\d)(?=\s?[ap]\.m\.)", r"\1:\2"),
    (r"(?i)(?<=[ap]\.m\.)[-–](?=\d)", " to "),
    # Main St.; 12 Oak Dr.; Mr Lee, as the British write; Jan. 5
    (r"\b([A-Z][a-z]+|\d+(?:st|nd|rd|th)) St\.(?=(\s*$)?)(?!\s+[A-Z])", _street),
    (r"(\b\d+[A-Z]?(?: [A-Z][a-z]+)+) Dr\.,?", r"\1 Drive,"),
    (r"\b(Mrs?|Ms|Dr|Prof)(?=\s[A-Z])", r"\1."),
    (rf"\b({_MONTH})\.?(?=\s\d)|(?<=\d\s)({_MONTH})\b", lambda m: _MONTHS[(m[1] or m[2])[:3]]),
    (r"(?i)(?<![\w.])(?:" + "|".join(re.escape(a) for a in _ABBREVIATIONS) + r")(?!\w)", _expanded),
    # 5'10"; 20 °C; 5 kg; no. 5 and #5, pp. 3 to 5
    (r"(?<![\w.])(\d)['’′](\d\d?)[\"”″](?!\w)", r"\1 foot \2"),
    (r" ?° ?([CF])\b", lambda m: f" degrees {'Celsius' if m[1] == 'C' else 'Fahrenheit'}"),
    (_MEASURE, _measure),
    (rf"(?i)\b({'|'.join(_NUMBERED)})\.\s?(?=\d)", lambda m: f"{_NUMBERED[m[1].lower()]} "),
    (r"#\s?(?=\d)", "number "),
    # money: 20 € is €20, -$5 and $-5, US$5, $.50, $3M, $3 million
    (rf"(?<![\w,.]|{_MONEY})({_NUMBER})\s?({_MONEY})(?!\.?\d)", r"\2\1"),
    (rf"(?<![\w.])[-−](?={_MONEY}\s?\.?\d)", "minus "),
    (rf"({_MONEY})\s?[-−](?=\.?\d)", r"minus \1"),
    (rf"(?<=[^\W\d_])(?={_MONEY}\s?\.?\d)", " "),
    (rf"({_MONEY})\.(?=\d)", r"\g<1>0."),
    (rf"(?i)({_MONEY}\s?(?:{_NUMBER}))(k|m|bn?|tn)\b", lambda m: f"{m[1]} {_SHORT[m[2].lower()]}"),
    (rf"({_MONEY})\s?({_NUMBER})\s({_LARGE})\b", lambda m: f"{m[2]} {m[3]} {_CURRENCY_NAMES[m[1]]}"),
    (rf"({_MONEY})\s?({_NUMBER})(?!\w)", _money),
    # 9:30, 21st, the '90s, 1999
    (r"\b([01]?\d|2[0-3]):([0-5]\d)\b", _time),
    (rf"(?i)\b({_WHOLE})(?:st|nd|rd|th)\b", lambda m: _in_words(m[1].replace(",", ""), to="ordinal")),
    (r"(?<![\w,.])['’]?([2-9]0)['’]?s\b", lambda m: f"{_in_words(m[1])[:-1]}ies"),
    (r"(?<![\d,.])(1[1-9]\d\d|20\d\d)(s?)(?!,?\d|\.\d|\w)", _year),
    # -5; 1/2; every other number: a hyphen to a word stays in it, with space around it would pass for a dash
    (rf"(?:(?<=\s)|^|(?<=\())[-−](?={_NUMBER})", "minus "),
    (r"(\d )?(?<![\d/⁄.,])([1-9]\d?)[/⁄]([1-9]\d?)(?![\d/⁄]|[.,]\d)", _fraction),
    (
        rf"([^\W\d_]-)?({_NUMBER}(?:\.\d+)*)(-(?=[^\W\d_]))?",
        lambda m: f"{m[1] or ' '}{_in_words(m[2].replace(',', ''))}{m[3] or ' '}",
    ),
    (f"[{''.join(_SIGNS)}]", lambda m: f" {_SIGNS[m[0]]} "),
    # Louis XIV
    (r"\b([A-Z][a-z]+) ([IVX]{2,})\b(?!['’][A-Z])", _roman),
)
# THE ART OF WAR; the BBC, TVs, the U.S.
_CAPITALS = _rules(
    (r"\b[A-Z]+(?:['’][A-Z]+)?(?: [A-Z]+(?:['’][A-Z]+)?){2,}\b", _shouted),
    (
        r"(?<![A-Z]['’])\b(?:[A-Z]{2,5}\b(?!['’][A-Z])|[A-Z]{2,5}(?=s\b)|(?:[A-Z]\.){2,5}(?!\w))",
        _letter_by_letter,
    ),
)


def join(first: str, second: str) -> str:
    """Transcript of a voice prompt + text to speak: one space between, none where either side writes without spaces."""
    first, second = first.strip(), second.strip()
    # quotes and dashes are the same in Chinese as in English: what they enclose tells
    last, next_ = first.rstrip("”’…—")[-1:], second.lstrip("“‘…—")[:1]
    spaced = first and second and not (_is_cjk(last) or _is_cjk(next_))
    return f"{first} {second}" if spaced else first + second


def _is_cjk(character: str) -> bool:
    return bool(re.match(r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]", character))


def has_words(text: str) -> bool:
    """Whether errors are counted by word; scripts without spaces between words are counted by character. Marks do not
    tell: "Hello，how are you？" is English that was typed on a Chinese keyboard."""
    return not re.search(f"[{_HAN}]", text)


def simplified(text: str) -> str:
    """Chinese in simplified characters, by OpenCC. Raises ValueError where that is not installed."""
    return _simplifier().convert(text)


@cache
def _simplifier():
    try:
        from opencc import OpenCC
    except ModuleNotFoundError as error:
        raise ValueError('Chinese is counted in simplified characters: pip install "llasa-lite[eval]".') from error
    return OpenCC("t2s")


def edits(truth: str, heard: str, by_word: bool = True) -> tuple[int, int]:
    """Substitutions, insertions and deletions between two transcripts, and the words (or characters) of the truth.

    Both are normalised (`normalize_transcript`); spaces do not count among characters.
    """
    return _edits(normalize_transcript(truth), normalize_transcript(heard), by_word)


def seed_tts_error_rate(truth: str, heard: str, by_word: bool = True) -> float:
    """WER, or CER, of one utterance as seed-tts-eval counts it (`run_wer.py` there): punctuation but for ' is left out,
    so that "well-known" is one word. Its tables have the mean over utterances, where short ones weigh as much as long
    ones."""

    def bare(text: str) -> str:
        text = text.lower() if by_word else text  # nor does the script put the letters in Chinese into lower case
        return "".join(c for c in text if c == "'" or unicodedata.category(c)[0] not in "PS")

    wrong, length = _edits(bare(truth), bare(heard), by_word)
    return wrong / max(length, 1)


def _edits(truth: str, heard: str, by_word: bool) -> tuple[int, int]:
    import jiwer

    if not by_word:
        truth, heard = (" ".join(t.replace(" ", "")) for t in (truth, heard))
    if not truth.strip():  # jiwer takes no empty truth
        return len(heard.split()), 0
    found = jiwer.process_words(truth, heard)
    return found.substitutions + found.insertions + found.deletions, len(truth.split())


def error_rate(truth: str, heard: str, by_word: bool = True) -> float:
    """Edits / length of the truth: WER, or CER. 0 is perfect, above 1 is possible."""
    wrong, length = edits(truth, heard, by_word)
    return wrong / max(length, 1)
