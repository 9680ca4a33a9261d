"""The answers about a played-back episode as rows of text: the terminal prints them, the page has them as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlt_msgs.msg import ExecutedAction

SOURCES = {
    ExecutedAction.SOURCE_HOLD: "hold",
    ExecutedAction.SOURCE_VLA: "VLA",
    ExecutedAction.SOURCE_RL: "RL",
    ExecutedAction.SOURCE_HUMAN: "human",
}
LINES = 10


class Table(NamedTuple):
    """A question, the answer in a sentence, and what it rests on, worst first."""

    question: str
    sentence: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(found: Mapping[str, Any]) -> list[Table]:
    """One table for each question."""
    return [another(found), jumped(found), late(found), limited(found)]


def another(found: Mapping[str, Any]) -> Table:
    """What would another checkpoint have done here?"""
    question = "What would another checkpoint have done here?"
    head = ["step", "s", "rms, spreads", "largest", "distance", "played", *_critic_heads(found)]
    if not (found["another_actor"] or found["another_vla"]):
        return Table(question, "The checkpoint of the recording played; --actor or --checkpoint name another.", (), ())
    chunks = [chunk for chunk in found["chunks"] if chunk["difference"] is not None and chunk["critical"]]
    chunks = chunks or [chunk for chunk in found["chunks"] if chunk["difference"] is not None]
    if not chunks:
        return Table(question, "None of its chunks came back: no actor at hand fits.", (), ())
    mean = sum(chunk["difference"] for chunk in chunks) / len(chunks)
    rows = [
        (
            str(chunk["step"]),
            f"{chunk['time_s']:.2f}",
            f"{chunk['difference']:.3f}",
            f"{found['components'][chunk['largest']['component']]} {chunk['largest']['value']:+.2g}",
            f"{chunk['distance']:.2f}",
            _number(chunk["distance_played"], ".2f"),
            *(_number(chunk[of][critic], ".3f") for critic in found["critics"] for of in ("q", "q_played")),
        )
        for chunk in sorted(chunks, key=lambda chunk: -chunk["difference"])
    ]
    better = ""
    for critic in found["critics"]:
        pairs = [(chunk["q"][critic], chunk["q_played"][critic]) for chunk in chunks]
        known = [(old, new) for old, new in pairs if old is not None and new is not None]
        if known:
            share = sum(new > old for old, new in known) / len(known)
            better += f" {critic} puts its chunk above the recorded one in {100 * share:.0f} % of {len(known)}."
    sentence = f"Another chunk by {mean:.3f} spreads (root mean square) on average over {len(chunks)} chunks.{better}"
    return Table(question, sentence, head, rows)


def jumped(found: Mapping[str, Any]) -> Table:
    """Where did |pi - reference| or Q jump?"""
    question = "Where did |pi - reference| or Q jump?"
    chunks = [chunk for chunk in found["chunks"] if chunk.get("jumps")]
    critics = " and of Q" if found["critics"] else "; no critic is at hand"
    count = sum(chunk["critical"] for chunk in found["chunks"])
    rule = (
        f"{len(chunks)} of {count} chunks of the critical phase: a change of the distance{critics} by over 5 times the "
        "episode's own deviation (1.4826 MAD) from its median change."
    )
    rows = [
        (
            str(chunk["step"]),
            f"{chunk['time_s']:.2f}",
            "; ".join(chunk["jumps"]),
            f"{chunk['distance']:.2f}",
            *(_number(chunk["q"][critic], ".3f") for critic in found["critics"]),
        )
        for chunk in chunks
    ]
    return Table(question, rule, ["step", "s", "what", "distance", *(f"Q, {c}" for c in found["critics"])], rows)


def late(found: Mapping[str, Any]) -> Table:
    """Which observation was late?"""
    question = "Which observation was late?"
    timing = found["late"]
    chunks = [chunk for chunk in timing["chunks"] if chunk["late"] or chunk["unusual"]]
    count = sum(chunk["late"] for chunk in timing["chunks"])
    if timing["timed"]:
        usual = ", ".join(f"{k} {1e3 * v:.1f}" for k, v in timing["median_s"].items() if v is not None)
        how = f"Usually (ms): {usual}."
        if not timing["one_clock"]:
            how += " Stamps are of another clock than the machine's (a simulation's): the first stage is not known."
    else:
        how = "When messages were sent is not in this file (recorded by an earlier version): the steps alone tell."
    odd, skew_ms = len(chunks) - count, 1e3 * timing["largest_skew_s"]
    sentence = (
        f"{count} of {len(timing['chunks'])} chunks came late (steps held or rows left out), {odd} more were unusual "
        f"in a stage. Images were at most {skew_ms:.1f} ms from their stamp. {how}"
    )
    rows = [
        (
            str(chunk["step"]),
            f"{chunk['time_s']:.2f}",
            str(chunk["held"]),
            str(chunk["trimmed"]),
            *(_number(chunk["stages"][stage], ".1f", 1e3) for stage in timing["stages"]),
            chunk["blame"] or f"({', '.join(chunk['unusual'])})",
        )
        for chunk in sorted(chunks, key=lambda chunk: (not chunk["late"], chunk["step"]))
    ]
    return Table(
        question, sentence, ["step", "s", "held", "left out", *(f"{s}, ms" for s in timing["stages"]), "who"], rows
    )


def limited(found: Mapping[str, Any]) -> Table:
    """Would the limits have stopped it?"""
    limits = found["limits"]
    by = ", ".join(f"{name} {count}" for name, count in limits["by_limit"].items()) or "none"
    before, chunks = limits["clamped_when_recorded"], len(limits["chunks"])
    sentence = (
        f"Limits of robot {limits['robot']}: of {limits['executed']} executed steps {limits['clamped']} are cut short "
        f"({by}), {limits['stopped']} of them stopped, {limits['held']} held; when recorded {before} were clamped. Of "
        f"the chunks that came back otherwise, {chunks} have rows that would be cut short."
    )
    if limits["gaps"]:
        gap = limits["gaps"][0]
        sentence += (
            f" Joint states fell silent for longer than state_timeout_s {len(limits['gaps'])} times, first before step "
            f"{gap['step']} for {gap['seconds']:.2f} s."
        )
    if limits["skewed_observations"]:
        sentence += f" {limits['skewed_observations']} observations have images beyond camera_tolerance_s."
    rows = [
        (
            str(step["step"]),
            f"{step['time_s']:.2f}",
            SOURCES.get(step["source"], "?"),
            "held: " + step["held"] if step["held"] else "stopped" if step["stopped"] else "cut short",
            ", ".join(f"{name} by {by:.2g}" for name, by in step["limits"].items()),
            f"{found['components'][step['component']]} {step['requested']:+.2g} to {step['applied']:+.2g}",
            "yes" if step["recorded"] else "no",
        )
        for step in sorted(limits["steps"], key=lambda s: (not s["stopped"], s["step"]))
        if step["limits"] or step["held"]
    ]
    head = ["step", "s", "who", "what", "limit", "component", "when recorded too"]
    return Table("Would these limits have stopped it?", sentence, head, rows)


def text(found: Mapping[str, Any]) -> str:
    """The tables for a terminal, each with its first rows."""
    blocks = []
    for table in tables(found):
        lines = [table.question, f"  {table.sentence}"]
        shown = table.rows[:LINES]
        if shown:
            widths = [max(len(row[i]) for row in (table.head, *shown)) for i in range(len(table.head))]
            for row in (table.head, *shown):
                lines.append("  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
        if len(table.rows) > LINES:
            lines.append(f"  ... and {len(table.rows) - LINES} more (page)")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _critic_heads(found: Mapping[str, Any]) -> list[str]:
    return [f"Q {of}, {critic}" for critic in found["critics"] for of in ("recorded", "played")]


def _number(value: float | None, form: str, scale: float = 1.0) -> str:
    return "" if value is None else format(scale * value, form)
