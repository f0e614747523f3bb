"""What the shell offers after a Tab: commands, flags, keys, presets, names, paths.

``nmt completion bash`` prints a script that calls ``nmt __complete WORD …``, which prints the words
that the last one may become, one a line. A word that ends in ``=``, ``.``, ``/`` or ``,`` is not
finished: the scripts put no blank behind it.
"""

from __future__ import annotations

import os
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path

from nmt import presets
from nmt.cli import COMMANDS, Command

SCRIPTS = {
    "bash": r"""
# nmt: completion for bash. Now: source <(nmt completion bash); for ever: put that into ~/.bashrc
_nmt() {
    local line=${COMP_LINE:0:COMP_POINT} found last IFS=$' \t\n'
    local -a words
    read -r -a words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    last=${words[${#words[@]} - 1]}
    COMPREPLY=()
    while IFS= read -r found; do
        # bash breaks words at these, and completes only what comes after the last of them
        [[ $COMP_WORDBREAKS == *=* && $last == *=* ]] && found=${found#"${last%=*}="}
        [[ $COMP_WORDBREAKS == *:* && $last == *:* ]] && found=${found#"${last%:*}:"}
        [[ $found == *[!a-zA-Z0-9_./=,:+~-]* ]] && printf -v found %q "$found"
        COMPREPLY+=("$found")
    done < <("${words[0]}" __complete "${words[@]:1}" 2> /dev/null)
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=./,] ]]; then
        compopt -o nospace 2> /dev/null
    fi
}
complete -F _nmt nmt
""",
    "zsh": r"""
#compdef nmt
# nmt: completion for zsh. Now: source <(nmt completion zsh); for ever: put that into ~/.zshrc,
# after compinit
_nmt() {
    local -a found open
    found=("${(@f)$("${words[1]}" __complete "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" \
        2> /dev/null)}")
    found=(${found:#})
    open=(${(M)found:#*[=./,]})
    found=(${found:#*[=./,]})
    (( $#open )) && compadd -S '' -- $open
    (( $#found )) && compadd -- $found
}
compdef _nmt nmt
""",
    "fish": r"""
# nmt: completion for fish. Now: nmt completion fish | source; for ever:
# nmt completion fish > ~/.config/fish/completions/nmt.fish
function __nmt_complete
    set -l words (commandline --tokenize --cut-at-cursor --current-process)
    set -l raw (commandline --current-token --cut-at-cursor)
    set -l last (string unescape -- "$raw"; or string trim --left --chars "'\"" -- "$raw")
    $words[1] __complete $words[2..-1] "$last" 2> /dev/null
end
complete --command nmt --no-files --arguments '(__nmt_complete)'
""",
}

PATHS = (
    *("run", "input", "output", "source", "target", "prefix", "bitext", "gold", "hypotheses"),
    *("references", "baseline", "folder", "data.root", "data.cache", "data.train", "data.valid"),
    *("data.test", "data.alignments", "train.init_from"),
)
"""Keys whose value is a file or a folder."""


def complete(typed: Sequence[str]) -> list[str]:
    """What the last of the typed words may become, sorted; the words come without ``nmt``."""
    *before, last = typed or [""]
    if not before:
        return fitting([*COMMANDS, "--help", "--version"], last)
    command = COMMANDS.get(before[0])
    if command is None:
        return []
    if before[-1] == "--config" or last.startswith("--config="):
        head = "--config=" if last.startswith("--config=") else ""
        return [head + path for path in paths(last.removeprefix(head))]
    if last.startswith("-"):
        return fitting([*command.flags, "--help"], last)
    key, equals, value = last.partition("=")
    if equals:
        return [f"{key}={word}" for word in values(key, value, command)]
    found = fitting(keys(command, last), last)
    for bare in command.positional[:1]:  # words without a key
        found += fitting(command.values.get(bare, ()), last)
        found += paths(last) if last and bare in PATHS else []
    return found


def keys(command: Command, begun: str) -> list[str]:
    """The command's keys, of the configuration one level at a time: ``model=``, ``model.``."""
    leaves = (*presets.keys(), *presets.SETTING_KEYS)
    found = [f"{key}=" for key in command.own]
    for word in command.words:
        if not word.endswith(".*"):
            found.append(f"{word}=")
            continue
        section = word.removesuffix("*")
        inside = [key for key in leaves if key.startswith(section)]
        if begun.startswith(section):
            level = begun.rpartition(".")[0] + "."
            for key in inside:
                if key.startswith(level):
                    here, dot, _ = key.removeprefix(level).partition(".")
                    found.append(f"{level}{here}{dot or '='}")
        else:
            found.append(section)
    return found


def values(key: str, begun: str, command: Command) -> list[str]:
    """Values of a key; of several with commas between them (a sweep), the last is completed."""
    kind = presets.keys().get(key.lstrip("+"))
    names: Iterable[str] = ()
    if key in (*presets.GROUPS, *presets.EXTRA_GROUPS, *presets.SETTINGS, "sweep"):
        names = presets.options(key)
    elif enum := presets.enum_of(kind):
        names = [member.value for member in enum]
    elif kind is bool or (typing.get_args(kind) and bool in typing.get_args(kind)):
        names = ("true", "false")
    elif key in command.values:
        names = command.values[key]
    elif key in PATHS:
        return paths(begun)
    done, comma, last = begun.rpartition(",")
    return [f"{done}{comma}{name}" for name in fitting(names, last)]


def fitting(words: Iterable[str], begun: str) -> list[str]:
    """The words that go on from what was typed."""
    return sorted({word for word in words if word.startswith(begun)})


def paths(begun: str) -> list[str]:
    """Files and folders (with a slash behind) whose path goes on from what was typed."""
    folder, name = os.path.split(begun)
    try:
        entries = sorted(Path(folder or ".").expanduser().iterdir())
    except OSError:
        return []
    shown = [e for e in entries if e.name.startswith(name) and (name or e.name[0] != ".")]
    return [os.path.join(folder, e.name) + ("/" if e.is_dir() else "") for e in shown]
