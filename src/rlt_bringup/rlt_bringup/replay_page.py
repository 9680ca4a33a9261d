"""The answers about played-back episodes as one self-contained page, in the look of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rlt_bringup import replay_figures
from rlt_bringup.html_page import Raw, document, html_table, html_tile
from rlt_bringup.replay_plan import BOUNDARY, CHUNK, STRIDED
from rlt_bringup.replay_tables import Table, another, jumped, late, limited
from rlt_common.atomic import write_atomic

ROWS = 25
"""Of a table; the rest is in the JSON."""


def write_page(found: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the page of these episodes (`replay_answers.answer`) atomically."""
    write_atomic(path, render(found).encode())


def render(found: Sequence[Mapping[str, Any]]) -> str:
    """The page. Equal answers give equal pages."""
    title = f"Replay of {len(found)} episodes" if len(found) > 1 else f"Replay of episode {found[0]['episode_id']}"
    body = [f"<h1>{escape(title)}</h1>", _summary(found)]
    if len(found) > 1:
        body.append(_contents(found))
    body += [_episode(one, several=len(found) > 1) for one in found]
    return document(title, "\n".join(body))


def _summary(found: Sequence[Mapping[str, Any]]) -> str:
    rows = [row for one in found for row in one["messages"] if row["judged"]]
    chunks = [row for row in rows if row["kind"] == CHUNK]
    outputs = [row for row in rows if row["kind"] == BOUNDARY]
    seconds, robot_s = sum(one["seconds"] for one in found), sum(one["robot_seconds"] for one in found)
    tiles = [
        ("the same" if all(one["equal"] for one in found) else "NOT the same", "what had to come back"),
        (_share(chunks), "chunks bit for bit"),
        (_share(outputs), "VLA outputs bit for bit"),
        (str(sum(bool(c.get("jumps")) for one in found for c in one["chunks"])), "jumps"),
        (str(sum(c["late"] for one in found for c in one["late"]["chunks"])), "late chunks"),
        (str(sum(one["limits"]["stopped"] for one in found)), "steps that the limits stop"),
        (f"{robot_s / seconds:.1f}\u202f\u00d7" if seconds else "none", "real time"),
    ]
    return '<div class="tiles">' + "".join(html_tile(*tile) for tile in tiles) + "</div>"


def _share(rows: Sequence[Mapping[str, Any]]) -> str:
    return f"{sum(row['equal'] for row in rows)} of {len(rows)}" if rows else "none"


def _contents(found: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for one in found:
        chunks = [row for row in one["messages"] if row["kind"] == CHUNK and row["judged"]]
        rows.append(
            (
                Raw(f'<a href="#e{one["episode_id"]}">{one["episode_id"]}</a>'),
                one["label"],
                "the same" if one["equal"] else "NOT the same",
                _share(chunks),
                str(sum(bool(c.get("jumps")) for c in one["chunks"])),
                str(sum(c["late"] for c in one["late"]["chunks"])),
                str(one["limits"]["clamped"]),
                str(one["limits"]["stopped"]),
            )
        )
    head = ("Episode", "Label", "Came back", "Chunks bit for bit", "Jumps", "Late", "Cut short", "Stopped")
    return f'<h2>Episodes</h2><div class="scroll">{html_table("", head, rows)}</div>'


def _episode(found: Mapping[str, Any], several: bool) -> str:
    name = f"e{found['episode_id']}"
    kinds = []
    for kind in (BOUNDARY, STRIDED, CHUNK):
        rows = [row for row in found["messages"] if row["kind"] == kind]
        back = [row["max_difference"] for row in rows if row["max_difference"] is not None]
        if rows:
            largest = f"{max(back):.3g}" if back else "none"
            judged = "yes" if rows[0]["judged"] else "no"
            kinds.append(
                (kind, str(len(rows)), str(len(back)), str(sum(row["equal"] for row in rows)), largest, judged)
            )
    head = ("Message", "Recorded", "Came back", "Bit for bit", "Largest difference", "Judged")
    runtime = " and ".join(found["runtime"]["recorded"]) or "not said"
    words = (
        f"{found['bag']}; task {found['task']}, robot {found['robot']}, label {found['label'] or 'none'}, VLA "
        f"{found['vla_hash']}, actor version {found['actor_version'] or 'none'}; recorded on: {runtime}."
    )
    figures = (
        (another, replay_figures.actions, "Dashed: the VLA's reference. Black: recorded. Orange: played now."),
        (jumped, replay_figures.distance_and_q, "Triangles: jumps, with their control step."),
        (late, replay_figures.timing, "Each bar is a chunk: where its time went."),
        (limited, replay_figures.limits, "Each mark is an executed step that a limit cuts short."),
    )
    sections = [_section(table(found), figure(found, name), caption) for table, figure, caption in figures]
    title = f"Episode {found['episode_id']}" if several else "What came back"
    return "\n".join(
        [
            f'<h2 id="{name}">{title}</h2><p class="soft">{escape(words)}</p>',
            *(f'<p class="note">{escape(note)}</p>' for note in found["notes"]),
            f'<div class="scroll">{html_table("", head, kinds)}</div>',
            *sections,
        ]
    )


def _section(table: Table, figure: str, caption: str) -> str:
    drawn = f"<figure>{figure}<figcaption>{escape(caption)}</figcaption></figure>" if figure else ""
    rows = html_table("", table.head, table.rows[:ROWS])
    more = f'<p class="soft">... and {len(table.rows) - ROWS} more.</p>' if len(table.rows) > ROWS else ""
    return (
        f'<h3>{escape(table.question)}</h3><p>{escape(table.sentence)}</p>{drawn}<div class="scroll">{rows}</div>{more}'
    )
