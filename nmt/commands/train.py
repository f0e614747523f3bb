"""`nmt train`: settle what to train and where, prepare, build, and hand over to the loop."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from nmt import compose, runs
from nmt.allocator import heap_kept, remember_few_shapes
from nmt.cli import Arguments
from nmt.commands import begin
from nmt.commands.validation import Validator
from nmt.config import Config, ModelKind, Pattern, Score
from nmt.config import Source as DataSource
from nmt.data.alignment import TokenLinks
from nmt.data.batching import TrainingPairs, subword_sampler
from nmt.data.prepare import prepare
from nmt.data.prepared import Prepared
from nmt.data.tokenizer import BOS, EOS, PAD, Tokenizer, Tokenizers
from nmt.errors import UserError
from nmt.idle import refuse_idle
from nmt.models.build import build_model, check_pair, count_parameters
from nmt.models.seq2seq import Seq2Seq, Source
from nmt.models.shapes import shapes_only
from nmt.training.distributed import World, join
from nmt.training.learner import Learner, resolve_precision
from nmt.training.loop import Outcome, train
from nmt.training.loss import CrossLosses
from nmt.training.monitor import Monitor
from nmt.training.optim import Schedule, make_optimizer, make_schedule
from nmt.training.profiler import profiled
from nmt.training.state import LoopOptions

BY_HEART = 0.05
"""Nats a target token at which pairs count as learnt by heart: e^-0.05 = 95 % for each token."""
INTERRUPTED = 130
"""Exit status after SIGINT or SIGTERM: stopped, saved, and the same command goes on."""


def main(arguments: Arguments) -> int:
    if arguments.flags & {"-m", "--multirun"}:
        from nmt.commands import sweep

        return sweep.main(arguments)
    refuse_sweep(arguments)
    with join() as world:
        # Rank 0 alone decides and writes; the others are told, and cannot decide otherwise.
        config, run = world.from_first(lambda: checked(arguments))
        if "--dry-run" in arguments.flags:
            if world.first:
                print(dry_run(config, run))
            return 0
        world = world.on(config.train.device.value)
        with runs.owned(run) if world.first else nullcontext():
            outcome = train_run(config, run, world)
            return report(outcome, run, world) or by_heart(outcome, config, world)


def checked(arguments: Arguments) -> tuple[Config, Path]:
    """What `settle` says, if such a model can be."""
    config, run = settle(arguments)
    check_pair(config.model, config.attention, joint=config.tokenizer.joint)
    check_cross(config)
    if not begun(run):  # a run that is there was begun with its words
        refuse_idle(config, arguments.words)
    return config, run


def refuse_sweep(arguments: Arguments) -> None:
    """Refuses, in a single run, words that only a sweep understands."""
    words = [word for word in arguments.words if word.startswith(("sweep=", "hydra/"))]
    words += [f"impossible={value}" for key, value in arguments.own.items() if key == "impossible"]
    if words:
        raise UserError(f"{words[0]} belongs to a sweep: nmt train -m …")


def settle(arguments: Arguments) -> tuple[Config, Path]:
    """The configuration and the directory of the run that was asked for.

    ``run=X`` alone takes up the run X with what is stored there; other words must agree with it.

    Raises:
        UserError: unknown words, or words that describe another run than the one that is there.
    """
    verbatim = {key: value for key, value in arguments.own.items() if key != "run"}
    named = arguments.own.get("run")
    if named and not arguments.words and arguments.config is None:
        run = Path(named)
        if (run / "config.yaml").exists():
            return compose.with_values(compose.load(run / "config.yaml"), verbatim), run
    typed = compose.compose(arguments.words, arguments.config, verbatim)
    named, typed = named or typed.run, replace(typed, run=None)  # --config FILE may name the run
    run = Path(named) if named else runs.default_run(typed, arguments.words, arguments.config)
    words = [*arguments.words, *(f"{key}={value}" for key, value in verbatim.items())]
    if arguments.config is not None:
        words.append(f"experiment={arguments.config}")
    if not begun(run):
        return begin.inherited(typed, words) if typed.train.init_from else typed, run
    return runs.taken_up(compose.load(run / "config.yaml"), typed, words, run), run


def check_cross(config: Config) -> None:
    """Refuses what reads cross-attention weights where there are none, or no alignments.

    Raises:
        UserError: names the key, why it has no meaning here, and what to choose instead.
    """
    missing = ""
    if config.attention.score == Score.none:
        missing = "attention=none reads one fixed vector, so there are no weights"
    elif config.attention.cross == Pattern.linear:
        missing = "attention.cross=linear keeps running sums, so there are no weights"
    for key, weight in (
        ("train.guided_alignment", config.train.guided_alignment),
        ("train.coverage_loss", config.train.coverage_loss),
        ("search.coverage_penalty", config.search.coverage_penalty),
    ):
        if weight and missing:
            raise UserError(f"{key}={weight:g}: {missing}; set it to 0, or choose other attention")
    data = config.data
    if config.train.guided_alignment and data.source != DataSource.grammar and not data.alignments:
        raise UserError(
            f"train.guided_alignment: data={data.name} has no word alignments; give them with "
            "data.alignments=FILE (a line like 0-0 1-2 for each training pair), or take "
            "data=mini_en_fr, which has its own"
        )


def begun(run: Path) -> bool:
    """Whether a run has a checkpoint to go on from."""
    return (run / "checkpoints" / "index.json").exists()


def train_run(config: Config, run: Path, world: World, monitor: Monitor | None = None) -> Outcome:
    """Prepare, build and train one run; its log says how that ended."""
    with monitor or Monitor(run if world.first else None) as told:
        return trained(config, run, world, told)


def trained(config: Config, run: Path, world: World, monitor: Monitor) -> Outcome:
    """`train_run`, told to a monitor."""
    remember_few_shapes()
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    if world.first:
        monitor.message(f"run: {run}")
    fresh = world.from_first(lambda: not begun(run))
    if world.first and not fresh:
        for text in runs.costs(compose.load(run / "config.yaml"), config):
            monitor.message(text)
    prepared = prepare_run(config, run, world, monitor, fresh=fresh)
    if config.train.overfit:
        prepared = prepared.by_heart(config.train.overfit)
    torch.manual_seed(config.seed)
    model = runs.empty_model(config, prepared.tokenizers)
    if config.train.init_from and fresh and world.first:  # the others get them from this process
        monitor.message(begin.put_old_weights(model, config))
    model.to(world.device)
    if config.train.freeze:
        left = begin.freeze(model, config.train.freeze)
        monitor.message(f"held fast: {', '.join(config.train.freeze)}; {left:,} are trained")
    size = count_parameters(model)
    precision = resolve_precision(config.train.precision.value, world.device)
    monitor.message(
        f"{config.model.name}, attention {config.attention.preset}: {size.total:,} parameters "
        f"({size.body:,} without embeddings), {str(precision).removeprefix('torch.')} on "
        f"{world.device}, {len(prepared.train):,} pairs"
    )
    learner = make_learner(config, model, world, precision)
    place = run / "profile" if world.first else None
    with heap_kept(), profiled(config.train.profile_steps, place, world.device) as each_step:
        return train(
            learner,
            training_pairs(config, prepared, model),
            schedule_of(config),
            Validator(config, prepared),
            run,
            loop_options(config),
            world=world,
            monitor=monitor,
            identity=runs.identity(config, prepared.tokenizers),
            each_step=each_step,
        )


def make_learner(config: Config, model: Seq2Seq, world: World, precision: torch.dtype) -> Learner:
    """The learner of a configuration; the model is on the world's device."""
    return Learner(
        model,
        make_optimizer(
            config.optim.name.value,
            model,
            betas=(config.optim.beta1, config.optim.beta2),
            eps=config.optim.eps,
            weight_decay=config.optim.weight_decay,
        ),
        world=world,
        label_smoothing=config.train.label_smoothing,
        cross_losses=CrossLosses(
            guided=config.train.guided_alignment,
            head=0 if config.model.kind == ModelKind.transformer else None,
            coverage=config.train.coverage_loss,
        ),
        clip=config.optim.clip or None,
        precision=precision,
        ema=config.train.ema,
        compile=config.train.compile,
    )


def prepare_run(
    config: Config, run: Path, world: World, monitor: Monitor, *, fresh: bool
) -> Prepared:
    """Prepared data in the vocabulary of the run, and the run's head written (rank 0).

    All ranks of a machine may ask at once: one prepares, the others wait for its lock and find it
    done.
    """
    given = None
    if config.train.init_from:
        protos = world.from_first(
            lambda: (
                (
                    begin.old_tokenizers(config) if fresh else Tokenizers.load(run / "tokenizer")
                ).protos
            )
        )
        given = Tokenizers.of(protos)
    prepared = prepare(config.data, config.tokenizer, report=monitor.message, tokenizers=given)
    if world.first:
        write_head(config, run, prepared, fresh=fresh)
    own = Tokenizers.of(world.from_first(lambda: Tokenizers.load(run / "tokenizer").protos))
    if own.hash == prepared.tokenizers.hash:
        return prepared
    monitor.message(
        "this machine makes another vocabulary of the same text (another version of "
        "SentencePiece): the run keeps its own"
    )
    return prepare(config.data, config.tokenizer, report=monitor.message, tokenizers=own)


def write_head(config: Config, run: Path, prepared: Prepared, *, fresh: bool) -> None:
    """What a run holds before its first step: config.yaml, data.json and its tokenizer.

    Raises:
        UserError: the run was begun on other data, or with another vocabulary.
    """
    if not fresh:
        known = runs.read_json(run / "data.json", {}).get("fingerprint")
        if known != prepared.fingerprint:
            raise UserError(
                f"{run} was begun on other data than {config.data.name} gives now: an input file "
                "or a filter has changed since; restore it, or start a new run=…"
            )
    else:
        shutil.rmtree(run / "tokenizer", ignore_errors=True)
        prepared.tokenizers.save(run / "tokenizer")
        runs.write_json(run / "data.json", prepared.manifest)
    compose.save(config, run / "config.yaml")


def training_pairs(config: Config, prepared: Prepared, model: Seq2Seq) -> TrainingPairs:
    """The stored ids, or a segmentation drawn anew each epoch where sampling is on."""
    store, tokenizers = prepared.train, prepared.tokenizers
    sample = None
    if alpha := config.tokenizer.sampling:

        def encoder(tokenizer: Tokenizer) -> Callable[[list[str], int], list[list[int]]]:
            return lambda texts, seed: tokenizer.sample(texts, alpha=alpha, seed=seed)

        sample = subword_sampler(
            (store.source_texts, store.target_texts),
            (encoder(tokenizers.source), encoder(tokenizers.target)),
            pairs=len(store),
            seed=config.seed,
        )
    links = None
    if config.train.guided_alignment and (aligned := prepared.word_links()):
        links = TokenLinks(aligned, store, tokenizers)
    return TrainingPairs(
        source=store.source,
        target=store.target,
        batch_tokens=config.train.batch_tokens,
        pool=config.train.pool,
        seed=config.seed,
        pad=PAD,
        bos=BOS,
        eos=EOS,
        sample=sample,
        max_source=model.max_source_length,
        max_target=model.max_target_length,
        links=links,
        corpora=prepared.corpora,
    )


def schedule_of(config: Config) -> Schedule:
    return make_schedule(
        config.optim.schedule.value,
        learning_rate=config.optim.learning_rate,
        warmup=config.optim.warmup,
        max_steps=config.train.max_steps,
        final_ratio=config.optim.min_ratio,
    )


def loop_options(config: Config) -> LoopOptions:
    settings = config.train
    return LoopOptions(
        seed=config.seed,
        max_steps=settings.max_steps,
        max_epochs=settings.max_epochs,
        max_minutes=settings.max_minutes,
        accumulate=settings.accumulate,
        validate_every=settings.validate_every,
        metric=settings.metric.value,
        patience=settings.patience,
        keep_best=settings.keep_best,
        keep_last=settings.keep_last,
        average=settings.average,
        log_every=settings.log_every,
    )


def report(outcome: Outcome, run: Path, world: World) -> int:
    """Say how training ended and how to go on; the exit status."""
    if not world.first:
        return 0 if outcome.reason else INTERRUPTED
    if not outcome.reason:
        print(
            f"interrupted after step {outcome.step}; everything is saved. "
            f"Go on with: nmt train run={run}",
            file=sys.stderr,
        )
        return INTERRUPTED
    best = f"; best: {outcome.best.name} {_scores(outcome.best.scores)}" if outcome.best else ""
    print(f"finished at step {outcome.step} ({outcome.reason}){best}", file=sys.stderr)
    print(f"Next: nmt evaluate run={run}", file=sys.stderr)
    return 0


def by_heart(outcome: Outcome, config: Config, world: World) -> int:
    """Say whether the pairs of train.overfit were learnt; 1 where they were not."""
    if not config.train.overfit or not world.first or outcome.best is None:
        return 0
    loss = outcome.best.scores["loss"]
    said = f"{loss:.4f} nats a target token on the {config.train.overfit} pairs it was trained on"
    if loss <= BY_HEART:
        print(f"learnt by heart: {said}", file=sys.stderr)
        return 0
    print(
        f"NOT learnt by heart: {said}, and {BY_HEART} was to be reached: more train.max_steps or "
        "another optim.learning_rate, or there is a fault in the data, the model or the loss",
        file=sys.stderr,
    )
    return 1


def _scores(scores: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.2f}" for name, value in scores.items())


def dry_run(config: Config, run: Path) -> str:
    """Configuration, size, steps and memory of a run that is not started; writes nothing."""
    tokens = config.tokenizer.vocab_size
    with shapes_only():
        model = build_model(
            config.model, config.attention, source_vocab=tokens, target_vocab=tokens
        )
    size = count_parameters(model)
    # Weights, gradients and Adam's two moments in fp32; the moving average is one more copy.
    copies = 5 if config.train.ema else 4
    state = size.total * 4 * copies
    ends = {
        "steps": config.train.max_steps,
        "epochs": config.train.max_epochs,
        "minutes": config.train.max_minutes,
    }
    limits = " or ".join(f"{value} {name}" for name, value in ends.items() if value is not None)
    update = config.train.batch_tokens * config.train.accumulate
    lines = [
        compose.to_yaml(config).rstrip(),
        "",
        f"run        {run}{' (exists)' if (run / 'config.yaml').exists() else ''}",
        f"parameters {size.total:,} ({size.body:,} without embeddings; vocabulary {tokens:,})",
        f"ends       after {limits}",
        f"update     {update:,} padded source and target tokens",
        f"memory     {state / 2**20:,.0f} MiB for weights, gradients and optimiser, and about "
        f"{activation_bytes(config) / 2**20:,.0f} MiB of activations a micro-batch",
        "Nothing was written.",
    ]
    return "\n".join(lines)


def activation_bytes(config: Config) -> float:
    """Bytes that one micro-batch keeps for its backward pass, by running a small one.

    A batch of an eighth of the budget is run forward on the CPU and what autograd saves is
    counted; storage grows with the tokens.
    """
    tokens = config.tokenizer.vocab_size
    model = build_model(config.model, config.attention, tokens, tokens)
    length = 24
    rows = max(1, config.train.batch_tokens // (8 * 2 * length))
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.full((rows, length), EOS)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model(Source(ids, torch.ones_like(ids, dtype=torch.bool)), ids)
    kept = sum(size for place, size in saved.items() if place not in weights)
    del hidden
    return kept * config.train.batch_tokens / (rows * 2 * length)
