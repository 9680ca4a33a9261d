"""The arguments of the launch files: which there are, what was given, and what was misspelt. Pure: no launch."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from rlt_bringup.graph import GraphOptions
from rlt_common.parameters import ParameterError

OF_LAUNCH_ITSELF = ("emulate_tty", "launch-prefix", "launch-prefix-filter", "sigkill_timeout", "sigterm_timeout")
"""Names that launch's own actions read: whoever gives them means launch, not the graph."""


@dataclass(frozen=True)
class Argument:
    """One argument. `default` None: it has to be given."""

    name: str
    default: str | None
    description: str
    choices: tuple[str, ...] = ()


REPLAY = (
    Argument("bag", "", "episode file, <run>/episodes/<id>.mcap; several with commas between"),
    Argument("run", "", "run directory; empty: two folders above the episode file"),
    Argument("episodes", "", "of run instead of bag, such as 3,7-12; empty: those of bag, or all of run"),
    Argument("checkpoint", "", "frozen VLA and RL token; empty: <run>/vla; another one is compared and not judged"),
    Argument(
        "actor",
        "",
        "checkpoint of the learner; empty: the one of the run that fits; another one is compared and not judged",
    ),
    Argument(
        "robot", "", "robot name or file, whose limits judge what was executed; empty: as recorded, out of the episode"
    ),
    Argument("task", "", "task name or file; empty: as recorded, out of the episode"),
    Argument("seed", "", "run seed; empty: found from the recorded noise seeds"),
    Argument("pace", "", "fastest, real_time, or how many times real time at most; empty: fastest"),
    Argument("tolerance", "", "largest difference that counts as the same; empty: none on the same processor or GPU"),
    Argument("output", "", "file for everything as JSON; empty: none"),
    Argument("page", "", "page with tables and figures; empty: beside the episode file, none: none"),
)


def graph_arguments(task: str) -> tuple[Argument, ...]:
    """Every field of GraphOptions, for the launch file of `task`: it names that task and its run directory."""
    own = {"task": task, "run": f"runs/{task}"}
    return tuple(
        Argument(
            option.name,
            own.get(option.name, _text(option.default)),
            option.metadata["description"],
            tuple(option.metadata["choices"] or ()),
        )
        for option in dataclasses.fields(GraphOptions)
    )


def options_from(values: Mapping[str, str]) -> GraphOptions:
    """GraphOptions out of the arguments' texts. Raises ParameterError naming the argument."""
    kinds = {option.name: type(option.default) for option in dataclasses.fields(GraphOptions)}
    return GraphOptions(**{name: _parse(text, kinds[name], name) for name, text in values.items()})


def refuse_unknown(file: str, known: Collection[str], words: Iterable[str], command_line: Iterable[str]) -> None:
    """Raise ParameterError for an argument that the launch file does not have; launch itself would ignore it.

    Args:
        file: name of the launch file.
        known: names of its arguments.
        words: the `name:=value` that launch was given.
        command_line: of this process. Where it does not name the file another launch file includes it, and the words
            are that one's.
    """
    if file not in {PurePath(word).name for word in command_line}:
        return
    given = (word.partition(":=")[0] for word in words if ":=" in word)
    unknown = [name for name in given if name not in known and name not in OF_LAUNCH_ITSELF]
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        raise ParameterError(
            f"{file}: unknown launch argument {unknown[0]!r}: {meant}There are: {', '.join(sorted(known))}"
        )


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parse(text: str, kind: type, name: str) -> object:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ParameterError(f"launch argument {name}:={text}: say true or false")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError as error:
        raise ParameterError(f"launch argument {name}:={text}: expected {kind.__name__}") from error
