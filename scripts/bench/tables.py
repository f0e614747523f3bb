"""results/*.json as Markdown, put between the markers of RESULTS.md."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- speed: made by scripts/bench/run -->", "<!-- end of speed -->"
TITLES = {"startup": "Start-up", "gpu": "On a GPU"}


def write(results: Path, document: Path) -> None:
    """Replace what stands between the markers; they are appended where there are none."""
    text = document.read_text("utf-8")
    if BEGIN not in text:
        text = f"{text.rstrip()}\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    document.write_text(f"{before}{BEGIN}\n{section(results)}\n{END}{after}", "utf-8")


def section(results: Path) -> str:
    """All parts; one that has no file says so."""
    blocks = [
        "## Speed",
        "Made by `scripts/bench/run`; how: `README.md` here. Ratios are medians over rounds "
        "[lowest, highest].",
    ]
    for part, make in PARTS.items():
        file = results / f"{part}.json"
        blocks.append(f"### {TITLES.get(part, part.capitalize())}")
        if not file.exists():
            blocks.append("Not measured.")
            continue
        content = json.loads(file.read_text("utf-8"))
        blocks += [described(content["machine"]), *make(content["found"])]
    return "\n\n".join(blocks)


def described(machine: dict[str, Any]) -> str:
    """What was measured on, in a sentence."""
    if "gpu" in machine:
        return (
            f"{machine['when']}: {machine['gpu']}, CUDA {machine['cuda']}, torch "
            f"{machine['torch']}, commit {machine['commit']}."
        )
    return (
        f"{machine['when']}: {machine['cpu']} ({', '.join(machine['flags'])}), "
        f"{machine['cores']} cores, {machine['threads']} threads, {machine['memory_gb']} GB, "
        f"Python {machine['python']}, torch {machine['torch']}, commit {machine['commit']}; "
        f"{percent(machine['busy'])} of the machine busy before."
    )


def grid(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    names = list(head)
    lines = [names, ["---", *["--:"] * (len(names) - 1)], *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def span(value: dict[str, float], digits: int = 2) -> str:
    """Median [lowest, highest]."""
    median, low, high = (f"{value[key]:,.{digits}f}" for key in ("median", "low", "high"))
    return f"{median} [{low}, {high}]"


def megabytes(value: float) -> str:
    return f"{value / 2**20:,.0f} MiB"


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def training(found: dict[str, Any]) -> list[str]:
    blocks = []
    for name, case in found["cases"].items():
        rows = [
            [
                side,
                f"{row['parameters']:,}",
                span(row["tokens_per_second"], 0),
                *(
                    span(case["ratios"][key]) if key in case["ratios"] else "–"
                    for key in (f"nmt bf16 / {side}", f"nmt fp32 / {side}")
                ),
                row["version"],
            ]
            for side, row in case["sides"].items()
        ]
        head = ["", "parameters", "tokens/s", "nmt bf16 is faster by", "nmt fp32 by", "versions"]
        blocks += [f"{name}, {found['batch_tokens']:,} padded tokens an update:", grid(head, rows)]
        shares = [
            f"{precision} {percent(case[key]['share']['median'])} "
            f"({case[key]['gflop_per_second']['median']:,.0f} GFLOP/s)"
            for precision in ("bf16", "fp32")
            if (key := f"products of nmt {precision}") in case
        ]
        blocks.append(
            f"Share of the step that its matrix products take alone: {'; '.join(shares)}."
        )
        if "parity" in case:
            apart = max(case["parity"].values())
            blocks.append(
                f"Losses with the same weights differ by at most {apart:.1e} of themselves."
            )
    return blocks


def decoding(found: dict[str, Any]) -> list[str]:
    apart = [
        [name, f"{row['log_prob_apart']:.1e}", percent(row["greedy_equal"])]
        for name, row in found["parity"].items()
    ]
    lost = found["lost_in_bf16"]
    blocks = [
        f"Weights of {found['run']}, no length penalty, at most {found['limit']} tokens. "
        "Agreement with nmt in fp32:",
        grid(["", "log-probability apart, nats a token", "equal greedy translations"], apart),
        f"On all {lost['sentences']:,} sentences, beam 5, bf16 loses {lost['bleu']:.2f} of "
        f"{lost['fp32']:.2f} BLEU (paired bootstrap, p = {lost['p']:.2f}).",
    ]
    for mode, content in found["modes"].items():
        rows = [
            [
                side,
                span(row["sentences_per_second"], 1),
                span(row["tokens_per_second"], 0),
                *(
                    span(content["ratios"][key]) if key in content["ratios"] else "–"
                    for key in (f"nmt fp32 / {side}", f"nmt bf16 / {side}")
                ),
                f"{row['bleu']:.2f}",
            ]
            for side, row in content["sides"].items()
        ]
        head = ["", "sentences/s", "tokens/s", "nmt fp32 is faster by", "nmt bf16 by", "BLEU"]
        blocks += [f"{mode}, {content['sentences']:,} sentences:", grid(head, rows)]
    return blocks


def preparing(found: dict[str, Any]) -> list[str]:
    rows = [
        [
            f"{int(pairs):,}",
            span(row["pairs_per_second"], 0),
            megabytes(row["peak_bytes"]["median"]),
            megabytes(row["peak_anonymous_bytes"]["median"]),
            megabytes(row["one_update"]["peak_anonymous_bytes"]),
        ]
        for pairs, row in found["sizes"].items()
    ]
    head = ["pairs", "pairs/s", "peak, all processes", "of it in no file", "peak of a first update"]
    return [
        grid(head, rows),
        f"From the smallest to the largest: {found['pairs_per_second_between']:,.0f} pairs/s, "
        f"{found['bytes_a_pair_between']:.1f} bytes a pair "
        f"({found['anonymous_bytes_a_pair_between']:.1f} in no file).",
    ]


def startup(found: dict[str, Any]) -> list[str]:
    rows = [[name, span(row["cpu_seconds"])] for name, row in found.items()]
    return [grid(["command", "CPU seconds"], rows)]


def memory(found: dict[str, Any]) -> list[str]:
    cases = {f"training {name}": rows for name, rows in found["training"].items()}
    rows = [
        [f"{name}, {side}", megabytes(row["ready_bytes"]), megabytes(row["work_bytes"])]
        for name, sides in (cases | {"decoding": found["decoding"]}).items()
        for side, row in sides.items()
    ]
    return [grid(["", "ready", "at work, peak"], rows)]


def growth(found: dict[str, Any]) -> list[str]:
    blocks = []
    for axis, content in found.items():
        rows = [[value, span(row["seconds"], 3)] for value, row in content["rows"].items()]
        head = [axis, content["what"]]
        blocks.append(grid(head, [*rows, ["exponent", f"{content['exponent']:.2f}"]]))
    return blocks


def profile(found: dict[str, Any]) -> list[str]:
    rows = found["training"]
    loops = [
        [name, *(percent(share) for share in row["loop"]["shares"].values())]
        for name, row in rows.items()
    ]
    kinds = list(next(iter(rows.values()))["loop"]["shares"])
    operations = {name: row["operations"]["shares"] for name, row in rows.items()}
    decoding_shares = {name: row["shares"] for name, row in found["decoding"].items()}
    return [
        grid(["the loop", *kinds], loops),
        "Operations by kind, largest first:",
        "\n".join(listed(name, s) for name, s in (operations | decoding_shares).items()),
    ]


def listed(name: str, shares: dict[str, float]) -> str:
    """Shares of at least half a percent in one line."""
    shown = (f"{kind} {percent(share)}" for kind, share in shares.items() if share >= 0.005)
    return f"- {name}: {', '.join(shown)}"


def gpu(found: dict[str, Any]) -> list[str]:
    blocks = [f"Checked against the CPU first: {found['checks']}."]
    rows = [
        [
            name,
            span(row["tokens_per_second"], 0),
            percent(row["share"]),
            f"{row['rate_tflops']:.0f}",
            megabytes(row["peak_bytes"]),
        ]
        for name, row in found["training"].items()
    ]
    head = ["training", "tokens/s", "of the measured matrix rate", "that rate, TFLOP/s", "peak"]
    blocks.append(grid(head, rows))
    decoding_rows = [
        [name, span(row["sentences_per_second"], 1)] for name, row in found["decoding"].items()
    ]
    return [*blocks, grid(["decoding", "sentences/s"], decoding_rows)]


PARTS: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "training": training,
    "decoding": decoding,
    "preparing": preparing,
    "startup": startup,
    "memory": memory,
    "growth": growth,
    "profile": profile,
    "gpu": gpu,
}
