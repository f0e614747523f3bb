"""The rules of the embedded grammar as data: tenses, what may follow what, and how often."""

from __future__ import annotations

#: The verb group of each tense in both languages: V is the verb, A the auxiliary avoir or être.
VERB_GROUPS: dict[str, tuple[str, str]] = {
    "present": ("V.present", "V.present"),
    "progressive": ("be.present V.gerund", "V.present"),
    "past": ("V.past", "A.present V.participle"),
    "past_progressive": ("be.past V.gerund", "V.imperfect"),
    "used_to": ("used to V.base", "V.imperfect"),
    "perfect": ("have.present V.participle", "A.present V.participle"),
    "pluperfect": ("have.past V.participle", "A.imperfect V.participle"),
    "just": ("have.present just V.participle", "venir.present de V.infinitive"),
    "going_to": ("be.present going to V.base", "aller.present V.infinitive"),
    "future": ("will V.base", "V.future"),
    "would": ("would V.base", "V.conditional"),
    "infinitive": ("V.base", "V.infinitive"),
    "gerund": ("V.gerund", "V.infinitive"),
}
ENGLISH_GROUPS = {tense: tuple(en.split()) for tense, (en, _) in VERB_GROUPS.items()}
FRENCH_GROUPS = {tense: tuple(fr.split()) for tense, (_, fr) in VERB_GROUPS.items()}
PAST_STATE = ("V.imperfect",)  # was, knew; and crossed, if every day

#: What a connective's mood makes of the French verb group, by whether the English is past.
MOODS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "subjunctive": (("V.subjunctive",), ("A.subjunctive", "V.participle")),
    "subjunctive_present": (("V.subjunctive",), ("V.subjunctive",)),
    "future": (("V.future",), ("V.future",)),
}
PAST_TENSES = frozenset(["past", "past_progressive", "used_to", "perfect", "pluperfect"])

NEGATIONS = {
    "not": ("not", "pas"), "never": ("never", "jamais"), "no_longer": ("no longer", "plus"),
}  # fmt: skip

#: How often each production is taken. Adjust here; what may be produced does not change.
CHANCE = {
    "plural": 0.25, "adjective": 0.28, "second_adjective": 0.1, "relative": 0.12, "owner": 0.06,
    "joined": 0.05, "name": 0.25, "exophoric": 0.3, "anaphor": 0.65, "object_pronoun": 0.45,
    "speaker_object": 0.05, "negation": 0.2, "contracted": 0.35, "time": 0.2, "time_first": 0.4,
    "place": 0.16, "manner": 0.06, "frequency": 0.1, "degree": 0.5, "purpose": 0.05,
    "also": 0.08, "question": 0.08, "front": 0.2, "silent": 0.4, "unseen": 0.5,
}  # fmt: skip

#: Kinds of clause and their weights.
SHAPES = {"verb": 66, "adjective": 22, "there": 5, "weather": 3, "profession": 4}

#: Determiners by what the noun is and where it stands.
DETERMINERS = {
    "singular": {"the": 55, "a": 22, "this": 6, "that": 3, "own": 14, "every": 1},
    "singular subject": {"the": 74, "a": 6, "this": 6, "that": 3, "my": 5, "our": 3, "your": 3},
    "plural": {"the": 46, "some": 12, "bare": 10, "two": 5, "three": 3, "four": 2, "five": 1,
               "eight": 1, "ten": 1, "many": 4, "several": 3, "this": 4, "that": 2,
               "all": 3, "own": 8},
    "plural subject": {"the": 66, "two": 6, "three": 4, "four": 1, "five": 1, "eight": 1,
                       "many": 5, "several": 3, "this": 6, "that": 2, "all": 4, "my": 4, "our": 2},
    "mass": {"the": 40, "some": 28, "bare": 20, "this": 4, "own": 8},
    "mass subject": {"the": 76, "this": 14, "my": 6, "your": 4},
    "family": {"own": 70, "the": 15, "a": 5, "my": 10},
    "family subject": {"my": 45, "your": 15, "our": 15, "the": 25},
    "there": {"a": 10, "some": 5, "two": 3, "three": 2, "many": 3, "several": 2, "five": 1},
    "count": {"two": 6, "three": 4, "four": 2, "five": 2, "ten": 1, "eight": 1, "several": 1},
}  # fmt: skip

#: Tenses of a main clause, and of a clause after each kind of connective, by time frame.
TENSES = {
    "past": {"past": 70, "past_progressive": 9, "used_to": 7, "pluperfect": 3},
    "present": {"present": 36, "progressive": 16, "perfect": 16, "future": 16, "going_to": 10,
                "just": 6},
}  # fmt: skip
CHAINS: dict[str, dict[str, dict[str, int]]] = {
    "and": TENSES,
    "then": {"past": {"past": 1}, "present": {"future": 1, "going_to": 1}},
    "cause": {
        "past": {"past": 70, "past_progressive": 8, "pluperfect": 12},
        "present": {"present": 50, "progressive": 10, "perfect": 15, "going_to": 8, "just": 8},
    },
    "time": {"past": {"past": 1}, "present": {"present": 1}},
    "during": {"past": {"past_progressive": 1}, "present": {"progressive": 1}},
    "condition": {"present": {"present": 5, "perfect": 1}},
    "concession": {
        "past": {"past": 70, "pluperfect": 20},
        "present": {"present": 60, "perfect": 25},
    },
    "before": {"past": {"past": 1}, "present": {"present": 1}},
    "after": {"past": {"past": 1}},
}
#: Tenses the governing clause must have for some connectives.
GOVERNED_BY = {
    "time": {"past", "present", "future", "going_to", "past_progressive"},
    "condition": {"present", "future", "going_to"},
    "before": {"past", "present", "future", "going_to"},
    "after": {"past"},
    "during": {"past", "past_progressive", "present", "progressive"},
    "then": {"past", "future", "going_to"},
}
REPORTED = {
    "past": {"past_state": 4, "past_progressive": 2, "pluperfect": 5, "would": 3},
    "present": {"present": 5, "progressive": 2, "past": 2, "perfect": 2, "future": 3,
                "going_to": 1},
}  # fmt: skip
PAST_FRAME = frozenset(TENSES["past"])
NEVER = frozenset(["present", "past", "perfect", "future"])
NO_LONGER = frozenset(["present", "progressive", "future"])
DYNAMIC_ONLY = frozenset(
    ["progressive", "past_progressive", "perfect", "pluperfect", "just", "used_to"]
)
#: Classes of which one may say *the man's ...*
OWNED = frozenset(["beast", "garment", "jewel", "container", "object", "text", "instrument",
                   "carriage", "cycle", "furniture", "room", "garden", "idea", "art"])  # fmt: skip
#: Classes met often enough that a combination may be kept for ``test_unseen``.
COMMON = frozenset(["person", "family", "profession", "beast", "bird", "object", "container",
                    "garment", "text", "furniture", "carriage", "building", "room", "road",
                    "fruit"])  # fmt: skip
#: Determiners of nouns without a singular, by their French number: these trousers, ce pantalon.
PLURAL_ONLY = {
    "s": frozenset(["the", "this", "that", "own", "my", "your", "our"]),
    "": frozenset(["the", "this", "that", "own", "my", "your", "our", "some", "bare"]),
}
#: Classes (and nouns) of which one may say *my ..., his ...*
OWNABLE = OWNED | frozenset(
    ["family", "machine", "building", "fruit", "staple", "drink", "money", "task", "profession",
     "friend", "neighbour", "guest", "child", "trip", "wedding", "party", "body", "hair", "flower"]
)  # fmt: skip
#: Nouns that English leaves without an article.
ARTICLELESS = frozenset(["sport", "language", "meal", "country_f", "country_m", "city"])
HUMAN = frozenset(["man_name", "woman_name", "person", "family", "profession"])
SPEAKERS = ("I", "you", "we")
OWN = {"I": "my", "you": "your", "we": "our", "he": "his", "she": "her", "it": "its",
       "they": "their"}  # fmt: skip
NO_NEGATION = frozenset(["think", "believe", "hope"])  # the French clause would be subjunctive
