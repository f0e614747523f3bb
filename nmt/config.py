"""The whole configuration as dataclasses, and the only place that knows Hydra and OmegaConf.

A command line such as ``nmt train data=mini_en_fr model=lstm seed=2`` is composed by Hydra from
the YAML groups under ``configs/``, checked against the schema below, and handed on as one plain
:class:`Config`. Nothing behind this module sees a ``DictConfig``.

The dataclasses have slots and keyword-only fields, so that a key Hydra was told to add
(``+model.foo=1``) fails when the object is built; ranges are checked in ``__post_init__``.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from nmt.errors import UserError

FORMAT = 1
"""Format number of ``config.yaml`` in a run directory."""


def resource(name: str) -> Path:
    """Path of a file or folder that travels with the code: ``configs`` or a file of ``data/``.

    An installed wheel carries them inside the package; a checkout (also an editable install) has
    them beside it.

    Raises:
        UserError: it is in neither place.
    """
    package = Path(__file__).parent
    for candidate in (
        package / "resources" / name,
        package.parent / name,
        package.parent / "data" / name,
    ):
        if candidate.exists():
            return candidate
    raise UserError(f"{name} is missing from this installation of nmt; install it again")


# --- closed sets of names ------------------------------------------------------------------------


class Source(StrEnum):
    """Kind of place where sentence pairs come from."""

    grammar = "grammar"
    files = "files"
    tsv = "tsv"
    jsonl = "jsonl"
    hub = "hub"
    sacrebleu = "sacrebleu"


class InvalidUtf8(StrEnum):
    error = "error"
    drop = "drop"


class Subwords(StrEnum):
    unigram = "unigram"
    bpe = "bpe"


class ModelKind(StrEnum):
    lstm = "lstm"
    transformer = "transformer"


class Cell(StrEnum):
    lstm = "lstm"
    gru = "gru"


class Norm(StrEnum):
    pre = "pre"
    post = "post"


class Positions(StrEnum):
    """How a Transformer knows the order of words; none leaves the encoder a bag of words."""

    sinusoidal = "sinusoidal"
    learned = "learned"
    rotary = "rotary"
    none = "none"


class Tie(StrEnum):
    """Which embedding matrices are one: none, target input and output, or these and the source."""

    none = "none"
    decoder = "decoder"
    all = "all"


class Activation(StrEnum):
    relu = "relu"
    gelu = "gelu"


class Bridge(StrEnum):
    """What the recurrent decoder starts from."""

    zeros = "zeros"
    last = "last"
    learned = "learned"


class Score(StrEnum):
    none = "none"
    dot = "dot"
    general = "general"
    additive = "additive"
    scaled_dot = "scaled_dot"
    cosine = "cosine"
    location = "location"


class Timing(StrEnum):
    """Which decoder state asks: the one before the step (Bahdanau) or the one after (Luong)."""

    previous = "previous"
    current = "current"


class Window(StrEnum):
    """Which source positions a recurrent decoder's attention may see."""

    full = "full"
    local_m = "local_m"
    local_p = "local_p"


class Pattern(StrEnum):
    """What each attention of a Transformer computes."""

    full = "full"
    sliding = "sliding"
    linear = "linear"


class OptimizerName(StrEnum):
    adam = "adam"
    adamw = "adamw"


class Schedule(StrEnum):
    inverse_sqrt = "inverse_sqrt"
    cosine = "cosine"
    linear = "linear"
    constant = "constant"


class Precision(StrEnum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Metric(StrEnum):
    bleu = "bleu"
    chrf = "chrf"
    loss = "loss"


# --- checks --------------------------------------------------------------------------------------


def _at_least(low: float, group: str, config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not low <= value < math.inf:
            raise UserError(f"{group}.{name} must be at least {low}, got {value}")


def _above(low: float, group: str, config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not low < value < math.inf:
            raise UserError(f"{group}.{name} must be above {low}, got {value}")


def _at_most(high: float, group: str, config: object, *names: str) -> None:
    """Far above what anyone needs: a number that would only fill the memory."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value > high:
            raise UserError(f"{group}.{name} must be at most {high:,}, got {value}")


def _rate(group: str, config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not 0.0 <= value < 1.0:
            raise UserError(f"{group}.{name} must be at least 0 and below 1, got {value}")


# --- the schema ----------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Corpus:
    """One named corpus: ``path`` is a prefix, one file, a hub id, or source, target, reference …"""

    name: str
    path: list[str]
    kind: Source
    weight: float = 1.0
    """How often an epoch sees each pair of a training corpus; see ``nmt.data.mixture``."""
    tag: str = ""
    """A token such as ``<bt>`` that is put in front of each source."""

    def __post_init__(self) -> None:
        self.kind = Source(self.kind)


def _corpora(value: Any, kind: Source, key: str) -> list[Corpus] | None:
    """Every form in which a corpus may be written, as a list of named corpora.

    ``PREFIX`` · ``[source, target]`` · ``[{name: …, path: …, weight: …, tag: …}, …]`` ·
    ``{name: PREFIX, …}``; a path ``sacrebleu:NAME`` names one of sacreBLEU's test sets.
    """
    if value is None:
        return None
    if isinstance(value, list) and value and all(isinstance(v, Corpus) for v in value):
        return value
    if isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
        found = [_corpus(v.get("name"), v, kind, key) for v in value]
    elif isinstance(value, dict):
        found = [_corpus(name, v, kind, key) for name, v in value.items()]
    else:
        found = [_corpus(key, value, kind, key)]
    names = [corpus.name for corpus in found]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise UserError(
            f"data.{key}: two corpora have the same name, {twice[0]!r}; tell them apart with name:"
        )
    return found


def _corpus(name: str | None, value: Any, kind: Source, key: str) -> Corpus:
    fields = dict(value) if isinstance(value, dict) else {"path": value}
    known = [f.name for f in dataclasses.fields(Corpus)]
    for unknown in fields.keys() - known:
        close = difflib.get_close_matches(str(unknown), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known)}"
        raise UserError(f"data.{key}: unknown key {unknown!r} of a corpus; {hint}")
    path = fields.pop("path", None)
    paths = [path] if isinstance(path, str) else path
    if not isinstance(paths, list) or not paths or not all(isinstance(p, str) for p in paths):
        raise UserError(
            f"data.{key} must be a path, [source, target] or a list of corpora with name and path, "
            f"got {value!r}"
        )
    if paths[0].startswith("sacrebleu:"):
        fields["kind"], paths = Source.sacrebleu, [paths[0].removeprefix("sacrebleu:")]
    fields.setdefault("kind", kind)
    fields["name"] = str(name or fields.get("name") or Path(paths[0]).name)
    where = f"data.{key}: {fields['name']}"
    if "tag" in fields:
        fields["tag"] = tag_token(fields["tag"], where)
    if "weight" in fields:
        fields["weight"] = _weight(fields["weight"], where)
        if fields["weight"] != 1.0 and key != "train":
            raise UserError(f"{where}: a weight is for training corpora; leave it out here")
    return Corpus(path=paths, **fields)


def _weight(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1_000:
        raise UserError(f"{where}: weight must be a number above 0 and at most 1,000, got {value}")
    return float(value)


def tag_token(value: Any, where: str) -> str:
    """The token of a tag: ``<bt>`` for ``<bt>`` and, shorter to type, for ``bt``.

    The brackets keep it from being found inside words.

    Raises:
        UserError: it is not one token, or one that means something else.
    """
    if value in ("", None):
        return ""
    token = value if str(value).startswith("<") else f"<{value}>"
    if not isinstance(value, str) or not _TAG.fullmatch(token):
        raise UserError(
            f"{where}: a tag is one token such as <bt> (letters, digits and . : + - in the "
            f"brackets, no space), got {value!r}"
        )
    return str(token)


_TAG = re.compile(r"<(?!(?:s|unk|pad|0x[0-9A-Fa-f]{2})>)[\w.:+-]+>")


@dataclass(slots=True, kw_only=True)
class GrammarConfig:
    """Sizes and seed of the embedded corpus."""

    train: int = 40_000  # 20,000 to 60,000 score alike in the quickstart: scripts/bench/RESULTS.md
    valid: int = 2_000
    test: int = 2_000
    seed: int = 1

    def __post_init__(self) -> None:
        _at_least(1, "data.grammar", self, "train", "valid", "test")
        _at_least(0, "data.grammar", self, "seed")


@dataclass(slots=True, kw_only=True)
class FilterConfig:
    """Cleaning filters, each on or off by name, and the numbers some of them need."""

    empty: bool = True
    too_long: bool = False
    ratio: bool = False
    duplicate_pair: bool = False
    duplicate_source: bool = False
    identical: bool = False
    control: bool = False
    script: bool = False
    overlap: bool = False
    max_words: int = 250
    max_characters: int = 2_000
    max_ratio: float = 9.0
    min_script_share: float = 0.5

    def __post_init__(self) -> None:
        _at_least(1, "data.filters", self, "max_words", "max_characters", "max_ratio")


@dataclass(slots=True, kw_only=True)
class DataConfig:
    name: str = "mini_en_fr"
    source: Source = Source.grammar
    languages: str = "en-fr"
    reverse: bool = False
    root: str = "."
    cache: str | None = None
    train: Any = None
    valid: Any = None
    test: Any = None
    """Each may be written in the forms of :func:`_corpora`; on a built object they are
    ``list[Corpus]``, or None where nothing was said."""
    hint: str = ""
    """Where to get a known corpus whose files are missing."""
    alignments: str | None = None
    """Word alignments of the training pairs, a Pharaoh line each, for train.guided_alignment."""
    columns: list[str] = field(default_factory=list)
    """Names (JSONL, hub) or 0-based numbers (TSV) of the source and the target column."""
    subset: str | None = None
    """Configuration name of a hub data set."""
    valid_size: int = 1_000
    test_size: int = 1_000
    """Pairs split off by a hash of the source sentence where there is no such part."""
    grammar: GrammarConfig = field(default_factory=GrammarConfig)
    filters: FilterConfig = field(default_factory=FilterConfig)
    invalid_utf8: InvalidUtf8 = InvalidUtf8.error
    max_removed: float = 0.5
    """Preparing fails when the filters remove a larger share than this."""
    show: int = 0

    def __post_init__(self) -> None:
        parts = self.languages.split("-")
        if len(parts) != 2 or not all(parts):
            raise UserError(f"data.languages must look like en-fr, got {self.languages!r}")
        if not re.fullmatch(r"\w[\w.-]*", self.name):  # it becomes the name of a folder
            raise UserError(
                f"data.name may hold letters, digits, '.', '_' and '-' only, got {self.name!r}"
            )
        if not 0.0 <= self.max_removed <= 1.0:
            raise UserError(f"data.max_removed must lie in [0, 1], got {self.max_removed}")
        _at_least(0, "data", self, "valid_size", "test_size", "show")
        self.train = _corpora(self.train, self.source, "train")
        self.valid = _corpora(self.valid, self.source, "valid")
        self.test = _corpora(self.test, self.source, "test")
        if self.source is not Source.grammar and not self.train:
            raise UserError(
                f"data={self.name} needs data.train=…: a prefix (PREFIX.{parts[0]} and "
                f"PREFIX.{parts[1]}), [source, target], one file or a hub id"
            )

    @property
    def tags(self) -> list[str]:
        """The tags of all corpora, each once."""
        corpora = (*(self.train or ()), *(self.valid or ()), *(self.test or ()))
        return list(dict.fromkeys(c.tag for c in corpora if c.tag))


@dataclass(slots=True, kw_only=True)
class TokenizerConfig:
    type: Subwords = Subwords.unigram
    vocab_size: int = 8_000
    joint: bool = True
    byte_fallback: bool = True
    character_coverage: float = 1.0
    user_symbols: list[str] = field(default_factory=list)
    sampling: float = 0.0
    """Subword sampling in training: the unigram temperature or the BPE dropout; 0 is off."""

    def __post_init__(self) -> None:
        _at_least(8, "tokenizer", self, "vocab_size")
        _rate("tokenizer", self, "sampling")
        if not 0.0 < self.character_coverage <= 1.0:
            raise UserError(
                f"tokenizer.character_coverage must lie in (0, 1], got {self.character_coverage}"
            )


@dataclass(slots=True, kw_only=True)
class ModelConfig:
    name: str = "transformer_tiny"
    kind: ModelKind = ModelKind.transformer
    encoder_layers: int = 4
    decoder_layers: int = 4
    width: int = 128
    tie: Tie = Tie.all
    dropout: float = 0.1
    # recurrent
    cell: Cell = Cell.lstm
    embedding: int = 256
    bridge: Bridge = Bridge.learned
    # Transformer
    heads: int = 4
    head_width: int | None = None
    """Null shares the width among the heads."""
    ffn: int = 256
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    norm: Norm = Norm.pre
    positions: Positions = Positions.sinusoidal
    max_positions: int = 1_024
    """Learned positions: how many there are."""
    activation: Activation = Activation.relu

    def __post_init__(self) -> None:
        _at_least(1, "model", self, "encoder_layers", "decoder_layers", "width", "embedding")
        _at_least(1, "model", self, "heads", "head_width", "ffn", "max_positions")
        _at_most(200, "model", self, "encoder_layers", "decoder_layers")
        _rate("model", self, "dropout", "attention_dropout", "activation_dropout")


@dataclass(slots=True, kw_only=True)
class AttentionConfig:
    preset: str = "full"
    score: Score = Score.scaled_dot
    # recurrent decoders
    timing: Timing | None = None
    feeding: bool | None = None
    """With timing=previous, false keeps the context out of the cell."""
    window: Window = Window.full
    heads: int | None = None
    """Of a recurrent decoder, null is one; a Transformer has model.heads."""
    coverage: bool = False
    """The additive score sees how much attention each source position has had."""
    # Transformer
    encoder: Pattern = Pattern.full
    decoder: Pattern = Pattern.full
    cross: Pattern = Pattern.full
    # both
    span: int = 10
    """Positions that a local or sliding window reaches to each side."""
    learn_temperature: bool | None = None
    """Of the cosine score, null is true; false leaves bare cosines."""
    masked_heads: list[str] = field(default_factory=list)
    """Heads whose contexts are zero, for ablation: cross.LAYER.HEAD, encoder.…, decoder.…"""

    def __post_init__(self) -> None:
        _at_least(1, "attention", self, "heads", "span")
        for name in self.masked_heads:
            if not re.fullmatch(r"(encoder|decoder|cross)\.\d+\.\d+", name):
                raise UserError(
                    f"attention.masked_heads: {name!r} is no head; heads look like cross.0.3 "
                    "(encoder, decoder or cross, then layer and head counted from 0)"
                )


@dataclass(slots=True, kw_only=True)
class OptimConfig:
    name: OptimizerName = OptimizerName.adam
    learning_rate: float = 2e-3
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-9
    weight_decay: float = 0.0
    clip: float = 1.0
    """Largest norm of an update's gradient; 0 is off."""
    schedule: Schedule = Schedule.inverse_sqrt
    warmup: int = 400
    min_ratio: float = 0.0
    """Cosine and linear end at this share of the learning rate."""

    def __post_init__(self) -> None:
        _above(0, "optim", self, "learning_rate", "eps")
        _at_least(0, "optim", self, "weight_decay", "clip", "warmup")
        _rate("optim", self, "beta1", "beta2", "min_ratio")


@dataclass(slots=True, kw_only=True)
class TrainConfig:
    max_steps: int | None = 2_000
    max_epochs: int | None = None
    max_minutes: float | None = None
    batch_tokens: int = 4_096
    """Padded source plus padded target tokens of one micro-batch."""
    pool: int = 20_000
    accumulate: int = 1
    """Micro-batches of an update, over all processes."""
    label_smoothing: float = 0.1
    guided_alignment: float = 0.0
    """Weight of the loss that pulls cross-attention to given word alignments; 0 is off."""
    coverage_loss: float = 0.0
    """Weight of the loss on looking twice at one source position; 0 is off."""
    ema: float = 0.0
    """Decay of the exponential moving average of the weights; 0 is off."""
    init_from: str | None = None
    """A run whose best weights and whose tokenizer a new run starts from."""
    freeze: list[str] = field(default_factory=list)
    """Parts of the model that are not trained: beginnings of parameter names, as encoder.layers."""
    precision: Precision = Precision.auto
    device: Device = Device.auto
    threads: int | None = None
    compile: bool = False
    validate_every: int = 500
    validate_sentences: int = 500
    """Sentences translated (greedily) at a validation; the loss is taken over all of them."""
    patience: int | None = None
    """Validations without a better metric before training stops."""
    metric: Metric = Metric.bleu
    keep_best: int = 1
    keep_last: int = 1
    average: int = 0
    """Mean of the last N validated checkpoints, made at the end; 0 is off."""
    log_every: int = 20
    overfit: int = 0
    """Learn the first so many pairs by heart, and validate on them too; 0 is off."""
    profile_steps: int = 0
    """Updates whose operators are timed and traced into RUN/profile; 0 is off."""

    def __post_init__(self) -> None:
        _at_least(1, "train", self, "max_steps", "max_epochs", "accumulate", "pool", "batch_tokens")
        _at_least(1, "train", self, "validate_every", "patience", "keep_best", "keep_last")
        _at_least(1, "train", self, "log_every", "threads")
        _at_most(100_000, "train", self, "accumulate")
        _at_most(1_024, "train", self, "threads")
        _at_least(0, "train", self, "average", "validate_sentences", "overfit", "profile_steps")
        _at_least(0, "train", self, "guided_alignment", "coverage_loss")
        _above(0, "train", self, "max_minutes")
        _rate("train", self, "label_smoothing", "ema")
        if self.max_steps is None and self.max_epochs is None and self.max_minutes is None:
            raise UserError("training would never end: set train.max_steps, max_epochs or …minutes")


@dataclass(slots=True, kw_only=True)
class SearchConfig:
    beam: int = 5
    length_penalty: float = 1.0
    """Exponent a of ((5 + n) / 6)^a (Wu et al. 2016, Eq. 14)."""
    coverage_penalty: float = 0.0
    """Weight b of the sum of log(min(attention on a source position, 1)) (the same equation)."""
    max_length_ratio: float = 3.0
    max_length: int = 256
    min_length: int = 0
    n_best: int = 1
    batch_tokens: int = 8_192
    forbid_unk: bool = True
    no_repeat_ngram: int = 0
    sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        _at_least(1, "search", self, "beam", "n_best", "batch_tokens", "max_length")
        _at_most(1_000, "search", self, "beam")
        _at_most(100_000, "search", self, "max_length")
        _at_least(0, "search", self, "min_length", "no_repeat_ngram", "top_k")
        _at_least(0, "search", self, "length_penalty", "coverage_penalty")
        _above(0, "search", self, "max_length_ratio", "temperature", "top_p")
        if self.n_best > self.beam and not self.sample:
            raise UserError(
                f"search.n_best={self.n_best} needs search.beam of at least that, got {self.beam}"
            )


@dataclass(slots=True, kw_only=True)
class Config:
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    seed: int = 1
    run: str | None = None

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"seed must be at least 0, got {self.seed}")
        endless = self.optim.schedule in (Schedule.cosine, Schedule.linear)
        if endless and self.train.max_steps is None:
            raise UserError(
                f"optim.schedule={self.optim.schedule.value} falls until the last step: set "
                "train.max_steps, or choose inverse_sqrt or constant"
            )


# --- the story, which is no part of a run's configuration ----------------------------------------


@dataclass(slots=True, kw_only=True)
class RecipeConfig:
    """How a kind of model is trained: words for ``nmt train`` and a number of updates."""

    words: list[str] = field(default_factory=list)
    steps: int = 1_000
    warmup: int = 0
    """Of the learning rate, in updates; at most a quarter of what is trained."""


@dataclass(slots=True, kw_only=True)
class RungConfig:
    """One training of the ladder: a recipe with words of its own on top."""

    recipe: str = ""
    words: list[str] = field(default_factory=list)
    """On top of the recipe's; ``{seed}`` stands for the seed."""
    times: float = 1.0
    """Updates as a multiple of the recipe's."""
    after: str = ""
    """The rung from whose weights this one starts."""
    only: list[str] = field(default_factory=list)
    """Corpora on which the rung has a meaning; empty is all."""
    except_for: list[str] = field(default_factory=list)
    """Corpora on which it would repeat another rung."""


@dataclass(slots=True, kw_only=True)
class StoryConfig:
    """What ``nmt story`` trains and asks; presets are in ``configs/story/``."""

    budget: str = "default"
    claims: list[int] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [1])
    jobs: int | None = None
    """Trainings at once; null is one a core, or one on an accelerator."""
    scale: float = 1.0
    """All numbers of updates times this."""
    sentences: int | None = None
    """Test sentences that are measured; null is all."""
    recipes: dict[str, RecipeConfig] = field(default_factory=dict)
    rungs: dict[str, RungConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _at_least(1, "story", self, "jobs", "sentences")
        _above(0, "story", self, "scale")
        for number in self.claims:
            if not 1 <= number <= 18:
                raise UserError(f"story.claims: there is no claim {number}; they are 1 to 18")
        if min(self.seeds, default=0) < 0:
            raise UserError(f"story.seeds must be at least 0, got {min(self.seeds)}")
        if not self.seeds or not self.claims:
            raise UserError("story.claims and story.seeds must name at least one each")
